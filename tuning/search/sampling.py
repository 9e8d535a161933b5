"""The values of a new trial, drawn by Optuna's samplers. The same values would give the same numbers again, so values
that another trial has are drawn again, with a seed that depends on the number of the attempt.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from search_spaces.distributions import Space
from tuning.search.asking import AskedTrial
from tuning.search.evidence import Learning
from tuning.search.warm_start import EarlierTrial
from tuning.study import SearchConfig
from tuning.study.searchers import SEARCHERS

TRIES, MORE_TRIES = 10, 1000
"""Attempts with the study's sampler; then, where the points of the space cannot be listed, random attempts."""


def make_sampler(
    search: SearchConfig,
    space: Space,
    *,
    trial: int,
    parameter: str = "",
    attempt: int = 0,
    earlier: Sequence[EarlierTrial] = (),
) -> BaseSampler:
    """The sampler for a trial, or for one parameter of it that is sampled independently.

    Its random state is not in Optuna's storage, so it follows from the study's seed, the trial's number and how often
    it was drawn: a resumed study neither repeats its first suggestions nor depends on having been interrupted.

    Where there are `earlier` trials of other sweeps, it learns from them, too.
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
        if search.algorithm == "gp":
            process = optuna.samplers.GPSampler(
                n_startup_trials=search.startup_trials, seed=seed, warn_independent_sampling=False
            )
            return Learning(process, earlier)
        if search.algorithm in SEARCHERS:
            sampler = SEARCHERS[search.algorithm](search, space, seed)
        else:
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=search.startup_trials,
                multivariate=True,
                group=space.has_conditions,
                constant_liar=True,
                seed=seed,
            )
        return Learning(sampler, earlier) if earlier else sampler


class _Grid(optuna.samplers.GridSampler):
    """Optuna's grid, in a loop that is not Optuna's: `OptunaSearcher` ends it."""

    def after_trial(self, *_: object, **__: object) -> None:
        """Nothing: Optuna would end its own loop after the last point."""


def tried_in(study: optuna.Study, space: Space, *, but: int | None = None) -> set[Hashable]:
    """The identities of the points of a study's trials, except for one trial."""
    trials = study.get_trials(deepcopy=False)
    return {space.identity(trial.params) for trial in trials if trial.number != but} - {None}


@dataclass(frozen=True)
class PointSampler:
    """Samples a point for a trial that was just asked for."""

    study: optuna.Study
    space: Space
    search: SearchConfig
    trial: int
    earlier: Sequence[EarlierTrial] = ()

    def new_values(self) -> dict[str, object]:
        """Values that no other trial of the study has.

        They depend on the seed, the trial's number and the other trials, but not on whether a driver was killed while
        it wrote them. A given point is kept, unless everything that goes with it is tried.
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

    def _first_new(self, given: Mapping[str, object], must: Mapping[str, object]) -> dict[str, object]:
        """The first candidate that is new; the last one if none is."""
        tried = tried_in(self.study, self.space, but=self.trial)
        values: dict[str, object] = {}
        for values in self._candidates(given, must):
            if self.space.identity(values) not in tried:
                break
        return values

    def _candidates(self, given: Mapping[str, object], must: Mapping[str, object]) -> Iterator[dict[str, object]]:
        """Samples of the search around the given values; then any point with them, or with those that `must` be
        kept."""
        for attempt in range(TRIES):
            yield self._drawn(given, self.search, attempt)
        points = self.space.points() or []
        np.random.default_rng([self.search.seed, self.trial]).shuffle(points)
        for wanted in (given, must):
            yield from (values for values in points if wanted.items() <= values.items())
        at_random = self.search.model_copy(update={"algorithm": "random"})
        for attempt in range(TRIES, TRIES + MORE_TRIES):
            yield self._drawn(must, at_random, attempt)

    def _drawn(self, given: Mapping[str, object], search: SearchConfig, attempt: int) -> dict[str, object]:
        def sampler_of(parameter: str) -> BaseSampler:
            return make_sampler(
                search, self.space, trial=self.trial, parameter=parameter, attempt=attempt, earlier=self.earlier
            )

        return self.space.suggest(UnsavedTrial(self.study, self._frozen, given, sampler_of))


class UnsavedTrial(AskedTrial):
    """Stands in for an Optuna trial in `Space.suggest`: takes given values, samples the others, and writes nothing.

    Parameters that are sampled independently have a sampler each. So a value does not depend on how many of the others
    a killed driver had already written.
    """

    def __init__(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        given: Mapping[str, object],
        sampler_of: Callable[[str], BaseSampler],
    ) -> None:
        """`sampler_of` gives the sampler of a parameter; for an empty name, that of the relative sampling."""
        self._study, self._trial, self._sampler_of = study, trial, sampler_of
        relative = sampler_of("")
        space = relative.infer_relative_search_space(study, trial)
        self._known = relative.sample_relative(study, trial, space) | dict(given)

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._known:
            sampler = self._sampler_of(name)
            self._known[name] = sampler.sample_independent(self._study, self._trial, name, distribution)
        return self._known[name]


def write_down(trial: optuna.Trial, space: Space, values: Mapping[str, object]) -> dict[str, object]:
    """Put values into the storage as those of a trial; what is there already stays. All that the trial then has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        nothing_else = optuna.samplers.RandomSampler(seed=0)
        trial.study.sampler = optuna.samplers.PartialFixedSampler(dict(values), nothing_else)
    return space.suggest(trial)
