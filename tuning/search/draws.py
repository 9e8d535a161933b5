"""The values of a new trial, drawn by Optuna's samplers. The same values would give the same numbers again, so what
another trial has is not taken: it is drawn again, with a seed that follows from how often.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from search_spaces.distributions import Space
from tuning.study import SearchConfig

TRIES, MORE_TRIES = 10, 1000
"""So often the search draws; then, where the points cannot be listed, so often something is drawn at random."""


def make_sampler(
    search: SearchConfig, space: Space, *, trial: int, parameter: str = "", attempt: int = 0
) -> BaseSampler:
    """The sampler for a trial, or for one parameter of it that is drawn apart from the others.

    Its random state is not in Optuna's storage, so it follows from the study's seed, the trial's number and how often
    it was drawn: a resumed study neither repeats its first suggestions nor depends on having been interrupted.
    """
    again = [256 + attempt] if attempt else []  # no byte of a name
    seed = int(np.random.SeedSequence([search.seed, trial, *parameter.encode(), *again]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if search.algorithm == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if search.algorithm == "grid":
            return _Grid(space.grid(), seed=search.seed)
        if search.algorithm == "cmaes":
            return optuna.samplers.CmaEsSampler(
                n_startup_trials=search.startup_trials, seed=seed, warn_independent_sampling=False
            )
        return optuna.samplers.TPESampler(
            n_startup_trials=search.startup_trials,
            multivariate=True,
            group=space.has_conditions,
            constant_liar=True,
            seed=seed,
        )


class _Grid(optuna.samplers.GridSampler):
    """Optuna's grid, in a loop that is not Optuna's: `OptunaSearcher` ends it."""

    def after_trial(self, *_: Any, **__: Any) -> None:
        """Nothing: Optuna would end its own loop after the last point."""


def tried_in(study: optuna.Study, space: Space, *, but: int | None = None) -> set[Hashable]:
    """The points that a study's trials have, by their identity, without that of one trial."""
    trials = study.get_trials(deepcopy=False)
    return {space.identity(trial.params) for trial in trials if trial.number != but} - {None}


@dataclass(frozen=True)
class Draws:
    """What is drawn for a trial that was just asked for."""

    study: optuna.Study
    space: Space
    search: SearchConfig
    trial: int

    def new_values(self) -> dict[str, Any]:
        """Values that no other trial of the study has.

        They depend on the seed, the trial's number and the other trials, and not on whether a driver was killed as it
        wrote them. A point given in advance stays, unless all that goes with it is tried.
        """
        written = self._frozen.params
        point = self.search.points[self.trial] if self.trial < len(self.search.points) else {}
        values = self._first_new(point, {})
        if written.items() <= values.items():
            return values
        return self._first_new(point | written, written)  # other trials have ended since it was written

    @property
    def _frozen(self) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[self.trial]

    def _first_new(self, given: Mapping[str, Any], must: Mapping[str, Any]) -> dict[str, Any]:
        """The first candidate that is no repeat; the last one if all are."""
        tried = tried_in(self.study, self.space, but=self.trial)
        values: dict[str, Any] = {}
        for values in self._candidates(given, must):
            if self.space.identity(values) not in tried:
                break
        return values

    def _candidates(self, given: Mapping[str, Any], must: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What the search draws to go with what is given; then anything that goes with it, or with what must be."""
        for attempt in range(TRIES):
            yield self._drawn(given, self.search, attempt)
        points = self.space.points() or []
        np.random.default_rng([self.search.seed, self.trial]).shuffle(points)
        for wanted in (given, must):
            yield from (values for values in points if wanted.items() <= values.items())
        at_random = self.search.model_copy(update={"algorithm": "random"})
        for attempt in range(TRIES, TRIES + MORE_TRIES):
            yield self._drawn(must, at_random, attempt)

    def _drawn(self, given: Mapping[str, Any], search: SearchConfig, attempt: int) -> dict[str, Any]:
        def sampler_of(parameter: str) -> BaseSampler:
            return make_sampler(search, self.space, trial=self.trial, parameter=parameter, attempt=attempt)

        return self.space.suggest(Draft(self.study, self._frozen, given, sampler_of))


class Draft:
    """Takes the place of an Optuna trial for `Space.suggest`: values given, or drawn; nothing is written down.

    What is not drawn together has a sampler for each parameter: when a driver is killed while the values are written,
    the others do not become what these would have been.
    """

    def __init__(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        given: Mapping[str, Any],
        sampler_of: Callable[[str], BaseSampler],
    ) -> None:
        """`sampler_of` gives the sampler of a parameter, and for no name that of what is drawn together."""
        self._study, self._trial, self._sampler_of = study, trial, sampler_of
        together = sampler_of("")
        space = together.infer_relative_search_space(study, trial)
        self._known = together.sample_relative(study, trial, space) | dict(given)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._value(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._value(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._value(name, CategoricalDistribution(choices))

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._known:
            sampler = self._sampler_of(name)
            self._known[name] = sampler.sample_independent(self._study, self._trial, name, distribution)
        return self._known[name]


def write_down(trial: optuna.Trial, space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Put values into the storage as those of a trial; what is there already stays. All that the trial then has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        nothing_else = optuna.samplers.RandomSampler(seed=0)
        trial.study.sampler = optuna.samplers.PartialFixedSampler(dict(values), nothing_else)
    return space.suggest(trial)
