"""What `data.train`, `data.dev` and `data.test` may be: a file, several files, a pattern, any of these in an object
store, or a data set of HuggingFace's `datasets`."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kobert_core.errors import InputError
from kobert_core.io.checksums import file_digest
from kobert_core.io.remote import here, is_address, matching

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

HUB = "hf://"
"""Before the name of a data set that `datasets.load_dataset` loads."""
WORKBOOKS = (".xlsx", ".xlsm")
NAMES_SHOWN = 3


class LocalPart(NamedTuple):
    """A file, or a folder that `datasets.save_to_disk` wrote."""

    path: Path
    within: str | None = None
    """A sheet of a workbook, or a split of the folder."""

    def __str__(self) -> str:
        return str(self.path) if self.within is None else f"{self.path}:{self.within}"


class HubPart(NamedTuple):
    """A data set of the hub, or a local folder that `datasets.load_dataset` takes for one."""

    name: str
    within: tuple[str, ...] = ()
    """Its configuration, split, or both."""

    def __str__(self) -> str:
        return HUB + ":".join((self.name, *self.within))


Part = LocalPart | HubPart
"""What is read as one table."""


@dataclass(frozen=True)
class Source:
    """Where rows come from, as a study names it. Equal to another that is written in the same way."""

    entries: tuple[str, ...]
    """Each a path, a pattern, `folder:split`, `workbook.xlsx:sheet`, the address of such a thing in an object store, or
    `hf://name[:config][:split]`."""

    @classmethod
    def of(cls, value: object) -> Source:
        """A source from a path, a text, or a list of them."""
        if isinstance(value, Source):
            return value
        entries: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
        if not entries or not all(isinstance(entry, str | os.PathLike) for entry in entries):
            raise ValueError(f"give a file, a pattern such as parts/*.tsv, or a list of them, not {value!r:.40}")
        texts = [os.fspath(entry) for entry in entries]
        return cls(tuple(text if text.startswith(HUB) or is_address(text) else str(Path(text)) for text in texts))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        from pydantic_core import core_schema  # who gets here has it; commands that read no study need not wait for it

        as_json = core_schema.plain_serializer_function_ser_schema(cls.as_json)
        return core_schema.no_info_plain_validator_function(cls.of, serialization=as_json)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, object]:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}

    def as_json(self) -> str | list[str]:
        """What `of` makes an equal source of."""
        return self.entries[0] if len(self.entries) == 1 else list(self.entries)

    def starting_from(self, folder: Path) -> Source:
        """This source with absolute paths, where its relative ones start from a folder."""
        return Source(tuple(_absolute(entry, folder) for entry in self.entries))

    def without_folders(self) -> Source:
        """This source without the place on this machine."""
        return Source(tuple(_name(each) if each.startswith((HUB, os.sep)) else each for each in self.entries))

    @property
    def name(self) -> str:
        """What to call it in a line: the name of the file, without its folder."""
        return _some(list(map(_name, self.entries)))

    def __str__(self) -> str:
        return _some(list(self.entries))

    def parts(self) -> list[Part]:
        """The files and data sets, those of a pattern sorted by name.

        Raises:
            InputError: no file matches a pattern.
        """
        return [part for entry in self.entries for part in _parts(entry)]

    def local_paths(self) -> list[Path]:
        """The files and folders that are read here; those of an address are fetched first."""
        return [part.path for part in self.parts() if isinstance(part, LocalPart)]

    def files(self) -> list[Path]:
        """The files that must lie here, those within folders too; what has an address is fetched where it is read."""
        own = Source(tuple(entry for entry in self.entries if not is_address(entry)))
        return [file for path in own.local_paths() for file in _files(path)]

    @property
    def has_address(self) -> bool:
        """Whether some of it lies in an object store."""
        return any(map(is_address, self.entries))

    def is_here(self) -> bool:
        """Whether all of it is on this machine, or could be fetched; data sets of the hub count as absent."""
        try:
            parts = self.parts()
        except InputError:
            return False
        return all(isinstance(part, LocalPart) and part.path.exists() for part in parts)

    def digest(self) -> str:
        """The SHA-256 of the content: of a file, its own; of several, of theirs in their order.

        Raises:
            InputError: some of it cannot be read.
        """
        digests = list(map(_digest, self.parts()))
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def part_names(parts: Iterable[Part]) -> list[str]:
    """A name for each part in lines about it: the shortest that tells them apart."""
    names = [Path(str(part)).name for part in parts]
    return names if len(set(names)) == len(names) else list(map(str, parts))


def _parts(entry: str) -> list[Part]:
    if entry.startswith(HUB):
        name, *within = _hub_names(entry)
        return [HubPart(name, tuple(within))]
    if is_address(entry):
        return _parts_at(entry)
    if not os.path.exists(entry):
        head, _, within_it = entry.rpartition(":")
        if head and (os.path.isdir(head) or Path(head).suffix.lower() in WORKBOOKS):
            return [LocalPart(Path(head), within_it)]
        if re.search(r"[*?[]", entry):
            found = sorted(filter(os.path.isfile, glob.glob(entry, recursive=True)))
            if not found:
                raise InputError("no file matches this pattern", where=entry, fix="check its folder and its suffix")
            return [LocalPart(Path(each)) for each in found]
    return [LocalPart(Path(entry))]


def _parts_at(address: str) -> list[Part]:
    head, _, within = address.rpartition(":")
    if is_address(head) and "/" not in within and Path(head).suffix.lower() in ("", *WORKBOOKS):
        return [LocalPart(Path(here(head)), within)]
    found = matching(address) if re.search(r"[*?[]", address) else [address]
    return [LocalPart(Path(here(each))) for each in found]


def _hub_names(entry: str) -> list[str]:
    return re.split(r":(?![^[]*])", entry.removeprefix(HUB))  # not within `train[:100]`


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield path


def _absolute(entry: str, folder: Path) -> str:
    if is_address(entry):
        return entry
    if not entry.startswith(HUB):
        return os.path.abspath(folder / entry)
    name, *within = _hub_names(entry)
    path = os.path.abspath(folder / name)
    return HUB + ":".join([path if os.path.isdir(path) else name, *within])


def _name(entry: str) -> str:
    if not entry.startswith(HUB):
        return Path(entry).name
    name = entry.removeprefix(HUB)
    return HUB + (Path(name).name if Path(name).is_absolute() else name)


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _digest(part: Part) -> str:
    if isinstance(part, HubPart):
        from kobert_core.data.hf_datasets import hub_digest

        return hub_digest(part.name, part.within)
    if part.path.is_dir():
        from kobert_core.data.hf_datasets import saved_digest

        return saved_digest(part.path, part.within)
    digest = file_digest(part.path)
    return digest if part.within is None else hashlib.sha256(f"{digest}\n{part.within}".encode()).hexdigest()
