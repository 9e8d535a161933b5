"""Whether stopping early was safe, and what it saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from kobert_core.config import Objective
from tuning.search.schedulers import rungs_of as scheduler_rungs
from tuning.study import SchedulerConfig
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord

MOST_RUNGS = 12


class Rung(NamedTuple):
    """What a look at the trials at one point of their training says of their ends."""

    percent: int
    reached: int
    """Trials that have a value there."""
    stopped: int
    """Trials that were stopped there."""
    ended: int
    """Trials with a value there that ran to their ends: the correlation is over these."""
    correlation: float | None
    """Spearman's, of the value there and the one at the end; None where it is not defined."""
    place_of_winner: int | None
    """By the value there, of all that reached it."""


def rungs_of(scheduler: SchedulerConfig, records: Sequence[TrialRecord], folds: int | None = None) -> list[int]:
    """The percentages of a trial's steps at which it may be stopped; of a scheduler without rungs, those at which
    trials were evaluated."""
    if (rungs := scheduler_rungs(scheduler, folds)) is not None:
        return rungs
    points = sorted({progress for record in records for progress in record.curve if progress < 100})
    return points[:: max(1, math.ceil(len(points) / MOST_RUNGS))]


def value_at(record: TrialRecord, percent: int) -> float | None:
    """The objective at the first evaluation that is not before this percentage; at 100 that of the best checkpoint."""
    if percent >= 100:
        return record.value if record.state == TrialState.COMPLETE else None
    found = min((progress for progress in record.curve if progress >= percent), default=None)
    return None if found is None or not math.isfinite(record.curve[found]) else record.curve[found]


def look_at_rungs(
    records: Sequence[TrialRecord], rungs: Sequence[int], objective: Objective, winner: TrialRecord | None
) -> list[Rung]:
    """One entry a rung that some trial has reached."""
    return [
        _look_at(records, rung, following, objective, winner)
        for rung, following in zip(rungs, [*rungs[1:], 100], strict=True)
        if any(value_at(record, rung) is not None for record in records)
    ]


def _look_at(
    records: Sequence[TrialRecord], rung: int, following: int, objective: Objective, winner: TrialRecord | None
) -> Rung:
    values = {record.trial: value for record in records if (value := value_at(record, rung)) is not None}
    whole = [record for record in records if record.state == TrialState.COMPLETE and record.trial in values]
    stopped = sum(record.state == TrialState.PRUNED and rung <= record.progress < following for record in records)
    place = None
    if winner is not None and winner.trial in values:
        own = values[winner.trial]
        place = 1 + sum(objective.is_better(value, than=own) for value in values.values())
    correlation = spearman([values[record.trial] for record in whole], [record.value or 0.0 for record in whole])
    return Rung(rung, len(values), stopped, len(whole), correlation, place)


def spearman(before: Sequence[float], after: Sequence[float]) -> float | None:
    """The rank correlation; None for fewer than three pairs, or where one side is all the same."""
    from scipy.stats import spearmanr

    if len(before) < 3 or len(set(before)) == 1 or len(set(after)) == 1:
        return None
    return float(spearmanr(before, after).statistic)


def seconds_saved(records: Sequence[TrialRecord]) -> float:
    """About how many seconds the trials that were stopped would have taken more, at the pace that they had."""
    stopped = [record for record in records if record.state == TrialState.PRUNED and record.progress]
    return sum(record.seconds * (100 / record.progress - 1) for record in stopped)
