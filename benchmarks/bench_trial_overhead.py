"""What a trial costs besides its training: Ray Tune, the searcher and a warm worker group, with an empty training.

    python benchmarks/bench_trial_overhead.py [TRIALS] [WORKERS]

Prints the start of the group, and the median time from the end of one trial to the end of the next.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tuning.cluster import ray_cluster, set_environment

set_environment()
logging.getLogger("ray").setLevel(logging.ERROR)

from ray.tune import Callback  # noqa: E402  (Ray reads its settings when it is imported)

from kobert_core.config import Objective  # noqa: E402
from search_spaces.distributions import Space  # noqa: E402
from tuning.driver_only import DriverOnly  # noqa: E402
from tuning.schedulers import make_scheduler  # noqa: E402
from tuning.search import OptunaSearcher, open_optuna_study  # noqa: E402
from tuning.study import ResourcesConfig, SchedulerConfig, SearchConfig  # noqa: E402
from tuning.trial import make_tuner  # noqa: E402
from tuning.worker_group import WorkerGroups  # noqa: E402


def no_training(runtime: Any, *, trial: int, values: dict[str, Any]) -> None:
    """One report, at once."""
    runtime.report({"metrics": {"eval/accuracy": values["optim.backbone_lr"]}, "progress": 100})


class Ends(DriverOnly, Callback):
    """Notes when trials end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_trial_complete(self, **_: Any) -> None:
        self.times.append(time.perf_counter())


def main(trials: int, workers: int) -> None:
    search, objective = SearchConfig(), Objective(metric="eval/accuracy", mode="max")
    space = Space.from_dict({"optim.backbone_lr": {"distribution": "log_uniform", "min": 1e-5, "max": 1e-3}})
    with tempfile.TemporaryDirectory() as name, ray_cluster(None):
        folder, ends, begin = Path(name), Ends(), time.perf_counter()
        groups = WorkerGroups(1, ResourcesConfig(workers=workers), storage=folder)
        groups.wait_until_ready()
        start = time.perf_counter() - begin
        study = open_optuna_study(folder, name="bench", objective=objective, search=search, resume=False)
        make_tuner(
            groups,
            no_training,
            {},
            metric=objective.metric,
            searcher=OptunaSearcher(study, space, search, objective),
            scheduler=make_scheduler(SchedulerConfig(), metric="objective", mode=objective.mode),
            trials=trials,
            storage=folder,
            callbacks=[ends],
        ).fit()
        groups.close()
    gaps = [later - earlier for earlier, later in zip(ends.times, ends.times[1:], strict=False)]
    print(f"a group of {workers}: started in {start:.1f} s; {len(ends.times)} trials")
    print(f"a trial after the first adds {statistics.median(gaps):.3f} s (median), {max(gaps):.3f} s (maximum)")


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["20", "1"][len(sys.argv) - 1 :])))
