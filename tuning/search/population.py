"""Population based training (Jaderberg et al. 2017): trials that do badly go on from the weights of one that does well.

Ray Tune's scheduler decides who copies from whom. The values come from the study's own space, in the start population
and wherever a copy explores around them. Optuna has no part in it: its trials cannot change their values.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining

from search_spaces.distributions import Space
from tuning.study import SearchConfig
from tuning.sweep_dir.trial_table import TrialTable

FACTORS = (0.8, 1.2)
RESAMPLE = 0.25
"""How likely a value is drawn anew, rather than moved a little."""
TRIES = 100
"""So often values to begin with are drawn that no other trial has."""


class Drawn:
    """Takes the place of an Optuna trial for `Space.suggest`: values given, or drawn from their distribution."""

    def __init__(self, generator: np.random.Generator, given: Mapping[str, Any]) -> None:
        self._generator, self._given = generator, given

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._given:
            return float(self._given[name])
        if log:
            return float(np.clip(np.exp(self._generator.uniform(np.log(low), np.log(high))), low, high))
        value = float(self._generator.uniform(low, high))
        return value if step is None else on_grid(value, low, high, step)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return round(self.suggest_float(name, low, high, step=None if log else step, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._given[name] if name in self._given else choices[int(self._generator.integers(len(choices)))]


class Explored(Drawn):
    """Values near those of another trial."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name not in self._given or self._generator.random() < RESAMPLE:
            return Drawn(self._generator, {}).suggest_float(name, low, high, step=step, log=log)
        factor = FACTORS[self._generator.integers(len(FACTORS))]
        value = float(np.clip(self._given[name] * factor, low, high))
        return value if step is None else on_grid(value, low, high, step)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name not in self._given or self._generator.random() < RESAMPLE:
            return Drawn(self._generator, {}).suggest_categorical(name, choices)
        place = choices.index(self._given[name]) + (-1, 1)[self._generator.integers(2)]
        return choices[min(max(place, 0), len(choices) - 1)]


def on_grid(value: float, low: float, high: float, step: float) -> float:
    """The nearest of `low`, `low + step`, … up to `high`."""
    return min(high, low + step * round((value - low) / step))


class Population(PopulationBasedTraining):
    """Ray Tune's scheduler, exploring in the study's space."""

    def __init__(
        self, space: Space, search: SearchConfig, *, interval: int, metric: str, mode: str, clock: str
    ) -> None:
        """`interval`: percent of a trial's updates between two moments at which it is held against the others."""
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
        """The worst and the best: a baseline may be copied, but with the weights of another it would be none. So many
        of the others are the worst as would be with it, or a bad baseline would keep them from being replaced."""
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

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same trial, with values near those of the other one."""
        self._copies += 1
        generator = np.random.default_rng([self._search.seed, 1, self._copies])
        donor = trial_to_clone.config
        values = self._space.suggest(Explored(generator, donor["values"]))
        saved = self._trial_state[trial_to_clone].last_result or {}
        step = {"from": donor["trial"], "progress": saved[self._time_attr], "values": values}
        step["weights_of"] = donor["values"]
        lineage = [*trial.config.get("lineage", ()), step]
        return {"trial": trial.config["trial"], "values": values, "lineage": lineage}, {}


def start_population(table: TrialTable, space: Space, search: SearchConfig, *, trials: int) -> list[dict[str, Any]]:
    """Configs of so many trials: those that a sweep before had not ended, as they were, then new ones."""
    unfinished = [record for record in table if not record.has_ended][:trials]
    population = [{"trial": it.trial, "values": it.newest_values, "lineage": it.lineage} for it in unfinished]
    new = ((number, values) for number, values in enumerate(start_values(space, search)) if number not in table)
    for number, values in itertools.islice(new, trials - len(unfinished)):
        population.append({"trial": number, "values": values, "lineage": []})
    return population


def start_values(space: Space, search: SearchConfig) -> Iterator[dict[str, Any]]:
    """What trials 0, 1, … begin with: the points given in advance while there are any, and then values drawn from the
    space; the same values twice only where nothing else is found, since two such trials are one until the first copy.
    """
    taken: set[Hashable] = set()
    for number in itertools.count():
        given = search.points[number] if number < len(search.points) else {}
        for attempt in range(TRIES):
            again = [attempt] if attempt else []
            generator = np.random.default_rng([search.seed, 0, number, *again])
            values = space.suggest(Drawn(generator, given if attempt < TRIES // 2 else {}))
            if space.identity(values) not in taken:
                break
        taken.add(space.identity(values))
        yield values
