"""The objectives of a study besides the first one, and what must hold of a winner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from kobert_core.config import MODEL_COSTS, Objective

TRAIN_SECONDS = "cost/train_seconds"
"""Wall time of a trial on its workers, over all its sessions: reading, training, evaluating."""
LOOP_METRICS = ("train/loss", "train/examples_per_second")
"""What the loop reports besides the metrics of the task."""
COSTS = (*MODEL_COSTS, TRAIN_SECONDS)
"""Metrics that are measured where a study names one of them."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class FurtherObjective(Objective):
    """An objective behind the first one. With a bound it is a constraint, which a winner must keep."""

    below: Finite | None = None
    """The largest value that a winner may have."""
    above: Finite | None = None
    """The smallest value that a winner may have."""

    @model_validator(mode="after")
    def _bound_goes_with_mode(self) -> FurtherObjective:
        if self.below is not None and self.above is not None:
            raise ValueError("an entry has one bound, `below` or `above`: write two entries")
        for bound, mode in (("below", "min"), ("above", "max")):
            if getattr(self, bound) is not None and self.mode != mode:
                raise ValueError(f"`{bound}` goes with `mode: {mode}`, which it means by itself")
        return self

    @property
    def is_constraint(self) -> bool:
        """Whether it has a bound."""
        return self.below is not None or self.above is not None

    @property
    def name(self) -> str:
        """Such as `cost/latency_ms below 20`; without a bound `min cost/latency_ms`."""
        if self.below is not None:
            return f"{self.metric} below {in_digits(self.below)}"
        return (
            f"{self.metric} above {in_digits(self.above)}" if self.above is not None else f"{self.mode} {self.metric}"
        )

    def violation(self, metrics: Mapping[str, float]) -> float | None:
        """By how much a trial misses the bound, as a part of it; 0 or less where the bound is kept, None where nothing
        is known of the metric."""
        value = metrics.get(self.metric)
        if value is None:
            return None
        bound, miss = (self.below, 1) if self.below is not None else (self.above, -1)
        assert bound is not None
        return miss * (value - bound) / (abs(bound) or 1.0)

    @property
    def is_known_early(self) -> bool:
        """Whether it bounds what a trial's first report tells for good: it depends on the model's shape alone."""
        return self.is_constraint and self.metric in MODEL_COSTS


def in_digits(value: float) -> str:
    """A number for people: a whole one with all of its digits."""
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"


Further = tuple[FurtherObjective, ...]
"""All that a study names behind its first objective, in order."""


def constraints_in(further: Further) -> Further:
    """Those with a bound."""
    return tuple(each for each in further if each.is_constraint)


def goals_in(further: Further) -> Further:
    """Those without one: together with the first objective they span a Pareto front."""
    return tuple(each for each in further if not each.is_constraint)


def broken_by(metrics: Mapping[str, float], further: Further) -> Further:
    """The constraints that a trial with these metrics does not keep; what is not known is not kept."""
    found = ((each, each.violation(metrics)) for each in constraints_in(further))
    return tuple(each for each, violation in found if violation is None or violation > 0)


def cannot_win(metrics: Mapping[str, float], further: Further) -> bool:
    """Whether a trial that has reported these metrics breaks a constraint however it goes on."""
    return any(each.is_known_early for each in broken_by(metrics, further))
