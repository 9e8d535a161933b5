"""Worker groups on a real Ray: they stay warm, fail alone, stop when told, and leave nothing behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kobert_core.runtime import Report, Runtime
from tests.fixtures.runtimes import CHECKS
from tuning.cluster.ray_cluster import ray_cluster, set_environment
from tuning.sweep.background import in_background

set_environment()

from tuning.study import ResourcesConfig  # noqa: E402
from tuning.workers import group_trainer  # noqa: E402
from tuning.workers.broker import packed  # noqa: E402
from tuning.workers.group_runtime import as_content  # noqa: E402
from tuning.workers.worker_groups import Wanted, WorkerGroups  # noqa: E402  (Ray reads its settings when it is imported)
from tuning.workers.worker_pool import WorkerPool  # noqa: E402


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


def report_at(progress: int, **metrics: float) -> Report:
    return Report(progress=progress, step=progress, metrics=metrics, is_best=False, checkpoint=None)


def report_until_stopped(runtime: Any) -> int:
    for number in range(1000):
        runtime.report(report_at(number))
        for _ in range(10):
            if runtime.should_stop():
                return number
    return -1


@pytest.fixture(scope="module")
def groups(trainer: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerGroups]:
    with ray_cluster(None):
        groups = WorkerGroups(1, ResourcesConfig(), storage=tmp_path_factory.mktemp("ray"))
        groups.wait_until_ready()
        yield groups
        groups.close()
        assert nothing_is_left()


def nothing_is_left() -> bool:
    """Whether all CPUs are free again, within a minute."""
    import ray

    for _ in range(600):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("check", CHECKS)
def test_a_group_is_a_runtime(check: Callable[[Runtime], None], groups: WorkerGroups) -> None:
    groups.run(check)


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

    broker = groups.broker
    number = ray.get(broker.submit.remote(packed(report_until_stopped)))
    for expected in range(3):
        assert ray.get(broker.take.remote(number)) == ("report", as_content(report_at(expected)))
    time.sleep(0.3)  # nobody asks for more: the task waits for a decision
    ray.get(broker.stop.remote(number))
    assert ray.get(broker.take.remote(number)) == ("value", 2)


def test_a_task_that_nobody_can_stop_any_more_is_stopped_by_its_owner(groups: WorkerGroups) -> None:
    """As when Ray Tune kills a trial's actor: the group is free again, and what waited for it is not begun."""
    import ray

    broker = groups.broker
    number = ray.get(broker.submit.remote(packed(report_until_stopped), 7))
    assert ray.get(broker.take.remote(number)) == ("report", as_content(report_at(0)))
    waiting = broker.submit.remote(packed(process), 8)
    while not ray.get(broker.is_awaited.remote()):
        time.sleep(0.01)  # calls of an actor may overtake each other
    ray.get([broker.stop_owned_by.remote(8), broker.stop_owned_by.remote(7)])
    with pytest.raises(ray.exceptions.RayTaskError, match="stopped before it began"):
        ray.get(waiting)
    assert groups.run(process) > 0


def test_what_waits_when_all_is_stopped_is_not_tried_again(groups: WorkerGroups, tmp_path: Path) -> None:
    """As when a sweep is interrupted: nobody starts other groups for it."""
    import ray

    class Pool(WorkerPool):
        def _start(self) -> WorkerGroups:
            return groups

    said: list[str] = []
    wanted = Wanted(groups=1, room=1)
    pool = Pool(lambda others: wanted, ResourcesConfig(), storage=tmp_path, modules=[], say=said.append)
    number = ray.get(groups.broker.submit.remote(packed(report_until_stopped)))
    waiting = in_background(lambda: pool.run(process))
    while not ray.get(groups.broker.is_awaited.remote()):
        time.sleep(0.01)
    pool.stop_all()
    with pytest.raises(RuntimeError, match=r"^the task was stopped before it began$"):
        waiting.result(30)
    while ray.get(groups.broker.take.remote(number))[0] == "report":
        pass
    assert not said and pool.run(process) > 0


def test_a_start_that_nobody_waits_for_is_cancelled(groups: WorkerGroups, tmp_path: Path) -> None:
    """There is no room for it, so it would wait for ever."""
    import ray

    cores = int(ray.cluster_resources()["CPU"])
    others = WorkerGroups(1, ResourcesConfig(workers=cores), storage=tmp_path)
    ray.get(others.broker.is_awaited.remote())  # its broker is up
    others.close()
    assert not any(thread.is_alive() for thread in others._threads)
    assert groups.run(process) > 0


def test_starts_that_wait_end_at_once_without_a_broker(groups: WorkerGroups, tmp_path: Path) -> None:
    import ray

    cores = int(ray.cluster_resources()["CPU"])
    others = WorkerGroups(lambda: Wanted(groups=4, room=1), ResourcesConfig(workers=cores), storage=tmp_path)
    while len(others._trainers) < 4 or None in others._trainers.values():
        time.sleep(0.1)
    ray.kill(others.broker)
    begin, patience = time.monotonic(), 60.0
    others.close(patience)
    assert time.monotonic() - begin < patience, "nobody waits for one after the other"
    assert groups.run(process) > 0


class OneBadMachine(WorkerGroups):
    """There is room for one group, and else a machine where none can start."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._good = threading.Lock()
        super().__init__(*arguments, **options)

    def _run_group(self, group: str) -> str:
        if not self._good.acquire(blocking=False):
            return "the machine is broken"
        try:
            return super()._run_group(group)
        finally:
            self._good.release()


def test_a_machine_that_starts_no_group_takes_no_trial(groups: WorkerGroups, tmp_path: Path) -> None:
    """The groups that others run do not end for it, however many wait to take its place."""
    others = OneBadMachine(lambda: Wanted(groups=10, room=2), ResourcesConfig(), storage=tmp_path, max_tasks=1)
    try:
        others.wait_until_ready()
        while others._given_up < 9:
            time.sleep(0.1)
        assert others.run(process) != others.run(process), "another group has taken the place of the one that has ended"
    finally:
        others.close()
    assert groups.run(process) > 0


@pytest.mark.slow
def test_a_machine_without_the_sweeps_files_takes_no_task(groups: WorkerGroups, tmp_path: Path) -> None:
    others = WorkerGroups(1, ResourcesConfig(), storage=tmp_path, needs=tmp_path / "study.yaml")
    try:
        with pytest.raises(RuntimeError, match=r"does not have .*study\.yaml: the sweep's folder must be a shared one"):
            others.wait_until_ready()
    finally:
        others.close()
    assert groups.run(process) > 0


@pytest.mark.slow
def test_groups_come_when_there_is_room_and_go_when_nothing_is_left_to_do(groups: WorkerGroups, tmp_path: Path) -> None:
    """One waits for room that another one has; what it asked for is gone with it."""
    import ray

    if group_trainer.trainer_class() is group_trainer.StockTorchTrainer:
        pytest.skip("Ray Train's own asks for room twice: groups that wait may overtake it")
    cores = int(ray.cluster_resources()["CPU"])
    wanted = [Wanted(groups=cores + 1, room=cores)]
    elastic = WorkerGroups(lambda: wanted[0], ResourcesConfig(), storage=tmp_path)
    try:
        elastic.wait_until_ready()
        wanted[0] = Wanted(groups=0, room=cores, kept=1)
        deadline = time.monotonic() + 60
        while len(elastic._trainers) > 1 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert len(elastic._trainers) == 1, "those that wait, and those that are idle, have ended"
        assert elastic.run(process) > 0
    finally:
        elastic.close()
    assert groups.run(process) > 0
