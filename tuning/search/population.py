"""Population based training (Jaderberg et al. 2017): bad trials continue from the weights of good ones.

Ray Tune's scheduler decides which trial copies which. The values come from the study's space, for the first population
and for each perturbation. Optuna takes no part: its trials cannot change their values.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining

from search_spaces.distributions import Space
from tuning.study import SearchConfig
from tuning.sweep_dir.trial_table import Copied, TrialTable
from tuning.workers.results import TrialConfig, TrialResult

FACTORS = (0.8, 1.2)
RESAMPLE = 0.25
"""Probability that a value is sampled anew instead of perturbed."""
TRIES = 100
"""Attempts to sample first values that no other trial has."""


class RandomTrial:
    """Stands in for an Optuna trial in `Space.suggest`: takes given values, and samples the others."""

    def __init__(self, generator: np.random.Generator, given: Mapping[str, object]) -> None:
        self._generator, self._given = generator, given

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._given:
            return float(cast(float, self._given[name]))
        if log:
            return float(np.clip(np.exp(self._generator.uniform(np.log(low), np.log(high))), low, high))
        value = float(self._generator.uniform(low, high))
        return value if step is None else on_grid(value, low, high, step)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return round(self.suggest_float(name, low, high, step=None if log else step, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[object]) -> object:
        return self._given[name] if name in self._given else choices[int(self._generator.integers(len(choices)))]


class PerturbedTrial(RandomTrial):
    """Values near those of another trial: each is perturbed or sampled anew."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name not in self._given or self._generator.random() < RESAMPLE:
            return RandomTrial(self._generator, {}).suggest_float(name, low, high, step=step, log=log)
        factor = FACTORS[self._generator.integers(len(FACTORS))]
        value = float(np.clip(cast(float, self._given[name]) * factor, low, high))
        return value if step is None else on_grid(value, low, high, step)

    def suggest_categorical(self, name: str, choices: Sequence[object]) -> object:
        if name not in self._given or self._generator.random() < RESAMPLE:
            return RandomTrial(self._generator, {}).suggest_categorical(name, choices)
        place = choices.index(self._given[name]) + (-1, 1)[self._generator.integers(2)]
        return choices[min(max(place, 0), len(choices) - 1)]


def on_grid(value: float, low: float, high: float, step: float) -> float:
    """The nearest of `low`, `low + step`, … up to `high`."""
    return min(high, low + step * round((value - low) / step))


class Population(PopulationBasedTraining):
    """Ray Tune's scheduler, which perturbs values within the study's space."""

    def __init__(
        self, space: Space, search: SearchConfig, *, interval: int, metric: str, mode: str, clock: str
    ) -> None:
        """`interval`: percent of a trial's steps between two comparisons with the others."""
        super().__init__(
            time_attr=clock,
            metric=metric,
            mode=mode,
            perturbation_interval=interval,
            custom_explore_fn=lambda config: config,  # Ray wants one; `_get_new_config` does its work
            log_config=False,
        )
        self._space, self._search, self._copies = space, search, 0
        random.seed(search.seed)  # Ray chooses one of the best by the process's own generator

    def _quantiles(self) -> tuple[list[TuneTrial], list[TuneTrial]]:
        """The worst and the best trials. A baseline may be copied, but never takes another trial's weights. The number
        of worst trials stays the same without it, or a bad baseline would protect a bad trial."""
        worst, best = super()._quantiles()
        scores = {
            trial: state.last_score
            for trial, state in self._trial_state.items()
            if trial.config["trial"] not in self._search.baselines
            and trial not in best
            and state.last_score is not None
            and not trial.is_finished()
        }
        return sorted(scores, key=scores.__getitem__)[: len(worst)], best

    def _get_new_config(
        self, trial: TuneTrial, trial_to_clone: TuneTrial
    ) -> tuple[dict[str, object], dict[str, object]]:
        """The same trial, with values near those of the other one."""
        self._copies += 1
        generator = np.random.default_rng([self._search.seed, 1, self._copies])
        donor = trial_to_clone.config
        values = self._space.suggest(PerturbedTrial(generator, donor["values"]))
        saved = cast(TrialResult, self._trial_state[trial_to_clone].last_result or {})
        step: Copied = {"from": donor["trial"], "progress": saved["progress"], "values": values}
        step["weights_of"] = donor["values"]
        lineage = [*trial.config.get("lineage", ()), step]
        return {"trial": trial.config["trial"], "values": values, "lineage": lineage}, {}


def start_population(table: TrialTable, space: Space, search: SearchConfig, *, trials: int) -> list[TrialConfig]:
    """Configs of so many trials: first the unfinished ones as they were, then new ones."""
    unfinished = [record for record in table if not record.has_ended][:trials]
    population: list[TrialConfig] = [
        {"trial": it.trial, "values": it.newest_values, "lineage": it.lineage} for it in unfinished
    ]
    new = ((number, values) for number, values in enumerate(start_values(space, search)) if number not in table)
    for number, values in itertools.islice(new, trials - len(unfinished)):
        population.append({"trial": number, "values": values, "lineage": []})
    return population


def start_values(space: Space, search: SearchConfig) -> Iterator[dict[str, object]]:
    """The first values of trials 0, 1, …: the given points, then sampled ones. Values repeat only where no others are
    found: two trials with the same values are the same until one of them copies.
    """
    taken: set[Hashable] = set()
    for number in itertools.count():
        given = search.points[number] if number < len(search.points) else {}
        for attempt in range(TRIES):
            again = [attempt] if attempt else []
            generator = np.random.default_rng([search.seed, 0, number, *again])
            values = space.suggest(RandomTrial(generator, given if attempt < TRIES // 2 else {}))
            if space.identity(values) not in taken:
                break
        taken.add(space.identity(values))
        yield values
