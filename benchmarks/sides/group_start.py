"""The start of worker groups: from `WorkerGroups` to the end of a first task that does nothing.

`seconds` is the wall time, `cpu_seconds` what this process, Ray and the workers used of the processor meanwhile, which
depends less on what else the machine does. Ray itself is up before, and this process has imported what it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

import psutil
from common import empty_folder, give

from tuning.cluster.ray_cluster import ray_cluster, set_environment

set_environment()

from tuning.study import ResourcesConfig  # noqa: E402  (Ray reads its settings when it is imported)
from tuning.workers import group_trainer  # noqa: E402
from tuning.workers.worker_groups import WorkerGroups  # noqa: E402


def cpu_seconds() -> float:
    """Of this process and all below it."""
    total, this = 0.0, psutil.Process()
    for each in [this, *this.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            used = each.cpu_times()
            total += used.user + used.system
    return total


def start_groups(groups: int, folder: Path) -> tuple[float, float, int]:
    """Start groups of one worker and run a task: seconds, CPU seconds, and the processes that are there more."""
    began, cpu_before, before = time.perf_counter(), cpu_seconds(), len(psutil.Process().children(recursive=True))
    worker_groups = WorkerGroups(groups, ResourcesConfig(), storage=folder)
    for _ in range(groups):
        worker_groups.run(lambda runtime: time.sleep(0))
    figures = time.perf_counter() - began, cpu_seconds() - cpu_before
    processes = len(psutil.Process().children(recursive=True)) - before
    worker_groups.close()
    return *figures, processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", choices=["in-process", "stock"], required=True)
    parser.add_argument("--groups", type=int, required=True)
    given = parser.parse_args()
    trainer = group_trainer.StockTorchTrainer if given.trainer == "stock" else group_trainer.trainer_class()
    group_trainer.trainer_class = lambda: trainer  # type: ignore[assignment]
    with ray_cluster(None):
        seconds, cpu, processes = start_groups(given.groups, empty_folder(f"start-{given.trainer}-{given.groups}"))
    give(
        {
            "side": f"{trainer.__name__}, {given.groups} group(s)",
            "seconds": seconds,
            "cpu_seconds": cpu,
            "processes": processes,
        }
    )


if __name__ == "__main__":
    main()
