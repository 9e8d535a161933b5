"""Ray Tune's schedulers that compare trials, going on where an earlier session of the sweep ended.

What the trials of that session reported is in the ledger. It is said to the scheduler again, in the words in which it
was said then, so that one trial at a time is judged as if there had been no interruption.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord

CLOCK = "progress"
"""What Ray Tune is told as the time of a result: percent of a trial's own updates."""
Points = list[tuple[int, float]]
"""Progress and objective."""


class Replaying(TrialScheduler):
    """What both have in common: a trial that goes on repeats its last report, and is judged by that again. Baselines
    are never stopped, or a comparison with them would not be one; the others are judged by their reports all the same.
    """

    def _take_up(self, earlier: Iterable[TrialRecord], baselines: Collection[int]) -> None:
        self._baselines = baselines
        self._unfinished: dict[int, Points] = {}
        for record in earlier:
            if not record.has_ended:
                self._unfinished[record.trial] = list(record.curve.items())
            else:
                self._hear(Ended(record.trial), said_of(record))

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Judge a trial at its report."""
        self._catch_up(trial, result)
        if trial.config["trial"] in self._baselines:
            assert self._metric is not None
            self._hear(trial, [(result[CLOCK], result[self._metric])])
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """A trial ends."""
        self._catch_up(trial, result)
        super().on_trial_complete(tune_controller, trial, result)

    def _catch_up(self, trial: TuneTrial, result: dict[str, Any]) -> None:
        known = self._unfinished.pop(trial.config["trial"], [])
        self._hear(trial, [point for point in known if point[0] < result[CLOCK]])

    def _hear(self, trial: Any, points: Points) -> None:
        """Take down points of a trial without judging it by them."""
        raise NotImplementedError


class Asha(Replaying, ASHAScheduler):
    """Ray's, with the rungs of earlier sessions. A trial's bracket follows from the seed and the trial's number."""

    def __init__(
        self, earlier: Iterable[TrialRecord], *, baselines: Collection[int], seed: int, **options: Any
    ) -> None:
        super().__init__(**options)
        self._seed = seed
        self._take_up(earlier, baselines)

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """A trial begins or goes on."""
        super().on_trial_add(tune_controller, trial)
        self._trial_info[trial.trial_id] = self._bracket_of(trial)

    def _hear(self, trial: Any, points: Points) -> None:
        assert self._metric_op is not None
        for progress, value in points:
            self._bracket_of(trial).on_result(trial, progress, self._metric_op * value)

    def _bracket_of(self, trial: Any) -> Any:
        sizes = np.array([len(bracket._rungs) for bracket in self._brackets])
        weights = np.exp(sizes - sizes.max())
        generator = np.random.default_rng([self._seed, trial.config["trial"]])
        return self._brackets[generator.choice(len(self._brackets), p=weights / weights.sum())]


class Median(Replaying, MedianStoppingRule):
    """Ray's, with the curves of earlier sessions."""

    def __init__(self, earlier: Iterable[TrialRecord], *, baselines: Collection[int], **options: Any) -> None:
        super().__init__(**options)
        self._take_up(earlier, baselines)

    def _hear(self, trial: Any, points: Points) -> None:
        if points:  # a trial without results would count as one
            self._results[trial] += [{CLOCK: progress, self._metric: value} for progress, value in points]


class Ended:
    """Takes the place of a trial of Ray Tune that ended in an earlier session."""

    def __init__(self, trial: int) -> None:
        self.trial_id, self.config = f"ended {trial}", {"trial": trial}


def said_of(record: TrialRecord) -> Points:
    """The points of an ended trial; Ray Tune says the last one of a trial that it stopped twice."""
    points = list(record.curve.items())
    return points + points[-1:] if record.state == TrialState.PRUNED else points
