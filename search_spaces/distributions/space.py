"""The space of all searched parameters."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from kobert_core.errors import InputError
from search_spaces.distributions.kinds import Constant, Distribution, Trial, any_of, parse_distribution, same
from search_spaces.validation import Problems, Where, nowhere, show, suggest_known

MAX_GRID = 10_000
"""Most points of a grid, and of a space whose points are listed."""


class Space(Mapping[str, Distribution]):
    """All searched parameters by name; those that a condition refers to come before those that have it."""

    def __init__(self, distributions: Mapping[str, Distribution], *, where: Where = nowhere) -> None:
        """Put the parameters in order.

        Raises:
            InputError: a condition cannot be met: no such parameter, no such value, or a cycle.
        """
        problems = Problems()
        for name, distribution in distributions.items():
            _check_conditions(name, distribution, distributions, problems)
        problems.raise_first(where)
        self.order = tuple(_in_order(distributions, where))
        self._distributions = {name: distributions[name] for name in self.order}

    @classmethod
    def from_dict(cls, raw: Any, *, where: Where = nowhere) -> Space:
        """The space that the `parameters` of a study file describe.

        Raises:
            InputError: they are not parameters; `where` tells the place of a dotted key, `parameters.…`.
        """
        problems = Problems()
        if not isinstance(raw, dict):
            what = f"`parameters` must be a mapping of keys to values, but got {show(raw)}"
            raise InputError(what, where=where("parameters"))
        found = {}
        for name, value in raw.items():
            found[name] = parse_distribution(f"parameters.{name}", value, problems)
        problems.raise_first(where)
        return cls({name: each for name, each in found.items() if each is not None}, where=where)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """What `from_dict` reads."""
        return {
            name: {"distribution": each.model_dump()["distribution"]} | each.model_dump(exclude_defaults=True)
            for name, each in self.items()
        }

    def __getitem__(self, name: str) -> Distribution:
        return self._distributions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __repr__(self) -> str:
        return f"Space({self._distributions!r})"

    @property
    def has_conditions(self) -> bool:
        """Whether some parameters exist in some trials only."""
        return any(each.when for each in self.values())

    def part(self, names: Iterable[str]) -> Space:
        """The parameters of these names, as far as they are there, and those that their conditions refer to."""
        wanted: set[str] = set()
        for name in reversed(self.order):  # a condition refers to what comes before
            if name in names or name in wanted:
                wanted |= {name, *self[name].when}
        return Space({name: self[name] for name in self.order if name in wanted})

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A value for each parameter that the trial has, constants among them."""
        values: dict[str, Any] = {}
        for name, distribution in self.items():
            if _holds(distribution, values):
                values[name] = distribution.suggest(trial, name)
        return values

    def active(self, values: Mapping[str, Any]) -> list[str]:
        """The parameters that a trial with these values has, as far as they are given."""
        known: dict[str, Any] = {}
        names = []
        for name, distribution in self.items():
            if _holds(distribution, known):
                names.append(name)
                if isinstance(distribution, Constant):
                    known[name] = distribution.value
                elif name in values:
                    known[name] = values[name]
        return names

    def contains(self, values: Mapping[str, Any]) -> None:
        """Refuse values that no trial can have; some may be left out.

        Raises:
            InputError: not a parameter, not a possible value, or not active with the other values.
        """
        problems = Problems()
        self.find_problems(values, key="", problems=problems)
        problems.raise_first(nowhere)

    def find_problems(self, values: Mapping[str, Any], *, key: str, problems: Problems) -> None:
        """What `contains` would raise, with the dotted key under which the values stand."""
        known = {name: each.value for name, each in self.items() if isinstance(each, Constant)} | dict(values)
        for name, value in values.items():
            place = f"{key}.{name}".strip(".")
            if name not in self:
                problems.add(place, f"`{name}` is not a searched parameter", suggest_known(name, self))
            elif not self[name].contains(value):
                problems.add(place, f"`{name}` cannot be {show(value)}", f"it is searched as {self[name]}")
            else:
                for other, wanted in self[name].when.items():
                    if other in known and not any(same(known[other], each) for each in wanted):
                        fix = f"it is there only when `{other}` is {any_of(wanted)}"
                        problems.add(place, f"`{name}` is given, but `{other}` is {show(known[other])}", fix)

    def grid(self) -> dict[str, list[Any]]:
        """All values of each parameter that Optuna hears of.

        Raises:
            InputError: a parameter is continuous, or the grid has more than `MAX_GRID` points.
        """
        self.grid_size()
        return {name: each.grid() for name, each in self.items() if not isinstance(each, Constant)}

    def grid_size(self) -> int:
        """How many points the grid has.

        Raises:
            InputError: a parameter is continuous, or there are more than `MAX_GRID` points.
        """
        size = 1
        for name, each in self.items():
            count = each.count()
            if count is None:
                raise InputError(f"`{name}` is continuous: it has no grid", fix="give it `values`, or a `q`")
            size *= count
        if size > MAX_GRID:
            raise InputError(f"the grid has {size} points", fix=f"it may have {MAX_GRID} at most")
        return size

    def points(self) -> list[dict[str, Any]] | None:
        """All values that a trial can have, constants among them; None when there are more than `MAX_GRID`."""
        counts = [each.count() for each in self.values()]
        if any(count is None or count > MAX_GRID for count in counts):
            return None
        combinations = self._combinations({}, self.order, lambda name: self[name].grid())
        found = list(itertools.islice(combinations, MAX_GRID + 1))
        return found if len(found) <= MAX_GRID else None

    def identity(self, values: Mapping[str, Any]) -> Hashable:
        """The same for two trials exactly when they have the same values; None when some values are missing."""
        names = [name for name in self.active(values) if not isinstance(self[name], Constant)]
        if any(name not in values for name in names):
            return None
        return tuple((name, self[name].identity(values[name])) for name in names)

    def corners(self, limit: int, fixed: Mapping[str, Any] = MappingProxyType({})) -> Iterator[dict[str, Any]]:
        """Values at the ends of all parameters: all combinations, or `limit` random ones if there are more.

        Those that are `fixed` have the given value.
        """

        def ends(name: str) -> Sequence[Any]:
            return (fixed[name],) if name in fixed else self[name].ends()

        if math.prod(len(ends(name)) for name in self) <= limit:
            yield from self._combinations({}, self.order, ends)
            return
        generator = random.Random(0)
        for _ in range(limit):
            values: dict[str, Any] = {}
            for name, each in self.items():
                if _holds(each, values):
                    values[name] = generator.choice(ends(name))
            yield values

    def _combinations(
        self, values: dict[str, Any], names: Sequence[str], of: Callable[[str], Sequence[Any]]
    ) -> Iterator[dict[str, Any]]:
        """Each combination of what `of` gives of a parameter, by its name."""
        if not names:
            yield values
        elif not _holds(self[names[0]], values):
            yield from self._combinations(values, names[1:], of)
        else:
            for value in of(names[0]):
                yield from self._combinations(values | {names[0]: value}, names[1:], of)


