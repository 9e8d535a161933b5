"""What other packages add: tasks, families of encoders and searchers, by entry points of installed distributions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from kobert_core.errors import InputError, reason_of

T = TypeVar("T")


class Plugins(MutableMapping[str, T]):
    """What this package has of a kind by name, and behind it what others add.

    Other distributions are looked for when a name is asked for that is not known, and one of theirs is imported when it
    is asked for: nobody else waits for it, or stumbles over it.
    """

    def __init__(self, group: str, kind: type[T] | None, own: Mapping[str, T]) -> None:
        """`group`: of the entry points; `kind`: what each must be an instance of, a function if None; `own`: what is
        known here."""
        self._group, self._kind, self._own = group, kind, dict(own)

    @property
    def own(self) -> Mapping[str, T]:
        """What this package has, and what of others was asked for."""
        return self._own

    @cached_property
    def _others(self) -> dict[str, EntryPoint]:
        return {each.name: each for each in entry_points(group=self._group) if each.name not in self._own}

    def __getitem__(self, name: str) -> T:
        """Raises InputError where another package has it, but it cannot be used; it names the package."""
        if name not in self._own:
            self._own[name] = self._load(self._others[name])
        return self._own[name]

    def _load(self, entry: EntryPoint) -> T:
        package = entry.dist.name if entry.dist else entry.value
        where = f"the package {package}, which adds `{entry.name}` to {self._group}"
        try:
            value: T = entry.load()
        except Exception as error:  # another package's own code
            what = f"{entry.value} cannot be imported ({reason_of(error)})"
            raise InputError(what, where=where, fix="mend or uninstall it") from error
        if not (callable(value) if self._kind is None else isinstance(value, self._kind)):
            kind = "function" if self._kind is None else self._kind.__name__
            what = f"{entry.value} must be a {kind}, but is a {type(value).__name__}"
            raise InputError(what, where=where, fix="mend or uninstall it")
        if (named := getattr(value, "name", entry.name)) != entry.name:
            raise InputError(f"{entry.value} calls itself `{named}`", where=where, fix="give both the same name")
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._others

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *self._others]))

    def __len__(self) -> int:
        return len(set(self))

    def __setitem__(self, name: str, value: T) -> None:
        self._own[name] = value

    def __delitem__(self, name: str) -> None:
        del self._own[name]
