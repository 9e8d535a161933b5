"""What the values of one searched parameter may be, in the style of W&B sweeps."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator, model_validator

from kobert_core.config import FrozenConfig
from search_spaces.validation import Problems, show, suggest_known, validate

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Trial(Protocol):
    """What is used of `optuna.Trial`."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Distribution(FrozenConfig):
    """The values that one parameter may take."""

    when: dict[str, list[Any]] = Field(default_factory=dict)
    """The parameter exists only in trials where each of these other parameters has (one of) these values."""

    @field_validator("when", mode="before", json_schema_input_type=dict[str, Any])
    @classmethod
    def _one_value_or_many(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: wanted if isinstance(wanted, list) else [wanted] for name, wanted in value.items()}

    @abstractmethod
    def suggest(self, trial: Trial, name: str) -> Any:
        """Ask Optuna for a value."""

    @abstractmethod
    def contains(self, value: Any) -> bool:
        """Whether `value` is one of the possible values."""

    @abstractmethod
    def ends(self) -> Sequence[Any]:
        """The values at the edge: what a config must at least be able to hold."""

    def count(self) -> int | None:
        """How many values there are; None when it is continuous."""
        return None

    def grid(self) -> list[Any]:
        """All values, in order, when they can be counted."""
        return list(self.ends())

    def identity(self, value: Any) -> Hashable:
        """What two values have in common when they are the same one, however they were rounded."""
        hashable: Hashable = value
        return hashable

    def __str__(self) -> str:
        """Such as `log_uniform, min 1e-05, max 0.0001`."""
        shown = self.model_dump(exclude={"when"})
        parts = [str(shown.pop("distribution")), *(f"{name} {show(value)}" for name, value in shown.items())]
        return ", ".join(parts + [f"when {name} is {any_of(wanted)}" for name, wanted in self.when.items()])


class _Range(Distribution):
    """From `min` to `max`, both included."""

    min: Any
    max: Any

    @model_validator(mode="after")
    def _is_a_range(self) -> _Range:
        if not self.min < self.max:
            raise ValueError(f"`min < max` must hold, but got min={self.min}, max={self.max}")
        return self

    def contains(self, value: Any) -> bool:
        return _is_number(value) and self.min <= value <= self.max

    def ends(self) -> Sequence[Any]:
        return self.min, self.max


class Uniform(_Range):
    """Any number, all equally likely."""

    distribution: Literal["uniform"] = "uniform"
    min: Finite
    max: Finite

    def suggest(self, trial: Trial, name: str) -> float:
        return trial.suggest_float(name, self.min, self.max)


class LogUniform(_Range):
    """Any number, each order of magnitude equally likely."""

    distribution: Literal["log_uniform"] = "log_uniform"
    min: Annotated[Finite, Field(gt=0)]
    max: Finite

    def suggest(self, trial: Trial, name: str) -> float:
        return trial.suggest_float(name, self.min, self.max, log=True)


class QUniform(_Range):
    """`min`, `min + q`, … up to `max`, all equally likely."""

    distribution: Literal["q_uniform"] = "q_uniform"
    min: Finite
    max: Finite
    q: Annotated[Finite, Field(gt=0)]
    """Distance from a value to the next."""

    @model_validator(mode="after")
    def _steps_end_at_max(self) -> QUniform:
        if (Decimal(str(self.max)) - Decimal(str(self.min))) % Decimal(str(self.q)):
            raise ValueError(
                f"`max - min` must be a multiple of `q`, but got min={self.min}, max={self.max}, q={self.q}"
            )
        return self

    def suggest(self, trial: Trial, name: str) -> float:
        return trial.suggest_float(name, self.min, self.max, step=self.q)

    def contains(self, value: Any) -> bool:
        if not super().contains(value):
            return False
        steps = (value - self.min) / self.q
        return math.isclose(steps, round(steps), rel_tol=0, abs_tol=1e-8)

    def identity(self, value: Any) -> Hashable:
        steps: int = round((value - self.min) / self.q)
        return steps

    def count(self) -> int:
        return int((Decimal(str(self.max)) - Decimal(str(self.min))) / Decimal(str(self.q))) + 1

    def grid(self) -> list[float]:
        return [float(Decimal(str(self.min)) + step * Decimal(str(self.q))) for step in range(self.count())]


