"""Ray Tune's schedulers that stop trials early, for a sweep that is resumed.

The reports of earlier sessions are in the ledger. They are replayed to the scheduler in their order, so that trials
that run one at a time are judged as if there had been no interruption.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from kobert_core.config import MODEL_COSTS
from tuning.study.objectives import Further, cannot_win
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.schedulers.async_hyperband import _Bracket as Bracket

CLOCK = "progress"
"""Ray Tune's time attribute: percent of a trial's own steps."""
Points = list[tuple[int, float]]
"""Progress and objective."""


class ReplayingScheduler(TrialScheduler):
    """What both have in common. A resumed trial repeats its last report and is judged by it again. Baselines are never
    stopped, so that every trial can be compared with them; their reports still count when other trials are judged.

    A trial that breaks a constraint for good, by the shape of its model, cannot win: it is stopped at its first report,
    and counts for no other trial. Otherwise models that are too large to win would stop smaller ones.
    """

    def _replay(self, earlier: Iterable[TrialRecord], baselines: Collection[int], further: Further) -> None:
        self._baselines, self._further = baselines, further
        self._unfinished: dict[int, Points] = {}
        for record in earlier:
            if cannot_win(record.metrics, further) and record.curve:
                continue
            if not record.has_ended:
                self._unfinished[record.trial] = list(record.curve.items())
            else:
                self._record(cast(TuneTrial, TrialStandIn(record.trial)), points_of(record))

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Judge a trial at its report."""
        if self._is_out(result):
            return TrialScheduler.CONTINUE if trial.config["trial"] in self._baselines else TrialScheduler.STOP
        self._catch_up(trial, result)
        if trial.config["trial"] in self._baselines:
            assert self._metric is not None
            self._record(trial, [(result[CLOCK], result[self._metric])])
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        """A trial ends."""
        if self._is_out(result):
            return
        self._catch_up(trial, result)
        super().on_trial_complete(tune_controller, trial, result)

    def _is_out(self, result: dict[str, Any]) -> bool:
        """By what Ray Tune makes of a `TrialResult`: it gives a scheduler nested values as one level."""
        names = {name: f"report/metrics/{name}" for name in MODEL_COSTS}
        metrics = {name: result[key] for name, key in names.items() if key in result}
        return bool(self._further) and cannot_win(metrics, self._further)

    def _catch_up(self, trial: TuneTrial, result: dict[str, Any]) -> None:
        known = self._unfinished.pop(trial.config["trial"], [])
        self._record(trial, [point for point in known if point[0] < result[CLOCK]])

    def _record(self, trial: TuneTrial, points: Points) -> None:
        """Record points of a trial without judging it by them."""
        raise NotImplementedError


class Asha(ReplayingScheduler, ASHAScheduler):
    """Ray's ASHA, with the rungs of earlier sessions. A trial's bracket depends on the seed and its number alone."""

    def __init__(
        self,
        earlier: Iterable[TrialRecord],
        *,
        baselines: Collection[int],
        further: Further = (),
        seed: int,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._seed = seed
        self._replay(earlier, baselines, further)

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial begins or goes on."""
        super().on_trial_add(tune_controller, trial)
        self._trial_info[trial.trial_id] = self._bracket_of(trial)

    def _record(self, trial: TuneTrial, points: Points) -> None:
        assert self._metric_op is not None
        for progress, value in points:
            self._bracket_of(trial).on_result(trial, progress, self._metric_op * value)

    def _bracket_of(self, trial: TuneTrial) -> Bracket:
        sizes = np.array([len(bracket._rungs) for bracket in self._brackets])
        weights = np.exp(sizes - sizes.max())
        generator = np.random.default_rng([self._seed, trial.config["trial"]])
        return self._brackets[generator.choice(len(self._brackets), p=weights / weights.sum())]


class Median(ReplayingScheduler, MedianStoppingRule):
    """Ray's median rule, with the curves of earlier sessions."""

    def __init__(
        self, earlier: Iterable[TrialRecord], *, baselines: Collection[int], further: Further = (), **options: Any
    ) -> None:
        super().__init__(**options)
        self._replay(earlier, baselines, further)

    def _record(self, trial: TuneTrial, points: Points) -> None:
        if points:  # a trial without results would count as one
            self._results[trial] += [{CLOCK: progress, self._metric: value} for progress, value in points]


class TrialStandIn:
    """What schedulers ask of a trial of Ray Tune: in the place of one that ended in an earlier session, or of none."""

    def __init__(self, trial: int) -> None:
        self.trial_id, self.config = f"stands in for {trial}", {"trial": trial}


def points_of(record: TrialRecord) -> Points:
    """The points of an ended trial. Ray Tune reports the last point of a trial that it stopped twice."""
    points = list(record.curve.items())
    return points + points[-1:] if record.state == TrialState.PRUNED else points
