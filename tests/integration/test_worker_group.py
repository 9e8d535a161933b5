"""Worker groups on a real Ray: they stay warm, fail alone, stop when told, and leave nothing behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tuning.cluster import ray_cluster, set_environment

set_environment()

from tuning.study import ResourcesConfig  # noqa: E402
from tuning.worker_group import WorkerGroups  # noqa: E402  (Ray reads its settings when it is imported)


def process(runtime: Any) -> int:
    return os.getpid()


def fail(runtime: Any) -> None:
    raise ValueError("this task cannot work")


def leave_traces(runtime: Any) -> None:
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)


def look_around(runtime: Any) -> tuple[int, str, bool]:
    return torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled()


def add_up(runtime: Any) -> tuple[list[float], list[int]]:
    tensors = [torch.full((3,), float(runtime.rank + 1)), torch.full((2, 2), float(runtime.rank), dtype=torch.float64)]
    runtime.add_up(tensors)
    return [float(tensor.sum()) for tensor in tensors], runtime.gather(runtime.rank)


def report_until_stopped(runtime: Any) -> int:
    for number in range(1000):
        runtime.report({"number": number})
        for _ in range(10):
            if runtime.should_stop():
                return number
    return -1


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerGroups]:
    with ray_cluster(None):
        groups = WorkerGroups(1, ResourcesConfig(), storage=tmp_path_factory.mktemp("ray"))
        groups.wait_until_ready()
        yield groups
        groups.close()
        assert nothing_is_left()


def nothing_is_left() -> bool:
    """Whether all CPUs are free again, within a few seconds."""
    import ray

    for _ in range(50):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return True
        time.sleep(0.1)
    return False


def test_a_group_serves_task_after_task_in_one_process(groups: WorkerGroups) -> None:
    assert len({groups.run(process) for _ in range(5)}) == 1


def test_a_failing_task_fails_alone(groups: WorkerGroups) -> None:
    before = groups.run(process)
    with pytest.raises(RuntimeError, match="this task cannot work"):
        groups.run(fail)
    assert groups.run(process) == before


def test_a_task_leaves_no_traces(groups: WorkerGroups) -> None:
    groups.run(leave_traces)
    assert groups.run(look_around) == (1, "torch.float32", True)


def test_a_stopped_task_ends_at_the_report_that_stopped_it(groups: WorkerGroups) -> None:
    import ray

    exchange = groups.exchange
    number = ray.get(exchange.submit.remote(report_until_stopped, {}))
    for expected in range(3):
        assert ray.get(exchange.take.remote(number)) == ("report", {"number": expected})
    time.sleep(0.3)  # nobody asks for more: the task waits for a decision
    ray.get(exchange.stop.remote(number))
    assert ray.get(exchange.take.remote(number)) == ("value", 2)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs 2 CPUs")
def test_workers_of_a_group_add_up_agree_and_start_anew_after_a_failure(groups: WorkerGroups, tmp_path: Path) -> None:
    import ray

    pair = WorkerGroups(1, ResourcesConfig(workers=2), storage=tmp_path)
    try:
        pair.wait_until_ready()
        assert pair.run(add_up) == ([9.0, 4.0], [0, 1])
        number = ray.get(pair.exchange.submit.remote(report_until_stopped, {}))
        assert ray.get(pair.exchange.take.remote(number)) == ("report", {"number": 0})
        ray.get(pair.exchange.stop.remote(number))
        assert ray.get(pair.exchange.take.remote(number)) == ("value", 0)
        with pytest.raises(RuntimeError, match="this task cannot work"):
            pair.run(fail)
        assert pair.run(add_up) == ([9.0, 4.0], [0, 1])
    finally:
        pair.close()
