"""From pydantic's errors to one line that says what is wrong, where it stands and what would be right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from kobert_core.errors import InputError
from search_spaces.aliases import meant_by, plain, unneeded

Where = Callable[[str], object]
"""From a dotted key to the place in a file where it stands."""

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    key: str
    """Dotted key that it concerns."""
    what: str
    """What is wrong, in words."""
    fix: str | None = None
    """What would be right."""


class Problems(list[Problem]):
    """All that is wrong with one input."""

    def add(self, key: str, what: str, fix: str | None = None) -> None:
        """One more."""
        self.append(Problem(key, what, fix))

    def raise_first(self, where: Where) -> None:
        """Raise the first one, if there is any, and say how many more there are.

        Raises:
            InputError: there is a problem.
        """
        if self:
            self._raise(where)

    def _raise(self, where: Where) -> NoReturn:
        first, more = self[0], len(self) - 1
        what, fix = first.what, first.fix
        if more:
            count = f"({more} more problem{'s' if more > 1 else ''} in this file)"
            what, fix = (what, f"{fix} {count}") if fix else (f"{what} {count}", None)
        raise InputError(what, where=where(first.key), fix=fix)


def nowhere(key: str) -> None:
    """The place of a key that stands in no file."""


def validate(
    model: type[Config], raw: Any, *, key: str, problems: Problems, elsewhere: Iterable[str] = ()
) -> Config | None:
    """A config of `model` from plain values, or None and what is wrong with them. A wrong key may be one of those
    `elsewhere`.

    Numbers are numbers: neither text nor booleans are taken for them. (Read as JSON, pydantic is strict about
    these, but still makes a tuple of a list and a path of a text.)
    """
    try:
        return model.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        problems.extend(_explain(error, model, raw, key, elsewhere))
        return None


def suggest_known(name: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """What a wrong name was meant to be, or all names that are known.

    Args:
        name: The wrong one.
        known: What could stand there.
        elsewhere: What could stand in other places, as dotted keys.
    """
    known = list(known)
    return _meant(name, known, list(elsewhere)) or f"known: {', '.join(known)}"


def _meant(name: str, known: list[str], elsewhere: list[str]) -> str | None:
    """By the name itself, which may be right in another place; by what other tools mean with it; by its spelling."""
    if (advice := unneeded(name)) is not None:
        return advice
    meanings = meant_by(name)
    itself = [each for each in (*known, *elsewhere) if plain(each) == plain(name) and each != name]
    found = [each for each in itself if each in known]
    found = found or [each for each in known if each in meanings]
    found = found or [each for each in known if plain(each) in map(plain, meanings)]
    found = found or [each for each in elsewhere if each in meanings or each in itself]
    if not found and not meanings:
        found = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {' or '.join(f'`{each}`' for each in found[:3])}?" if found else None


def show(value: Any) -> str:
    """A value as it would stand in YAML, cut to a bearable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _explain(
    error: ValidationError, model: type[BaseModel], raw: Any, key: str, elsewhere: Iterable[str]
) -> Iterable[Problem]:
    """A problem for each key, unknown ones first; what a union's branches say of it is put together."""
    found: dict[str, Problem] = {}
    for detail in sorted(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden"):
        place = ".".join([key, *_path(raw, detail["loc"], missing=detail["type"] == "missing")]).strip(".")
        problem = _describe(detail, place, model, elsewhere)
        if place in found and found[place].what != problem.what:
            earlier = found[place].what.partition(", but got")[0]
            problem = Problem(place, f"{earlier} or {problem.what.partition('must be ')[2] or problem.what}")
        found[place] = problem
    return found.values()


def _describe(detail: Any, place: str, model: type[BaseModel], elsewhere: Iterable[str]) -> Problem:
    kind, message = detail["type"], detail["msg"]
    got = f"but got {show(detail['input'])}"
    if kind == "extra_forbidden":
        return Problem(
            place, f"unknown key `{place}`", suggest_known(str(detail["loc"][-1]), model.model_fields, elsewhere)
        )
    if kind == "missing":
        return Problem(place, f"`{place}` must be given")
    if kind == "value_error":
        return Problem(place, f"`{place}`: {detail['ctx']['error']}")
    if kind in ("model_type", "dict_type"):
        return Problem(place, f"`{place}` must be a mapping of keys to values, {got}")
    if message.startswith("Input should be "):
        choices = re.findall("'([^']*)'", detail["ctx"]["expected"]) if kind == "literal_error" else []
        fix = _meant(str(detail["input"]), choices, [])
        return Problem(place, f"`{place}` must be {message.removeprefix('Input should be ')}, {got}", fix)
    return Problem(place, f"`{place}`: {message}, {got}")


def _path(raw: Any, loc: tuple[int | str, ...], *, missing: bool) -> Iterable[str]:
    """The part of a pydantic location that exists in `raw`; the rest of it names branches of unions."""
    for part in loc:
        if (isinstance(raw, dict) and part in raw) or (isinstance(raw, list) and isinstance(part, int)):
            if isinstance(raw, list) and part >= len(raw):  # type: ignore[operator]
                return
            raw = raw[part]  # type: ignore[index]
            yield str(part)
    if missing:
        yield str(loc[-1])
