"""What stands in for an Optuna trial in `Space.suggest`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


class AskedTrial:
    """Is asked for each parameter as an Optuna trial is."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._value(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._value(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[CategoricalChoiceType]) -> object:
        return self._value(name, CategoricalDistribution(choices))

    @abstractmethod
    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        """The value of a parameter."""


class GivenTrial(AskedTrial):
    """Answers with given values, and notes which of them it was asked for, and how."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        """Raises KeyError where none is given."""
        self.params[name], self.distributions[name] = self._given[name], distribution
        return self._given[name]
