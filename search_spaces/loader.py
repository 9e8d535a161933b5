"""A study file as plain values that know their lines, and its space."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, nodes
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, DocumentStartEvent

from kobert_core.errors import InputError
from search_spaces.distributions import Space
from search_spaces.validation import show

MAX_BYTES = 2**20
MAX_DEPTH = 32
OF_DATA = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx", ".xlsm")
"""Suffixes that no study has."""
MAX_VALUES = 100_000
"""Counted after aliases are replaced by what they stand for."""

_SCALARS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str"))
_TEXT, _LIST, _MAPPING, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map", "merge"))


@dataclass(frozen=True)
class RawStudy:
    """What a study file and its overrides say."""

    path: Path
    values: dict[str, Any]
    """Everything but `parameters`: texts, numbers, true, false, null, and lists and dicts of them."""
    space: Space
    lines: Mapping[str, int]
    """Dotted key → line, from 1."""
    overrides: Mapping[str, str]
    """Dotted key → the override that set it, as it was given."""

    def where(self, key: str) -> str:
        """The place of a dotted key, `study.yaml:12` or the override; or of what would hold it."""
        while key:
            if key in self.overrides:
                return f"--set {self.overrides[key]}"
            if key in self.lines:
                return f"{self.path}:{self.lines[key]}"
            for below, override in self.overrides.items():
                if below.startswith(f"{key}."):
                    return f"--set {override}"
            key = key.rpartition(".")[0]
        return str(self.path)

    def folder_of(self, key: str) -> Path:
        """What a relative path under a dotted key starts from: the file's folder; for an override, here."""
        return Path.cwd() if self.where(key).startswith("--set ") else self.path.absolute().parent


def load_study_file(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RawStudy:
    """Read a study file: YAML 1.2 (`1e-5` is a number, `no` a text) where no key may be given twice.

    Args:
        path: The study file.
        overrides: `KEY=VALUE` with a dotted key and a YAML value. `parameters.optim.backbone_lr={value: 1e-4}`
            addresses the parameter `optim.backbone_lr`.

    Raises:
        InputError: it cannot be read, is no YAML, or its parameters are no space.
    """
    path = Path(path)
    lines: dict[str, int] = {}
    values = _parse(_read(path), str(path), lines)
    if not isinstance(values, dict):
        raise InputError("a study file must be a mapping of keys to values", where=path)
    origins: dict[str, str] = {}
    for override in overrides:
        key = _apply(override, values)
        for old in [old for old in (*lines, *origins) if old == key or old.startswith(f"{key}.")]:
            lines.pop(old, None)
            origins.pop(old, None)
        origins[key] = override
    raw = RawStudy(path, values, Space({}), lines, origins)
    parameters = values.pop("parameters", None)
    space = Space.from_dict({} if parameters is None else parameters, where=raw.where)
    _refuse_searched_and_fixed(raw, space)
    return RawStudy(path, values, space, lines, origins)


def raw_study(values: Mapping[str, Any], *, where: str) -> RawStudy:
    """The same from values that stand in no file; `where` is what their place is called.

    Raises:
        InputError: a value is none that a study file could have, or the parameters are no space.
    """
    try:
        plain = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"a value is no text, number, list or mapping of these ({error})", where=where) from error
    raw = RawStudy(Path(where), plain, Space({}), {}, {})
    space = Space.from_dict(plain.pop("parameters", None) or {}, where=raw.where)
    _refuse_searched_and_fixed(raw, space)
    return RawStudy(Path(where), plain, space, {}, {})


