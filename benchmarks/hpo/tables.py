"""Recorded learning curves as a black box that is asked for any values of its space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from search_spaces.distributions import Space
from search_spaces.distributions.kinds import Categorical, Distribution, IntLog, LogUniform
from tuning.study import StudyConfig, load_study

HERE = Path(__file__).resolve().parent
POINTS = 100
"""Scores are told in points: hundredths."""
IN_POINTS = ("korquad",)
"""Tasks whose scores are in points, as in their official script."""
TREES = 200


@dataclass(frozen=True)
class Table:
    """The runs of one space, each with each seed.

    Values that were not trained with count as the nearest ones that were, as in Syne Tune's `BlackboxTabular` with a
    1-nearest-neighbour surrogate. Each value counts as much as a random forest says that it matters: with equal
    weights, values that do not matter would decide which curve is replayed.
    """

    study: StudyConfig
    values: list[dict[str, Any]]
    """Of each configuration; 0 is the baseline."""
    percents: np.ndarray
    """Of a run at its evaluations: int array of shape (evaluations,)."""
    seconds: np.ndarray
    """Seconds up to each evaluation: (configurations, seeds, evaluations)."""
    dev: np.ndarray
    """The objective on dev, which searchers see: of that shape. Always better when higher."""
    held_out: np.ndarray
    """The objective on rows that no searcher sees, of the weights that a sweep would keep at each evaluation, which are
    those of the best one so far: of that shape."""

    @classmethod
    def load(cls, name: str) -> Table:
        """The whole configurations of `tables/NAME.parquet`: those that ran with all seeds."""
        study = load_study(HERE / "spaces" / f"{name}.yaml")
        frame = pd.read_parquet(HERE / "tables" / f"{name}.parquet")
        names = list(study.space)
        scale = (1.0 if study.objective.mode == "max" else -1.0) / (POINTS if study.task in IN_POINTS else 1)
        frame = frame.sort_values(["configuration", "seed", "percent"])
        percents = np.unique(frame["percent"])
        counts = frame.groupby("configuration")["seed"].nunique()
        whole = counts.index[counts == frame["seed"].nunique()]
        frame = frame[frame["configuration"].isin(whole)]
        shape = (len(whole), frame["seed"].nunique(), len(percents))
        dev = scale * frame["dev"].to_numpy().reshape(shape)
        so_far = np.maximum.accumulate(dev, axis=2)
        kept = np.argmax(dev[:, :, None, :] >= so_far[..., None], axis=3)  # the first of the best
        held_out = scale * frame["held_out"].to_numpy().reshape(shape)
        return cls(
            study=study,
            values=frame.groupby("configuration")[names].first().to_dict("records"),
            percents=percents,
            seconds=frame["seconds"].to_numpy().reshape(shape),
            dev=dev,
            held_out=np.take_along_axis(held_out, kept, axis=2),
        )

    @cached_property
    def truth(self) -> np.ndarray:
        """What each configuration is worth at its end: the mean over the seeds, on the rows held out:
        (configurations,)."""
        return self.held_out[:, :, -1].mean(axis=1)

    @cached_property
    def one_run(self) -> float:
        """Seconds that a run takes to its end, on average: the unit of compute."""
        return float(self.seconds[:, :, -1].mean())

    def nearest(self, values: dict[str, Any]) -> int:
        """The configuration with the values that are nearest."""
        return int(np.argmin(np.square(self._places - place(self.study.space, values)) @ self._importances))

    @cached_property
    def _places(self) -> np.ndarray:
        return np.array([place(self.study.space, values) for values in self.values])

    @cached_property
    def _importances(self) -> np.ndarray:
        forest = RandomForestRegressor(TREES, random_state=0)
        importances: np.ndarray = forest.fit(self._places, self.truth).feature_importances_
        return importances


def place(space: Space, values: dict[str, Any]) -> np.ndarray:
    """Values as a point: a number as its place between `min` and `max` from 0 to 1, a choice as a corner of a simplex
    whose corners are 1 apart, an absent one in the middle."""
    parts = [_coordinates(each, values.get(name)) for name, each in space.items()]
    return np.concatenate(parts)


def _coordinates(distribution: Distribution, value: Any) -> np.ndarray:
    if isinstance(distribution, Categorical):
        return np.array([distribution.contains(value) and value == each for each in distribution.values]) / math.sqrt(2)
    if value is None:
        return np.array([0.5])
    low, high = distribution.ends()
    if isinstance(distribution, LogUniform | IntLog):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return np.array([(value - low) / (high - low)])
