"""A group of two workers on a real Ray: they add up, agree, fail together, and start anew when one is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tuning.cluster.ray_cluster import ray_cluster, set_environment

set_environment()

from tests.fixtures.runtimes import CHECKS  # noqa: E402
from tests.integration.test_worker_group import fail, process, report_at, report_until_stopped  # noqa: E402
from tuning.study import ResourcesConfig  # noqa: E402
from tuning.workers.broker import packed  # noqa: E402
from tuning.workers.group_runtime import as_content  # noqa: E402
from tuning.workers.worker_groups import WorkerGroups  # noqa: E402  (Ray reads its settings when it is imported)


def fail_on_rank_1(runtime: Any) -> None:
    if runtime.rank == 1:
        raise ValueError("only this worker fails")
    runtime.all_reduce([torch.ones(1)])


def all_reduce(runtime: Any) -> tuple[list[float], list[int]]:
    tensors = [torch.full((3,), float(runtime.rank + 1)), torch.full((2, 2), float(runtime.rank), dtype=torch.float64)]
    runtime.all_reduce(tensors)
    return [float(tensor.sum()) for tensor in tensors], runtime.all_gather(runtime.rank)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs 2 CPUs")
def test_workers_of_a_group_add_up_agree_and_start_anew_when_one_is_lost(tmp_path: Path) -> None:
    import ray

    with ray_cluster(None):
        pair = WorkerGroups(1, ResourcesConfig(workers=2), storage=tmp_path)
        try:
            pair.wait_until_ready()
            for check in CHECKS:
                pair.run(check)
            assert pair.run(all_reduce) == ([9.0, 4.0], [0, 1])
            number = ray.get(pair.broker.submit.remote(packed(report_until_stopped)))
            assert ray.get(pair.broker.take.remote(number)) == ("report", as_content(report_at(0)))
            ray.get(pair.broker.stop.remote(number))
            assert ray.get(pair.broker.take.remote(number)) == ("value", 0)
            before = pair.run(process)
            with pytest.raises(RuntimeError, match="this task cannot work"):
                pair.run(fail)
            assert pair.run(process) == before, "what fails on all workers alike leaves the group as it was"
            with pytest.raises(RuntimeError, match="only this worker fails"):
                pair.run(fail_on_rank_1)
            assert pair.run(all_reduce) == ([9.0, 4.0], [0, 1]), "one that waits for a lost one is replaced with it"
        finally:
            pair.close()
