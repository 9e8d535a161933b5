"""Files of records: written part by part, so that a run that was cut off goes on, and joined at the end."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_file, atomic_write_json

Records = Sequence[Mapping[str, object]]

STATE = "state.json"


class Format(NamedTuple):
    """How records are written."""

    write: Callable[[Records, Path], None]
    """Writes a part, which has one record at least."""
    join: Callable[[Sequence[Path], Path], None]
    """Writes all parts into one file."""


class PartFiles:
    """The finished parts of a file to be, in the folder `NAME.part` beside it."""

    def __init__(self, output: Path, made_of: Mapping[str, object]) -> None:
        """Take up the parts that an earlier run left, if they were made of the same, else begin anew.

        Args:
            output: The file.
            made_of: All that its content depends on: JSON values.

        Raises:
            InputError: the file's suffix names no format, or there is a folder that is none of parts.
        """
        self._output, self._folder = output, output.with_name(f"{output.name}.part")
        self._format = format_of(output)
        state = self._folder / STATE
        if self._folder.exists():
            try:
                before = json.loads(state.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                what = "is no folder of a file that was cut off"
                raise InputError(what, where=self._folder, fix="move it, or give another name") from error
            if before != made_of:
                self.remove()
        if not state.is_file():
            atomic_write_json(state, made_of)

    def has(self, number: int) -> bool:
        """Whether a part is there, from an earlier run."""
        return self._path(number).is_file()

    def write(self, number: int, records: Records) -> None:
        """Write a part, whole or not at all."""
        with atomic_file(self._path(number)) as path:
            if records:
                self._format.write(records, path)

    def join(self) -> None:
        """Write the file from all parts, whole or not at all, and remove them."""
        parts = [part for part in sorted(self._folder.glob("[0-9]*")) if part.stat().st_size]
        with atomic_file(self._output) as path:
            self._format.join(parts, path)
        self.remove()

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}"


def format_of(output: Path) -> Format:
    """The format that a file's suffix names.

    Raises:
        InputError: it names none.
    """
    if output.suffix not in FORMATS:
        fix = f"end its name in {', '.join(FORMATS)}"
        raise InputError(f"unknown format `{output.suffix}`", where=output, fix=fix)
    return FORMATS[output.suffix]


def as_tsv(records: Records) -> str:
    """Records with a header row, without quoting; tabs and line ends become spaces."""
    rows = [columns(records[0]), *(record.values() for record in records)] if records else []
    return "".join("\t".join(map(in_one_line, row)) + "\n" for row in rows)


def columns(names: Iterable[str]) -> list[str]:
    """Names of columns without line ends; if two become equal, the later ones get a number."""
    found: dict[str, None] = {}
    for name in map(in_one_line, names):
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        found[name if name not in found else next(each for each in numbered if each not in found)] = None
    return list(found)


def in_one_line(cell: object) -> str:
    """A cell without tabs and line ends: they become blanks."""
    return " ".join(as_text(cell).split())


def as_text(cell: object) -> str:
    """A cell as text: a list is JSON, and nothing an empty text."""
    if cell is None:
        return ""
    return json.dumps(cell, ensure_ascii=False) if isinstance(cell, list | dict) else str(cell)


def as_json_lines(records: Records) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _write_text(content: Callable[[Records], str]) -> Callable[[Records, Path], None]:
    def write(records: Records, path: Path) -> None:
        path.write_bytes(content(records).encode("utf-8"))

    return write


def _write_csv(records: Records, path: Path) -> None:
    with open(path, "w", encoding="utf-8-sig", newline="") as file:  # by its mark Excel knows that it is UTF-8
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns(records[0]))
        writer.writerows([as_text(cell) for cell in record.values()] for record in records)


def _write_parquet(records: Records, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(list(records)), path)


def _join_lines(header: bool) -> Callable[[Sequence[Path], Path], None]:
    """Joins files of lines; of a header that each has, only the first is kept."""

    def join(parts: Sequence[Path], path: Path) -> None:
        with open(path, "wb") as whole:
            for number, part in enumerate(parts):
                with open(part, "rb") as file:
                    if header and number:
                        file.readline()
                    shutil.copyfileobj(file, whole)

    return join


def _join_parquet(parts: Sequence[Path], path: Path) -> None:
    """A part without any entity does not say what an entity is: the schema is that of all parts together."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.unify_schemas([parquet.read_schema(part) for part in parts], promote_options="permissive")
    with parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part).cast(schema))


FORMATS: dict[str, Format] = {
    ".jsonl": Format(_write_text(as_json_lines), _join_lines(header=False)),
    ".tsv": Format(_write_text(as_tsv), _join_lines(header=True)),
    ".csv": Format(_write_csv, _join_lines(header=True)),
    ".parquet": Format(_write_parquet, _join_parquet),
}
