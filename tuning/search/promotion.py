"""Asynchronous successive halving that promotes (Li et al., "A System for Massively Parallel Hyperparameter Tuning",
MLSys 2020, algorithm 2): a trial pauses at each rung, and a free worker first takes up the best of those that wait.

`asha` decides when a trial comes to a rung, by those that were there before it. Here one that was passed over goes on
once those that came later are no better.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tuning.search.early_stopping import CLOCK, Points, ReplayingScheduler
from tuning.study.objectives import Further, cannot_win
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


class Rungs:
    """Who came to which rung with which value, and who waits there. Values are better when higher."""

    def __init__(self, rungs: Sequence[int], factor: int) -> None:
        """For these percentages, from the lowest on; one of `factor` trials goes on from each."""
        self._factor = factor
        self._values: dict[int, dict[int, float]] = {rung: {} for rung in rungs}
        self._past: set[tuple[int, int]] = set()
        self._waiting: dict[int, int] = {}

    @property
    def waiting(self) -> list[int]:
        """The trials that are paused, by their numbers."""
        return sorted(self._waiting)

    def pauses(self, trial: int, percent: int, value: float) -> bool:
        """Whether a trial pauses at a report: at its first one in a rung, unless it is the next to be promoted."""
        rung = self._rung_of(percent)
        if rung is None or (rung, trial) in self._past:
            return False
        self._values[rung].setdefault(trial, value)
        self._waiting[trial] = rung
        if self._next() != (rung, trial):
            return True
        self.promote()
        return False

    def promote(self) -> int | None:
        """The trial that a free worker is to train further, which waits no more; None when there is none."""
        found = self._next()
        if found is None:
            return None
        self._past.add(found)
        del self._waiting[found[1]]
        return found[1]

    def replay(self, trial: int, points: Points, *, waits: bool = False) -> None:
        """What is known of a trial, whether or not it is being trained; `waits`: it is paused at the last point."""
        for percent, value in points:
            rung = self._rung_of(percent)
            if rung is None:
                continue
            if trial in self._values[rung]:
                self._past.add((rung, trial))
            self._values[rung].setdefault(trial, value)
            if waits:
                self._waiting[trial] = rung

    def _rung_of(self, percent: int) -> int | None:
        """The highest rung that is reached there; None before the first one, and at a trial's end."""
        return max((rung for rung in self._values if rung <= percent < 100), default=None)

    def _next(self) -> tuple[int, int] | None:
        for rung, values in reversed(self._values.items()):
            best = sorted(values, key=lambda trial: (-values[trial], trial))[: len(values) // self._factor]
            for trial in best:
                if self._waiting.get(trial) == rung:
                    return rung, trial
        return None


class Promotion(ReplayingScheduler, FIFOScheduler):
    """The rule for Ray Tune, which sees a pause as the end of a trial, and a promotion as another one that goes on from
    the checkpoint of the first: `OptunaSearcher` hands it out. So a group is free at once, and what an earlier session
    has paused goes on in the same way as what this one has.

    After an interruption the rungs are those of the ledger. Of a trial that had reported at a rung, and neither paused
    nor come any further, it is not known whether it had been promoted: it is judged when it repeats its last report.
    """

    def __init__(
        self,
        earlier: Iterable[TrialRecord],
        *,
        baselines: Collection[int],
        further: Further,
        rungs: Sequence[int],
        factor: int,
        metric: str,
        mode: str,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._metric, self._sign, self._rungs = metric, 1 if mode == "max" else -1, Rungs(rungs, factor)
        self._baselines, self._further, self._unfinished = baselines, further, {}
        for record in earlier:
            if not cannot_win(record.metrics, further):
                points = self._signed(record.curve.items())
                self._rungs.replay(record.trial, points, waits=record.state == TrialState.PAUSED)

    @property
    def waiting(self) -> list[int]:
        """The trials that are paused, by their numbers."""
        return self._rungs.waiting

    def promote(self) -> int | None:
        """The trial that a free group is to train further; None when there is none."""
        return self._rungs.promote()

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Judge a trial at its report: it is stopped where it pauses."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        number = trial.config["trial"]
        assert self._metric is not None
        if decision == TrialScheduler.CONTINUE and number not in self._baselines:
            ((percent, value),) = self._signed([(result[CLOCK], result[self._metric])])
            return TrialScheduler.STOP if self._rungs.pauses(number, percent, value) else TrialScheduler.CONTINUE
        return decision

    def _record(self, trial: TuneTrial, points: Points) -> None:
        self._rungs.replay(trial.config["trial"], self._signed(points))

    def _signed(self, points: Iterable[tuple[int, float]]) -> Points:
        return [(percent, self._sign * value) for percent, value in points]
