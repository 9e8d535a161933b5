"""A sweep on a table, by the true values of what it would hand over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tables import POINTS, Table

from tuning.planning.simulation import Curve, Method, SimulatedTrial
from tuning.planning.simulation import simulate as simulate_sweep
from tuning.statistics.halving import better, rounds, total_runs

TOP = 3
"""Candidates of `confirm`, as by default."""


@dataclass(frozen=True)
class Replay:
    """What came of one simulated sweep, whenever another trial was its best."""

    spent: np.ndarray
    """Compute up to there, in runs to the end: (changes,)."""
    gap: np.ndarray
    """Points by which the trial that would be handed over is truly worse than the best of the table: (changes,)."""
    weights_gap: np.ndarray
    """The same of its weights as they are by then, which may be those of an unfinished run: (changes,)."""
    seconds: np.ndarray
    """Time up to there: (changes,)."""
    confirmed: float = np.nan
    """The gap of what `confirm` would choose of the best `TOP` trials, with its runs in the budget."""

    def gap_at(self, spent: float, *, of_weights: bool = False) -> float:
        """The gap once so much is spent; infinite before any trial has reported."""
        place = int(np.searchsorted(self.spent, spent, side="right")) - 1
        return float((self.weights_gap if of_weights else self.gap)[place]) if place >= 0 else np.inf

    def spent_until(self, gap: float) -> float:
        """Compute until the gap stays within so many points; infinite if it does not."""
        outside = np.flatnonzero(self.gap > gap)
        first = int(outside[-1]) + 1 if len(outside) else 0
        return float(self.spent[first]) if first < len(self.spent) else np.inf


def simulate(
    table: Table,
    method: Method,
    *,
    workers: int,
    budget: float,
    generator: np.random.Generator,
    complete_first: bool = False,
) -> Replay:
    """Replay a sweep until its trials have cost as much as `budget` runs to the end.

    A trial has one of the table's seeds. What would be handed over is the trial with the best evaluation; with
    `complete_first` of those that came to their end, once there is one. Candidates of `confirm` came to their end in
    any case, where enough have.
    """
    configurations: dict[int, int] = {}
    seeds: dict[int, int] = {}

    def curve_of(trial: SimulatedTrial) -> Curve:
        row = configurations[trial.number] = table.nearest(trial.values)
        seed = seeds[trial.number] = int(generator.integers(table.dev.shape[1]))
        return Curve(table.percents.tolist(), table.seconds[row, seed].tolist(), table.dev[row, seed].tolist())

    gaps = POINTS * (table.truth.max() - table.truth)
    trials: dict[int, SimulatedTrial] = {}
    as_candidate: dict[int, tuple[bool, float, int]] = {}
    chosen = np.nan
    best = (False, -np.inf, 0)  # whether it comes first as complete, its best evaluation, and less its number
    changes: list[tuple[float, float, float, float]] = []
    for trial, now, seconds in simulate_sweep(method, curve_of, workers=workers):
        trials[trial.number] = trial
        complete, value = trial.percent == 100, max(trial.curve.values())
        as_candidate[trial.number] = complete, value, -trial.number
        best = max(best, (complete_first and complete, value, -trial.number))
        number = -best[2]
        row, done = configurations[number], len(trials[number].curve)
        held_out = float(table.held_out[row, seeds[number], done - 1])
        found = float(gaps[row]), POINTS * (float(table.truth.max()) - held_out)
        spent = seconds / table.one_run
        if not changes or changes[-1][1:3] != found:
            changes.append((spent, *found, now))
        if np.isnan(chosen) and spent >= budget - total_runs(TOP):
            top = sorted(as_candidate, key=lambda number: as_candidate[number], reverse=True)[:TOP]
            chosen = float(gaps[confirmed(table, [(configurations[each], seeds[each]) for each in top])])
        if spent >= budget:
            break
    return Replay(*(np.array(column) for column in zip(*changes, strict=True)), chosen)


def confirmed(table: Table, candidates: Sequence[tuple[int, int]]) -> int:
    """The configuration that wins when each is trained with the seeds that its trial did not have: by rounds, as a
    sweep does it, on dev."""
    fresh = {row: [seed for seed in range(table.dev.shape[1]) if seed != used] for row, used in candidates}
    scores: dict[int, list[float]] = {row: [] for row in fresh}
    for stage in rounds(len(scores)):
        for row in scores:
            scores[row] += [float(table.dev[row, fresh[row].pop()].max()) for _ in range(stage.runs) if fresh[row]]
        scores = {row: scores[row] for row in better(scores, stage.keep, mode="max")}
    return next(iter(scores))