def _check_conditions(
    name: str, distribution: Distribution, space: Mapping[str, Distribution], problems: Problems
) -> None:
    for other, wanted in distribution.when.items():
        key = f"parameters.{name}.when.{other}"
        if other not in space:
            problems.add(key, f"`{key}`: `{other}` is not a parameter", suggest_known(other, space))
        elif space[other].count() is None:
            problems.add(key, f"`{key}`: `{other}` is continuous", "a condition needs countable values")
        elif not wanted or not all(space[other].contains(value) for value in wanted):
            fix = f"it is searched as {space[other]}"
            problems.add(key, f"`{key}`: `{other}` can never be {any_of(wanted)}", fix)


def _in_order(distributions: Mapping[str, Distribution], where: Where) -> Iterable[str]:
    """As they are given, but what a condition refers to before what has it."""
    done: dict[str, None] = {}
    while len(done) < len(distributions):
        left = [name for name in distributions if name not in done]
        ready = next((name for name in left if distributions[name].when.keys() <= done.keys()), None)
        if ready is None:
            circle = ", ".join(f"`{name}`" for name in left)
            what = f"the conditions of {circle} go round in a circle"
            raise InputError(what, where=where(f"parameters.{left[0]}.when"))
        done[ready] = None
    return done


def _holds(distribution: Distribution, values: Mapping[str, Any]) -> bool:
    return all(
        other in values and any(same(values[other], value) for value in wanted)
        for other, wanted in distribution.when.items()
    )