class Int(_Range):
    """Whole numbers `min`, `min + q`, … up to `max`, all equally likely."""

    distribution: Literal["int"] = "int"
    min: int
    max: int
    q: Annotated[int, Field(ge=1)] = 1
    """Distance from a value to the next."""

    @model_validator(mode="after")
    def _steps_end_at_max(self) -> Int:
        if (self.max - self.min) % self.q:
            raise ValueError(
                f"`max - min` must be a multiple of `q`, but got min={self.min}, max={self.max}, q={self.q}"
            )
        return self

    def suggest(self, trial: Trial, name: str) -> int:
        return trial.suggest_int(name, self.min, self.max, step=self.q)

    def contains(self, value: Any) -> bool:
        return isinstance(value, int) and super().contains(value) and (value - self.min) % self.q == 0

    def count(self) -> int:
        return (self.max - self.min) // self.q + 1

    def grid(self) -> list[int]:
        return list(range(self.min, self.max + 1, self.q))


class IntLog(_Range):
    """Whole numbers, each order of magnitude equally likely."""

    distribution: Literal["int_log"] = "int_log"
    min: Annotated[int, Field(ge=1)]
    max: int

    def suggest(self, trial: Trial, name: str) -> int:
        return trial.suggest_int(name, self.min, self.max, log=True)

    def contains(self, value: Any) -> bool:
        return isinstance(value, int) and super().contains(value)

    def count(self) -> int:
        return self.max - self.min + 1

    def grid(self) -> list[int]:
        return list(range(self.min, self.max + 1))


class Categorical(Distribution):
    """One of some values, all equally likely."""

    distribution: Literal["categorical"] = "categorical"
    values: Annotated[list[Any], Field(min_length=1)]

    @field_validator("values")
    @classmethod
    def _can_be_stored(cls, values: list[Any]) -> list[Any]:
        for place, value in enumerate(values):
            _refuse_containers(value)
            if value in values[:place]:  # True == 1 == 1.0 for Optuna, too
                raise ValueError(f"`values` must differ, but {show(value)} is there twice: {show(values)}")
        return values

    def suggest(self, trial: Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def contains(self, value: Any) -> bool:
        return any(same(value, possible) for possible in self.values)

    def ends(self) -> Sequence[Any]:
        return self.values

    def count(self) -> int:
        return len(self.values)


class Constant(Distribution):
    """Always the same value; Optuna does not hear of it."""

    distribution: Literal["constant"] = "constant"
    value: Any

    @field_validator("value")
    @classmethod
    def _can_be_stored(cls, value: Any) -> Any:
        return _refuse_containers(value)

    def suggest(self, trial: Trial, name: str) -> Any:
        return self.value

    def contains(self, value: Any) -> bool:
        return same(value, self.value)

    def ends(self) -> Sequence[Any]:
        return (self.value,)

    def count(self) -> int:
        return 1


DISTRIBUTIONS: dict[str, type[Distribution]] = {
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "q_uniform": QUniform,
    "int": Int,
    "int_log": IntLog,
    "categorical": Categorical,
    "constant": Constant,
}


def parse_distribution(key: str, raw: Any, problems: Problems) -> Distribution | None:
    """A distribution from its mapping, with W&B's short forms."""
    if not isinstance(raw, dict):
        fix = f"write `{{value: {show(raw)}}}` for a fixed value"
        problems.add(key, f"`{key}` must be a mapping such as `{{min: 0, max: 1}}`, but got {show(raw)}", fix)
        return None
    name = raw.get("distribution", _short_form(raw))
    if not isinstance(name, str) or name not in DISTRIBUTIONS:
        problems.add(
            f"{key}.distribution",
            f"`{key}` needs a `distribution`, or `values`, `value`, or `min` and `max`"
            if name is None
            else f"`{key}.distribution` cannot be {show(name)}",
            suggest_known(str(name), DISTRIBUTIONS),
        )
        return None
    return validate(DISTRIBUTIONS[name], raw, key=key, problems=problems)


def _short_form(raw: Mapping[str, Any]) -> str | None:
    if "values" in raw or "value" in raw:
        return "categorical" if "values" in raw else "constant"
    if "min" in raw and "max" in raw:
        numbers = [raw[name] for name in ("min", "max", "q") if name in raw]
        return "int" if all(isinstance(n, int) for n in numbers) else "q_uniform" if "q" in raw else "uniform"
    return None


def _refuse_containers(value: Any) -> Any:
    if isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"values must be text, finite numbers, true, false or null, but got {show(value)}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(value: Any, other: Any) -> bool:
    """Equal, with `True` and `1` told apart."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def any_of(values: Sequence[Any]) -> str:
    return " or ".join(map(show, values)) or "nothing"