def _read(path: Path) -> str:
    if path.suffix.lower() in OF_DATA and os.path.isfile(path):
        fix = f"`kobert-tune init {shlex.quote(str(path))}` writes a study for it"
        raise InputError("this is a file of data, not a study", where=path, fix=fix)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        is_own = os.path.isfile(os.path.join(os.path.dirname(__file__), f"{path.stem}.yaml"))
        advice = f"`kobert-tune init --example {path.stem}` writes the one of the package" if is_own else None
        raise InputError(f"the study file cannot be read ({reason})", where=path, fix=advice) from error
    if len(content) > MAX_BYTES:
        raise InputError(f"a study file has {MAX_BYTES} bytes at most", where=path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError("this is not UTF-8", where=f"{path}:{line}", fix="save the file as UTF-8") from error


def _parse(text: str, name: str, lines: dict[str, int]) -> Any:
    """Plain values of a YAML text; `lines` gets the line of each dotted key."""
    try:
        _refuse_depth(text, name)
        root = YAML(typ="safe", pure=True).compose(text)
    except InputError:
        raise
    except Exception as error:  # ruamel raises all kinds of exceptions for broken text, not only its own
        mark = error.problem_mark or error.context_mark if isinstance(error, MarkedYAMLError) else None
        problem = error.problem if isinstance(error, MarkedYAMLError) else getattr(error, "reason", error)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise InputError(f"this is not YAML: {problem or error}", where=where) from error
    return None if root is None else _Values(name, lines).of(root, "", 0)


def _refuse_depth(text: str, name: str) -> None:
    """Before anything is built: what comes after calls itself for each level."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        where = f"{name}:{event.start_mark.line + 1}" if event.start_mark else name
        if depth > MAX_DEPTH:
            raise InputError(f"values are nested more than {MAX_DEPTH} deep", where=where)
        if isinstance(event, DocumentStartEvent) and event.version not in (None, (1, 2)):
            raise InputError("a study file is YAML 1.2", where=where, fix="remove the %YAML line")


class _Values:
    """Turns nodes into plain values."""

    def __init__(self, name: str, lines: dict[str, int]) -> None:
        self._name, self._lines, self._count = name, lines, 0
        self._scalars = YAML(typ="safe", pure=True).constructor

    def of(self, node: Any, key: str, depth: int) -> Any:
        """The value of a node that stands under a dotted key."""
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            what = f"more than {MAX_VALUES} values, or nested more than {MAX_DEPTH} deep"
            raise self._error(node, what)
        self._lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, nodes.MappingNode) and node.tag == _MAPPING:
            return self._mapping(node, key, depth)
        if isinstance(node, nodes.SequenceNode) and node.tag == _LIST:
            return [self.of(each, f"{key}.{place}", depth + 1) for place, each in enumerate(node.value)]
        if isinstance(node, nodes.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node)
        what = f"values of the type {node.tag} are not supported"
        raise self._error(node, what, "if it is a text, put it in quotes")

    def _mapping(self, node: Any, key: str, depth: int) -> dict[str, Any]:
        """Keys are what is written, as text: `0: negative` has the key "0"."""
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if name_node.tag == _MERGE:
                raise self._error(name_node, "merge keys (`<<`) are not supported", "write the keys out")
            if not isinstance(name_node, nodes.ScalarNode) or not name_node.value:
                raise self._error(name_node, "a key must be a text")
            name = self._clean(name_node)
            if name in values:
                raise self._error(name_node, f"`{name}` is given twice", f"the first is in line {first[name]}")
            first[name] = line
            child = f"{key}.{name}" if key else name
            self._lines[child] = line
            values[name] = self.of(value_node, child, depth + 1)
        return values

    def _scalar(self, node: Any) -> Any:
        text = self._clean(node)
        if node.tag == _TEXT:
            return text
        try:
            value = self._scalars.construct_object(node)
        except (ValueError, KeyError, IndexError) as error:
            raise self._error(node, f"`{text[:40]}` is not a value of its type") from error
        limit = 2**63 if isinstance(value, int) else math.inf
        if isinstance(value, int | float) and not abs(value) < limit:  # NaN, too
            raise self._error(node, f"`{text[:40]}` is not a finite number, or too large")
        return value

    def _clean(self, node: Any) -> str:
        text: str = node.value
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise self._error(node, "a text holds a character that no file can hold")
        return text

    def _error(self, node: Any, what: str, fix: str | None = None) -> InputError:
        return InputError(what, where=f"{self._name}:{node.start_mark.line + 1}", fix=fix)


def _apply(override: str, values: dict[str, Any]) -> str:
    """Put an override into `values`, and return its dotted key."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        what = f"`{override}` is not of the form KEY=VALUE"
        raise InputError(what, where="--set", fix="such as train.epochs=2")
    value = _parse(text, f"--set {key}", {})
    holder, path = values, key.split(".")
    if path[0] == "parameters" and len(path) > 1:
        holder, path = _section(values, "parameters", key), _parameter_path(values, path[1:])
    for name in path[:-1]:
        holder = _section(holder, name, key)
    holder[path[-1]] = value
    return key


def _section(holder: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    """The mapping under a name, made when it is not there."""
    if holder.get(name) is None:
        holder[name] = {}
    section = holder[name]
    if not isinstance(section, dict):
        raise InputError(f"`{name}` has no keys in it", where=f"--set {key}", fix=f"set `{name}` as a whole")
    return section


def _parameter_path(values: dict[str, Any], names: list[str]) -> list[str]:
    """Names of parameters hold dots: the longest one that is there, then what is under it; else a new one."""
    for length in range(len(names), 0, -1):
        name = ".".join(names[:length])
        if name in values["parameters"]:
            return [name, *names[length:]]
    return [".".join(names)]


def _refuse_searched_and_fixed(raw: RawStudy, space: Space) -> None:
    """A parameter that has conditions may have a fixed value, for when they do not hold; no other may."""
    for name, distribution in space.items():
        section: Any = raw.values
        for part in name.split("."):
            section = section.get(part, raw) if isinstance(section, dict) else raw
        if section is not raw and not distribution.when:
            raise InputError(
                f"`{name}` has a fixed value here, but it is searched ({raw.where(f'parameters.{name}')})",
                where=raw.where(name),
                fix=f"remove one of them, or fix it with `parameters.{name}={{value: {show(section)}}}`",
            )
