"""Schedulers by name. Their time is the percentage of a trial's own steps, so that trials of any length compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from search_spaces.distributions import Space
from tuning.study import SchedulerConfig, SearchConfig
from tuning.study.objectives import Further
from tuning.sweep_dir.trial_table import TrialRecord

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

HYPERBAND_BRACKETS = 3


def make_scheduler(
    config: SchedulerConfig,
    *,
    metric: str,
    mode: str,
    space: Space,
    search: SearchConfig,
    folds: int | None = None,
    earlier: Iterable[TrialRecord] = (),
    further: Further = (),
) -> TrialScheduler:
    """The Ray Tune scheduler that a study names; `pbt` perturbs values within its space.

    Schedulers that compare trials get the curves of the `earlier` ones, from before an interruption. Where a trial
    reports after each of so many `folds`, no other moment is a rung. One that breaks for good a constraint in `further`
    is stopped at its first report, and no other is compared with it.
    """
    from ray.tune.schedulers import FIFOScheduler

    from tuning.search.early_stopping import CLOCK, Asha, Median
    from tuning.search.promotion import Promotion

    common = {"time_attr": CLOCK, "metric": metric, "mode": mode}
    grace = first_rung(config.grace_percent, folds)
    if config.name in ("asha", "hyperband"):
        return Asha(
            earlier,
            baselines=search.baselines,
            further=further,
            seed=search.seed,
            max_t=100,
            grace_period=grace,
            reduction_factor=config.reduction_factor,
            # Hyperband's brackets, each with a later first rung. Ray's synchronous HyperBand stops nothing unless a
            # whole bracket of trials is alive at once, which takes more groups than most clusters have.
            brackets=1 if config.name == "asha" else HYPERBAND_BRACKETS,
            **common,
        )
    if config.name == "promotion":
        return Promotion(
            earlier,
            baselines=search.baselines,
            further=further,
            rungs=rungs_of(config, folds) or [],
            factor=config.reduction_factor,
            metric=metric,
            mode=mode,
        )
    if config.name == "median":
        return Median(earlier, baselines=search.baselines, further=further, grace_period=grace, **common)
    if config.name == "pbt":
        from tuning.search.population import Population

        return Population(space, search, interval=config.interval_percent, metric=metric, mode=mode, clock=CLOCK)
    return FIFOScheduler()


def rungs_of(config: SchedulerConfig, folds: int | None = None) -> list[int] | None:
    """The percentages of its own steps at which a trial is judged; None for a scheduler without such rungs.

    Each is `reduction_factor` times the one before. With `promotion` a trial goes on to its end from the last one that
    leaves as many times as much to be done; `asha` has one more.
    """
    if config.name not in ("asha", "hyperband", "promotion"):
        return None
    factor, first = config.reduction_factor, first_rung(config.grace_percent, folds)
    rungs = list(itertools.takewhile(lambda rung: rung < 100, (first * factor**k for k in itertools.count())))
    return rungs if config.name != "promotion" else rungs[:1] + [rung for rung in rungs[1:] if rung * factor <= 100]


def first_rung(grace_percent: int, folds: int | None) -> int:
    """The progress before which no trial is stopped: this percentage, or after the fewest folds that are as much."""
    if folds is None:
        return grace_percent
    return next(done for fold in range(1, folds + 1) if (done := 100 * fold // folds) >= grace_percent)
