"""Worker groups of one, two and three on a real Ray: they agree, share the data, and outlive what befalls a worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tuning.cluster.ray_cluster import ray_cluster, set_environment

set_environment()

from kobert_core.tasks import task_class  # noqa: E402
from kobert_core.training import train  # noqa: E402
from tests.fixtures.nodes import ray_nodes  # noqa: E402
from tests.integration.test_worker_group import process, report_at, report_until_stopped  # noqa: E402
from tests.integration.test_worker_pair import all_reduce  # noqa: E402
from tuning.study import ResourcesConfig, load_study  # noqa: E402
from tuning.workers.broker import packed  # noqa: E402
from tuning.workers.group_runtime import as_content  # noqa: E402
from tuning.workers.worker_groups import WorkerGroups  # noqa: E402  (Ray reads its settings when it is imported)

pytestmark = pytest.mark.slow
QUICKSTART = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"


def signal_rank_1(runtime: Any, number: int) -> None:
    if runtime.rank == 1:
        os.kill(os.getpid(), number)
    runtime.all_reduce([torch.ones(1)])


def sleep_on_rank_1(runtime: Any) -> None:
    if runtime.rank == 1:
        time.sleep(1000)
    runtime.all_reduce([torch.ones(1)])


def train_in_float64(runtime: Any, *, batch_size: int, most: dict[int, int] | None = None) -> dict[str, Any]:
    """An epoch of the quickstart without dropout: its weights, and the metrics of every report.

    `most` says how many examples at once the memory of a rank holds.
    """
    study = load_study(QUICKSTART)
    config = study.train_config(study.example_values())
    changes: dict[str, dict[str, Any]] = {
        "data": {"max_train_examples": 250},  # the last step has 34 examples: not the same number for each of three
        "model": {"dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0},
        "optim": {"batch_size": batch_size, "accumulation": 1},
        "train": {"epochs": 1, "eval_percent": 50},
    }
    config = config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in changes.items()}
    )
    task = task_class(config.task)(config, cache=None)
    build = task.build_model
    task.build_model = lambda: build().double()  # type: ignore[method-assign]
    loss_of, room = task.loss, (most or {}).get(runtime.rank, batch_size)

    def loss(model: Any, batch: Any) -> Any:
        if len(batch.inputs["lengths"]) > room:
            torch.empty(2**50, dtype=torch.uint8)  # what the allocator says of it is real
        return loss_of(model, batch)

    task.loss = loss
    reports: list[dict[str, float]] = []
    sizes: set[int | None] = set()

    class Listening:
        def __getattr__(self, name: str) -> Any:
            return getattr(runtime, name)

        def report(self, report: Any) -> bool:
            reports.append({name: v for name, v in report.metrics.items() if "per_second" not in name})
            sizes.add(report.micro_batch)
            return True

    weights = train(config, task, Listening()).state_dict()
    return {"weights": weights, "reports": reports, "micro_batches": sizes}


def train_with_dropout(runtime: Any, *, folder: str, stop_after: int | None = None) -> dict[str, Any]:
    """An epoch with a checkpoint after each step; all workers are asked to stop after so many of them."""
    study = load_study(QUICKSTART)
    config = study.train_config(study.example_values())
    train_part = config.train.model_copy(update={"epochs": 1, "eval_percent": 50, "checkpoint_interval": 1e-9})
    config = config.model_copy(update={"train": train_part})
    runtime.checkpoints, runtime.resume = Path(folder), True
    reports: list[dict[str, float]] = []

    class Stopping:
        steps = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(runtime, name)

        def report(self, report: Any) -> bool:
            reports.append({name: v for name, v in report.metrics.items() if "per_second" not in name})
            return True

        def should_stop(self) -> bool:
            self.steps += 1
            return self.steps == stop_after

    weights = train(config, task_class(config.task)(config, cache=None), Stopping()).state_dict()
    return {"weights": weights, "reports": reports}


@pytest.fixture(scope="module")
def cluster(trainer: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray with room for six workers, however few cores the machine has."""
    with ray_nodes(tmp_path_factory.mktemp("nodes"), head_cpus=6) as nodes, ray_cluster(nodes.address):
        yield


