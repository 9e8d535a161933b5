"""A sweep without its trainings: which trial is on which worker, for how long, and what its scheduler makes of it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, cast

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from tuning.search.early_stopping import CLOCK, TrialStandIn
from tuning.search.promotion import Promotion

END = 100
"""Percent of a trial."""


@dataclass
class SimulatedTrial:
    """A trial that nothing trains."""

    number: int
    values: dict[str, Any]
    curve: dict[int, float] = field(default_factory=dict)
    """The objective by percentage, so far; better when higher."""

    @property
    def percent(self) -> int:
        """How much of it is done."""
        return max(self.curve, default=0)


class Curve(NamedTuple):
    """What a trial would come to if it ran to its end: a value an evaluation."""

    percents: list[int]
    seconds: list[float]
    """From its start."""
    values: list[float]
    again: float = 0.0
    """Seconds until it trains once more after a pause: its model is built and its checkpoint read."""


class Method(Protocol):
    """A search with its scheduler: says what is trained next, and what goes on."""

    def next(self) -> SimulatedTrial | None:
        """What a free worker is to train: a new trial, or one that was paused; None while there is nothing."""
        ...

    def goes_on(self, trial: SimulatedTrial) -> bool:
        """Whether a trial is trained on, after an evaluation that is not its last; otherwise its worker is free."""
        ...

    def ended(self, trial: SimulatedTrial) -> None:
        """A trial was trained to its end."""
        ...


class Evaluation(NamedTuple):
    """One evaluation of one trial."""

    trial: SimulatedTrial
    now: float
    """Seconds since the sweep began."""
    spent: float
    """Seconds of all workers up to evaluations."""


def simulate(method: Method, curve_of: Callable[[SimulatedTrial], Curve], *, workers: int) -> Iterator[Evaluation]:
    """The evaluations of a sweep in their order, each after the method was told; it goes on until nothing is left.

    Args:
        method: Decides.
        curve_of: What a trial would come to; asked once a trial.
        workers: So many trials run at once.
    """
    curves: dict[int, Curve] = {}
    running: list[tuple[float, int, float, SimulatedTrial]] = []
    free, now, spent = workers, 0.0, 0.0

    def train(trial: SimulatedTrial, *, before: float = 0.0) -> None:
        seconds, done = curves[trial.number].seconds, len(trial.curve)
        takes = before + seconds[done] - (seconds[done - 1] if done else 0.0)
        heapq.heappush(running, (now + takes, trial.number, takes, trial))

    while True:
        while free and (trial := method.next()) is not None:
            if trial.number not in curves:
                curves[trial.number] = curve_of(trial)
            train(trial, before=curves[trial.number].again if trial.curve else 0.0)
            free -= 1
        if not running:
            return
        now, _, takes, trial = heapq.heappop(running)
        curve, done = curves[trial.number], len(trial.curve)
        spent += takes
        trial.curve[curve.percents[done]] = curve.values[done]
        if trial.percent == curve.percents[-1]:
            method.ended(trial)
            free += 1
        elif method.goes_on(trial):
            train(trial)
        else:
            free += 1
        yield Evaluation(trial, now, spent)


class Scheduled:
    """One of Ray Tune's schedulers, driven as Ray Tune drives it."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self._scheduler = scheduler
        self._trials: dict[int, TuneTrial] = {}
        self._controller = cast(Any, SimpleNamespace(get_live_trials=list))

    def add(self, trial: SimulatedTrial) -> None:
        """A trial begins."""
        self._trials[trial.number] = cast(TuneTrial, TrialStandIn(trial.number))
        self._scheduler.on_trial_add(self._controller, self._trials[trial.number])

    @property
    def promotion(self) -> Promotion | None:
        """The scheduler, if it pauses trials."""
        return self._scheduler if isinstance(self._scheduler, Promotion) else None

    def goes_on(self, trial: SimulatedTrial) -> bool:
        """What it decides after an evaluation."""
        tune_trial, result = self._trials[trial.number], result_of(trial)
        if self._scheduler.on_trial_result(self._controller, tune_trial, result) == TrialScheduler.CONTINUE:
            return True
        self.close(trial)
        return False

    def close(self, trial: SimulatedTrial) -> None:
        """A trial came to its end, or was stopped."""
        self._scheduler.on_trial_complete(self._controller, self._trials[trial.number], result_of(trial))


def result_of(trial: SimulatedTrial) -> dict[str, Any]:
    """The latest evaluation, as Ray Tune hears of it."""
    return {"objective": trial.curve[trial.percent], CLOCK: trial.percent}
