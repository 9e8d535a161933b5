"""A sweep on a table: workers, trials and decisions as they are, seconds as they were recorded."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tables import POINTS, Table


@dataclass
class Trial:
    """One trial of a simulated sweep."""

    number: int
    values: dict[str, Any]
    curve: dict[int, float] = field(default_factory=dict)
    """The objective by percentage, so far; better when higher."""

    @property
    def percent(self) -> int:
        """How much of it is done."""
        return max(self.curve, default=0)


class Method(ABC):
    """A search with its scheduler: says what is trained next, and what goes on."""

    @abstractmethod
    def next(self) -> Trial | None:
        """What a free worker is to train: a new trial, or one that was paused; None while there is nothing."""

    @abstractmethod
    def goes_on(self, trial: Trial) -> bool:
        """Whether a trial is trained on, after an evaluation that is not its last; otherwise its worker is free."""

    @abstractmethod
    def ended(self, trial: Trial) -> None:
        """A trial was trained to its end."""


@dataclass(frozen=True)
class Replay:
    """What came of one simulated sweep, whenever another trial was its best."""

    spent: np.ndarray
    """Compute up to there, in runs to the end: (changes,)."""
    gap: np.ndarray
    """Points by which the trial that would be handed over is truly worse than the best of the table: (changes,)."""
    hours: np.ndarray
    """Time up to there: (changes,)."""

    def gap_at(self, spent: float) -> float:
        """The gap once so much is spent; infinite before any trial has reported."""
        place = int(np.searchsorted(self.spent, spent, side="right")) - 1
        return float(self.gap[place]) if place >= 0 else np.inf

    def spent_until(self, gap: float) -> float:
        """Compute until the gap stays within so many points; infinite if it does not."""
        outside = np.flatnonzero(self.gap > gap)
        first = int(outside[-1]) + 1 if len(outside) else 0
        return float(self.spent[first]) if first < len(self.spent) else np.inf


def simulate(table: Table, method: Method, *, workers: int, budget: float, generator: np.random.Generator) -> Replay:
    """Replay a sweep until its trials have cost as much as `budget` runs to the end.

    A trial has one of the table's seeds. What would be handed over is what a sweep of the product hands over: the best
    of the trials that came to their end, else the best of all, each by its best evaluation.
    """
    seeds = table.dev.shape[1]
    rows: dict[int, tuple[int, int]] = {}
    trials: dict[int, Trial] = {}
    running: list[tuple[float, int, Trial]] = []
    free, now, spent = workers, 0.0, 0.0
    changes: list[tuple[float, float, float]] = []

    def seconds_to_next(trial: Trial) -> float:
        configuration, seed = rows[trial.number]
        seconds, done = table.seconds[configuration, seed], len(trial.curve)
        return float(seconds[done] - (seconds[done - 1] if done else 0))

    while spent < budget * table.one_run:
        while free and (trial := method.next()) is not None:
            if trial.number not in rows:
                rows[trial.number] = table.nearest(trial.values), int(generator.integers(seeds))
                trials[trial.number] = trial
            heapq.heappush(running, (now + seconds_to_next(trial), trial.number, trial))
            free -= 1
        if not running:
            break
        now, _, trial = heapq.heappop(running)
        configuration, seed = rows[trial.number]
        spent += seconds_to_next(trial)
        done = len(trial.curve)
        trial.curve[int(table.percents[done])] = float(table.dev[configuration, seed, done])
        if trial.percent == table.percents[-1]:
            method.ended(trial)
            free += 1
        elif method.goes_on(trial):
            heapq.heappush(running, (now + seconds_to_next(trial), trial.number, trial))
        else:
            free += 1
        best = max(trials.values(), key=lambda t: (t.percent == 100, max(t.curve.values(), default=-np.inf), -t.number))
        gap = POINTS * float(table.truth.max() - table.truth[rows[best.number][0]])
        if not changes or changes[-1][1] != gap:
            changes.append((spent / table.one_run, gap, now / 3600))
    spent_at, gaps, hours = (np.array(column) for column in zip(*changes, strict=True))
    return Replay(spent_at, gaps, hours)
