"""Population based training (Jaderberg et al. 2017): trials that do badly go on from the weights of one that does well.

Ray Tune's scheduler decides who copies from whom. The values come from the study's own space, in the start population
and wherever a copy explores around them. Optuna has no part in it: its trials cannot change their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.search import Searcher

from search_spaces.distributions import Space
from tuning.driver_only import DriverOnly
from tuning.results import TrialTable
from tuning.study import SearchConfig

FACTORS = (0.8, 1.2)
RESAMPLE = 0.25
"""How likely a value is drawn anew, rather than moved a little."""


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

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same trial, with values near those of the other one."""
        self._copies += 1
        generator = np.random.default_rng([self._search.seed, 1, self._copies])
        donor = trial_to_clone.config
        values = self._space.suggest(Explored(generator, donor["values"]))
        step = {"from": donor["trial"], "progress": trial_to_clone.last_result[self._time_attr], "values": values}
        lineage = [*trial.config.get("lineage", ()), step]
        return {"trial": trial.config["trial"], "values": values, "lineage": lineage}, {}


class PopulationSearcher(DriverOnly, Searcher):
    """Gives Ray Tune the start population; after a resume first the trials that had not ended, as they were."""

    def __init__(self, table: TrialTable, space: Space, search: SearchConfig, *, mode: str) -> None:
        super().__init__(metric="objective", mode=mode)
        self._space, self._search, self._next = space, search, len(table)
        self._unfinished = [record for record in table if record.state in ("RUNNING", "INTERRUPTED")]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Metric and mode are the study's own."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """A point given in advance, or a random one."""
        if self._unfinished:
            record = self._unfinished.pop(0)
            return {"trial": record.trial, "values": record.values, "lineage": record.lineage}
        number, self._next = self._next, self._next + 1
        points = self._search.points
        given = points[number] if number < len(points) else {}
        generator = np.random.default_rng([self._search.seed, 0, number])
        return {"trial": number, "values": self._space.suggest(Drawn(generator, given)), "lineage": []}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: a population learns from its members while they run."""

    def put_back(self) -> None:
        """Nothing: the trial table knows which trials have not ended."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trial table has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the trial table has it all."""
