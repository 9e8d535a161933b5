"""Schedulers that go on where an earlier session ended judge as if there had been none."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from search_spaces.distributions import Space
from tuning.search.schedulers import first_rung, make_scheduler, rungs_of
from tuning.study import SchedulerConfig, SearchConfig
from tuning.sweep_dir.trial_table import TrialRecord

TRIALS, PROGRESS = 9, range(10, 101, 10)


def curve_of(number: int) -> list[float]:
    generator = np.random.default_rng(number)
    return list(generator.uniform(0.4, 0.9) + 0.01 * np.arange(10) + generator.normal(0, 0.03, 10))


@dataclass(eq=False)
class Running:
    """A trial as Ray Tune's schedulers see it."""

    trial_id: str
    config: dict[str, Any]


class OneAtATime:
    """Drives a scheduler as Ray Tune does, one trial after the other, and can be cut after any report."""

    def __init__(self, config: SchedulerConfig, mode: str) -> None:
        self._config, self._mode, self._session = config, mode, 0
        self.ledger: list[TrialRecord] = []

    def run(self, *, reports: int | None = None, told: bool = True) -> None:
        """Go on to the end, or until so many reports; `told`: whether the last decision still took effect."""
        scheduler = make_scheduler(
            self._config,
            metric="objective",
            mode=self._mode,
            space=Space.from_dict({}),
            search=SearchConfig(seed=1, points=({},) * 5, baselines=(0, 4)),
            earlier=self.ledger,
        )
        self._session += 1
        tune: Any = SimpleNamespace(get_live_trials=lambda: [])
        for number in range(TRIALS):
            if number == len(self.ledger):
                self.ledger.append(TrialRecord(number, "RUNNING", {}))
            record = self.ledger[number]
            if record.state != "RUNNING":
                continue
            trial: Any = Running(f"{self._session}-{number}", {"trial": number})
            scheduler.on_trial_add(tune, trial)
            for progress, value in zip(PROGRESS, curve_of(number), strict=True):
                if progress < max(record.curve, default=0):
                    continue  # a trial that goes on repeats its last report
                result = {"progress": progress, "objective": value}
                decision = "STOP" if progress == 100 else scheduler.on_trial_result(tune, trial, result)
                record.curve[progress] = value
                reports = None if reports is None else reports - 1
                if reports == 0 and not told:
                    return
                if decision == "STOP":
                    scheduler.on_trial_complete(tune, trial, result)
                    record.state = "COMPLETE" if progress == 100 else "PRUNED"
                if reports == 0:
                    return
                if decision == "STOP":
                    break


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(
    "config",
    [
        SchedulerConfig(name="asha", grace_percent=10, reduction_factor=2),
        SchedulerConfig(name="asha", grace_percent=15, reduction_factor=3),
        SchedulerConfig(name="hyperband", grace_percent=10, reduction_factor=2),
        SchedulerConfig(name="median", grace_percent=20),
    ],
    ids=lambda config: f"{config.name} {config.reduction_factor}",
)
def test_a_sweep_cut_anywhere_comes_to_the_same_states(config: SchedulerConfig, mode: str) -> None:
    undisturbed = OneAtATime(config, mode)
    undisturbed.run()
    states = [record.state for record in undisturbed.ledger]
    assert set(states) == {"COMPLETE", "PRUNED"}
    for told in (True, False):
        for every in (2, 3, 7):  # a report that is repeated counts
            cut = OneAtATime(config, mode)
            while len(cut.ledger) < TRIALS or cut.ledger[-1].state == "RUNNING":
                cut.run(reports=every, told=told)
            assert cut.ledger == undisturbed.ledger, (told, every)


@pytest.mark.parametrize("name", ["asha", "promotion", "hyperband", "median"])
@pytest.mark.parametrize("folds", range(2, 13))
def test_rungs_are_folds(name: str, folds: int) -> None:
    """No trial is stopped before the first one that the study's grace allows, and each is compared after the same."""
    done = [100 * fold // folds for fold in range(1, folds + 1)]
    for grace, factor in itertools.product((1, 10, 34, 100), (2, 3, 4)):
        first = first_rung(grace, folds)
        assert first in done and first >= grace and not any(grace <= each < first for each in done)
        config = SchedulerConfig(name=name, grace_percent=grace, reduction_factor=factor)
        scheduler: Any = make_scheduler(
            config,
            metric="objective",
            mode="max",
            space=Space.from_dict({}),
            search=SearchConfig(),
            folds=folds,
        )
        if name == "median":
            assert scheduler._grace_period == first
            continue
        if name == "promotion":
            rungs = rungs_of(config, folds)
            assert rungs[:1] == ([first] if first < 100 else [])
        else:
            rungs = [rung for bracket in scheduler._brackets for rung, _ in bracket._rungs]
            assert min(rungs) == first
        for rung in rungs:  # that of so many folds, and reached by no fewer
            assert next(fold for fold, progress in enumerate(done, 1) if progress >= rung) * first == (
                rung * (done.index(first) + 1)
            )
