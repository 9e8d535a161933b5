"""What a trial costs besides its training: warm worker groups beside a `TorchTrainer.fit` in each trial.

    python benchmarks/bench_trial_overhead.py [--workers 1 2] [--trials 20] [--train-in-tune-trials 20]

Both sides run the same trials with the same searcher and scheduler and an empty training function, one after the
other in one run. The time of a trial is that from the end of one to the end of the next, one trial at a time.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuning.cluster.ray_cluster import ray_cluster, set_environment

set_environment()
logging.getLogger("ray").setLevel(logging.ERROR)

import ray  # noqa: E402  (Ray reads its settings when it is imported)
from ray import train, tune  # noqa: E402

from kobert_core.config import Objective  # noqa: E402
from kobert_core.runtime import Report  # noqa: E402
from search_spaces.distributions import Space  # noqa: E402
from tuning.search.driver_only import DriverOnly  # noqa: E402
from tuning.search.optuna_study import open_optuna_study  # noqa: E402
from tuning.search.schedulers import make_scheduler  # noqa: E402
from tuning.search.searcher import OptunaSearcher  # noqa: E402
from tuning.study import ResourcesConfig, SchedulerConfig, SearchConfig  # noqa: E402
from tuning.workers.trial import make_tuner  # noqa: E402
from tuning.workers.worker_groups import WorkerGroups  # noqa: E402

OBJECTIVE = Objective(metric="eval/accuracy", mode="max")
SEARCH = SearchConfig()
SPACE = Space.from_dict({"optim.backbone_lr": {"distribution": "log_uniform", "min": 1e-5, "max": 1e-3}})


class Ends(DriverOnly, tune.Callback):
    """Notes when trials end."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def on_trial_complete(self, **_: Any) -> None:
        self.times.append(time.perf_counter())

    def gaps(self) -> Iterator[float]:
        """Seconds from the start to the end of the first trial, then from each end to the next."""
        for before, after in zip(self.times, self.times[1:], strict=False):
            yield after - before


def parts(folder: Path) -> tuple[OptunaSearcher, Any]:
    """A searcher and a scheduler."""
    study = open_optuna_study(folder, name="bench", objective=OBJECTIVE, search=SEARCH, resume=False)
    scheduler = make_scheduler(SchedulerConfig(), metric="objective", mode="max", space=SPACE, search=SEARCH)
    return OptunaSearcher(study, SPACE, SEARCH, OBJECTIVE), scheduler


def no_training(runtime: Any, *, trial: int, values: dict[str, Any]) -> None:
    """One report, at once."""
    metrics = {"eval/accuracy": values["optim.backbone_lr"]}
    runtime.report(Report(progress=100, step=1, metrics=metrics, is_best=True, checkpoint=None))


def warm_groups(workers: int, trials: int, folder: Path) -> tuple[float, list[float]]:
    """Seconds until the group is ready, and those of each trial."""
    begin = time.perf_counter()
    groups = WorkerGroups(1, ResourcesConfig(workers=workers), storage=folder)
    groups.wait_until_ready()
    start = time.perf_counter() - begin
    searcher, scheduler = parts(folder)
    ends = Ends()
    make_tuner(
        groups,
        no_training,
        {},
        metric=OBJECTIVE.metric,
        configs=searcher,
        scheduler=scheduler,
        trials=trials,
        storage=folder,
        callbacks=[ends],
    ).fit()
    groups.close()
    return start, list(ends.gaps())


def no_training_of_train(config: dict[str, Any]) -> None:
    """The same in Ray Train's own words."""
    if train.get_context().get_world_rank() == 0:
        report = {"objective": config["optim.backbone_lr"], "progress": 100}
        train.report(report)
    else:
        train.report({})


def train_in_tune(workers: int, trials: int, folder: Path) -> list[float]:
    """Seconds of each trial, as Ray's documentation has it: a trial is a function that calls `TorchTrainer.fit`."""
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            no_training_of_train,
            train_loop_config=config["values"],
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            run_config=train.RunConfig(
                name=f"trial-{config['trial']}", storage_path=str(folder), callbacks=[TuneReportCallback()]
            ),
        ).fit()

    searcher, scheduler = parts(folder)
    ends = Ends()
    tune.Tuner(
        tune.with_resources(trial, {"memory": 1}),
        tune_config=tune.TuneConfig(
            num_samples=trials, max_concurrent_trials=1, search_alg=searcher, scheduler=scheduler
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), callbacks=[ends], verbose=0),
    ).fit()
    return list(ends.gaps())


def main(workers: Sequence[int], trials: int, train_in_tune_trials: int) -> None:
    """Both sides for each size of a group."""
    print("workers  side              start of the first  a trial more: median   max   trials")
    for size in workers:
        with tempfile.TemporaryDirectory() as name, ray_cluster(None):
            start, gaps = warm_groups(size, trials, Path(name))
            row(size, "warm group", start + gaps[0], gaps[1:])
        # With the dashboard: without it a trial that Tune stops may keep its workers' resources for ever.
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        with tempfile.TemporaryDirectory() as name, ray.init(include_dashboard=True, **quiet):
            theirs = train_in_tune(size, train_in_tune_trials, Path(name))
            row(size, "Train in Tune", theirs[0], theirs[1:])
        ratio = statistics.median(theirs[1:]) / statistics.median(gaps[1:])
        print(f"{size:7}  a trial costs {ratio:.0f} times less", flush=True)


def row(workers: int, side: str, first: float, others: Sequence[float]) -> None:
    """One side of the table."""
    median, maximum = statistics.median(others), max(others)
    print(f"{workers:7}  {side:16}  {first:16.1f} s  {median:19.3f} s {maximum:6.2f} s {len(others) + 1:5}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="sizes of groups")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--train-in-tune-trials", type=int, default=20, help="of the other side: each takes long")
    given = parser.parse_args()
    main(given.workers, given.trials, given.train_in_tune_trials)
