"""A sweep on a table, by the true values of what it would hand over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tables import POINTS, Table

from tuning.planning.simulation import Curve, Method, SimulatedTrial
from tuning.planning.simulation import simulate as simulate_sweep


@dataclass(frozen=True)
class Replay:
    """What came of one simulated sweep, whenever another trial was its best."""

    spent: np.ndarray
    """Compute up to there, in runs to the end: (changes,)."""
    gap: np.ndarray
    """Points by which the trial that would be handed over is truly worse than the best of the table: (changes,)."""
    seconds: np.ndarray
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
    configurations: dict[int, int] = {}

    def curve_of(trial: SimulatedTrial) -> Curve:
        row = configurations[trial.number] = table.nearest(trial.values)
        seed = int(generator.integers(table.dev.shape[1]))
        return Curve(table.percents.tolist(), table.seconds[row, seed].tolist(), table.dev[row, seed].tolist())

    best = (False, -np.inf, 0)  # whether it came to its end, its best evaluation, and less its number
    changes: list[tuple[float, float, float]] = []
    for trial, now, seconds in simulate_sweep(method, curve_of, workers=workers):
        best = max(best, (trial.percent == 100, max(trial.curve.values()), -trial.number))
        gap = POINTS * float(table.truth.max() - table.truth[configurations[-best[2]]])
        spent = seconds / table.one_run
        if not changes or changes[-1][1] != gap:
            changes.append((spent, gap, now))
        if spent >= budget:
            break
    return Replay(*(np.array(column) for column in zip(*changes, strict=True)))