def test_one_two_and_three_workers_come_to_the_same_weights(cluster: None, tmp_path: Path) -> None:
    """Also when one of two has memory for fewer examples at once: both then cut their parts finer."""
    groups = {n: WorkerGroups(1, ResourcesConfig(workers=n), storage=tmp_path / str(n)) for n in (1, 2, 3)}
    try:
        results = {n: groups[n].run(train_in_float64, batch_size=36 // n) for n in groups}
        results[4] = groups[2].run(train_in_float64, batch_size=18, most={1: 5})
    finally:
        for each in groups.values():
            each.close()
    assert len(results[1]["reports"]) == 2
    assert [results[n]["micro_batches"] for n in (1, 2, 3, 4)] == [{None}, {None}, {None}, {4}]
    for n in (2, 3, 4):
        for name, tensor in results[1]["weights"].items():
            torch.testing.assert_close(results[n]["weights"][name], tensor, rtol=0, atol=1e-10)
        for mine, its in zip(results[n]["reports"], results[1]["reports"], strict=True):
            assert mine == pytest.approx(its, rel=0, abs=1e-10)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_go_on_between_two_evaluations_bit_for_bit(cluster: None, tmp_path: Path, workers: int) -> None:
    groups = WorkerGroups(1, ResourcesConfig(workers=workers), storage=tmp_path / "ray")
    try:
        whole = groups.run(train_with_dropout, folder=str(tmp_path / "whole"))
        groups.run(train_with_dropout, folder=str(tmp_path / "cut"), stop_after=2)
        assert not groups.run(train_with_dropout, folder=str(tmp_path / "cut"), stop_after=1)["reports"]
        rest = groups.run(train_with_dropout, folder=str(tmp_path / "cut"))
    finally:
        groups.close()
    assert rest["reports"] == whole["reports"]
    for name, tensor in whole["weights"].items():
        assert torch.equal(rest["weights"][name], tensor), name


def test_what_befalls_a_worker_ends_its_task_and_not_the_group(cluster: None, tmp_path: Path) -> None:
    import ray

    pair = WorkerGroups(1, ResourcesConfig(workers=2, timeout=5), storage=tmp_path)
    try:
        pair.wait_until_ready()
        number = ray.get(pair.broker.submit.remote(packed(report_until_stopped)))
        assert ray.get(pair.broker.take.remote(number)) == ("report", as_content(report_at(0)))
        time.sleep(8)  # longer than the time-out: a worker that waits for a decision does not hang
        ray.get(pair.broker.stop.remote(number))
        assert ray.get(pair.broker.take.remote(number)) == ("value", 0)
        with pytest.raises(RuntimeError, match="lost"):
            pair.run(signal_rank_1, number=signal.SIGKILL)
        assert pair.run(all_reduce) == ([9.0, 4.0], [0, 1])
        with pytest.raises(RuntimeError, match="worker 0 gave no sign of life for 5 s"):
            pair.run(sleep_on_rank_1)
        assert pair.run(all_reduce) == ([9.0, 4.0], [0, 1])
        with pytest.raises(RuntimeError, match="worker 0 gave no sign of life for 5 s"):
            pair.run(signal_rank_1, number=signal.SIGSTOP)
        assert pair.run(all_reduce) == ([9.0, 4.0], [0, 1])
    finally:
        pair.close()


def test_a_group_is_replaced_by_a_fresh_one_after_its_tasks(cluster: None, tmp_path: Path) -> None:
    groups = WorkerGroups(1, ResourcesConfig(), storage=tmp_path, max_tasks=2)
    try:
        first, second, third = (groups.run(process) for _ in range(3))
        assert first == second != third
    finally:
        groups.close()
