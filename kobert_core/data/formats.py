"""A source to its columns and records, one function a format. What the columns mean is not known here.

Parquet is read through pyarrow, Excel through openpyxl. Text is not read through pandas: a row that cannot be used must
cost nothing but itself, and be named by its line. pandas ends at the first broken quote or line of JSON, fills up a row
with too few fields, drops or refuses one with too many, and counts no lines where cells hold line ends. To import it
takes as long as to read 150,000 reviews.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kobert_core.data.arrow_tables import ROWS_AT_ONCE, leaves, rows_of
from kobert_core.data.dialect import DEFAULT, UTF_8, Dialect
from kobert_core.data.excel import read_sheet
from kobert_core.data.source import WORKBOOKS, HubPart, LocalPart, Part, Source, part_names
from kobert_core.data.text_files import (
    COMPRESSED,
    display_name,
    encoding_of,
    is_compressed,
    open_text,
    read_lines,
    read_text,
    reading,
)
from kobert_core.errors import InputError
from kobert_core.texts import character_problem, composed

Line = int | str
"""Of a file the number of a line, from 1; of Parquet, an array of JSON and a data set that of a row; where there are
several files, `name:number`."""

Record = tuple[Line, Sequence[object] | str]
"""The line on which it starts, and its values in the order of the columns, or why it has none."""

Table = tuple[list[str], Iterable[Record]]
"""Names of the columns, and the records, which are read from the file as they are asked for."""


def read_table(source: Source | str | Path, wanted: Collection[str], dialect: Dialect = DEFAULT) -> Table:
    """The columns and records of a source; the suffix of a file names its format.

    Args:
        source: One or several files or data sets. Of several, all must have the columns that are wanted, or none.
        wanted: Columns whose values are needed, by their `composed` names; some formats give None for the others.
        dialect: How text is to be read.

    Raises:
        InputError: it cannot be read or is empty, its suffix is unknown, or it has no header, no JSON object, or is no
            Parquet.
    """
    parts = Source.of(source).parts()
    tables = (_read_part(part, wanted, dialect) for part in parts)
    names, records = next(tables)
    if len(parts) == 1:
        return names, records

    def all_records() -> Iterator[Record]:
        for part, label, (its_names, its_records) in zip(
            parts, part_names(parts), itertools.chain([(names, records)], tables), strict=True
        ):
            at = _same_columns(names, its_names, wanted, part, parts[0])
            for line, values in its_records:
                moved = values if isinstance(values, str) else [None if k is None else values[k] for k in at]
                yield f"{label}:{line}", moved

    return names, all_records()


def _same_columns(
    names: list[str], here: list[str], wanted: Collection[str], part: Part, first: Part
) -> list[int | None]:
    """For each column of the first part its place in another one."""
    theirs, ours = (sorted(set(map(composed, each)) & set(wanted)) for each in (names, here))
    if theirs != ours:
        missing = next(name for name in (*theirs, *ours) if name not in theirs or name not in ours)
        there, lacking = (first, part) if missing in theirs else (part, first)
        fix = "all files of a list or pattern need the same columns"
        raise InputError(f"has no column {missing!r}, but {there} has one", where=lacking, fix=fix)
    places = {composed(name): place for place, name in reversed(list(enumerate(here)))}
    return [places.get(composed(name)) for name in names] if names != here else list(range(len(names)))


def _read_part(part: Part, wanted: Collection[str], dialect: Dialect) -> Table:
    if isinstance(part, HubPart):
        from kobert_core.data.hf_datasets import hub_dataset

        return hub_dataset(part.name, part.within).read(wanted)
    if part.path.is_dir():
        from kobert_core.data.hf_datasets import saved_dataset

        return saved_dataset(part.path, part.within).read(wanted)
    path = part.path
    with reading(path), open(path, "rb") as file:
        if not file.read(1):
            raise InputError("is empty", where=path)
    suffix = path.suffix.lower()
    if suffix in BINARY:
        return BINARY[suffix](part, wanted, dialect)
    if is_compressed(path):
        suffix = path.with_suffix("").suffix.lower()
        if suffix in BINARY:
            raise InputError(f"a file {suffix!r} is read as it is", where=path, fix="unpack it")
    if suffix not in TEXT:
        packed = f"those of text also with {', '.join(COMPRESSED)} behind"
        fix = f"use one of {', '.join((*TEXT, *BINARY))}, {packed}"
        raise InputError(f"unknown kind of file {path.suffix!r}", where=path, fix=fix)
    with open_text(path, dialect.encoding) as text:
        if not any(block.strip() for block in iter(lambda: text.read(1 << 20), "")):
            raise InputError("is empty", where=path)
    names, records = TEXT[suffix](part, wanted, dialect)
    encoding = encoding_of(path, dialect.encoding)
    return names, records if encoding == UTF_8 else _without_broken(records, encoding)


def _without_broken(records: Iterable[Record], encoding: str) -> Iterator[Record]:
    """The records of a file in another encoding than UTF-8, where what cannot be decoded is said to be broken."""
    for line, values in records:
        broken = any(isinstance(value, str) and "\udcff" in value for value in values)
        yield line, f"broken {display_name(encoding)}" if broken else values


def _lines(part: LocalPart, dialect: Dialect) -> Iterator[str]:
    return read_lines(part.path, dialect.encoding)


def _numbered(first: Record, records: Iterator[Record]) -> Table:
    """The table of a file without names of columns."""
    return list(map(str, range(len(first[1])))), itertools.chain([first], records)


def _tsv(part: LocalPart, wanted: Collection[str], dialect: Dialect) -> Table:
    delimiter = dialect.delimiter or "\t"
    rows = (line.removesuffix("\r").split(delimiter) for line in _lines(part, dialect))
    first = next(rows)
    records: Iterator[Record] = ((number, _fields(values, len(first))) for number, values in enumerate(rows, start=2))
    if not dialect.header:
        return _numbered((1, first), records)
    _check_delimiter(first, wanted, delimiter, part)
    return first, records


def _check_delimiter(names: list[str], wanted: Collection[str], delimiter: str, part: LocalPart) -> None:
    """Refuse a header that has the columns that are wanted, once it is split in another way."""
    for other in "\t,;|":
        if len(names) == 1 and other in names[0] and {composed(name) for name in names[0].split(other)} & set(wanted):
            what = f"{delimiter!r} is not between the names of its columns, but {other!r}"
            raise InputError(what, where=part, fix=f"set `data.delimiter: {json.dumps(other)}`")


def _fields(values: list[str] | None, width: int) -> list[str] | str:
    """The fields of a record, or what is wrong with them."""
    if values is None:
        return "not CSV (RFC 4180)"
    if len(values) != width:
        return f"{len(values)} fields instead of {width}" if any(values) else "empty line"
    return values


def _csv(part: LocalPart, wanted: Collection[str], dialect: Dialect) -> Table:
    delimiter = dialect.delimiter or ","
    records = _csv_records(_lines(part, dialect), delimiter)
    first = next(records)
    names = first[1]
    if isinstance(names, str):
        raise InputError(f"the {'header' if dialect.header else 'first line'} is not CSV (RFC 4180)", where=part)
    if not dialect.header:
        return _numbered(first, records)
    _check_delimiter(list(names), wanted, delimiter, part)
    return list(names), records


def _csv_records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """The header and the records. A quote that is never closed swallows good rows: where the fields do not come out
    right, only the first line is given up, and reading goes on with the second."""
    ahead: deque[str] = deque()

    def take(taken: list[str]) -> Iterator[str]:
        while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
            taken.append(line)
            yield line + "\n"

    at, width = 1, 0
    while True:
        taken: list[str] = []
        first = next(take(taken), None)
        if first is None:
            return
        values: list[str] | None = taken[0].removesuffix("\r").split(delimiter)
        if '"' in first:
            try:
                lines_of_it = itertools.chain([first], take(taken))
                values = next(csv.reader(lines_of_it, delimiter=delimiter, strict=True))
            except csv.Error:
                values = None
        width = width or len(values or ())
        fields = _fields(values, width)
        yield at, fields
        used = 1 if isinstance(fields, str) else len(taken)
        ahead.extendleft(reversed(taken[used:]))
        at += used


def _json_lines(part: LocalPart, wanted: Collection[str], dialect: Dialect) -> Table:
    names = _names(map(_json_object, _lines(part, dialect)), wanted)
    if not names:
        raise InputError("no line is a JSON object", where=part, fix="write one object a line")
    return names, _values(map(_json_object, _lines(part, dialect)), names)


def _json_object(line: str) -> dict[str, object] | str:
    if not line.strip():
        return "empty line"
    try:
        value = json.loads(line)
        return _flat(value) if isinstance(value, dict) else "not a JSON object"
    except (ValueError, RecursionError):
        return character_problem(line) or "not JSON"


def _flat(item: dict[str, object]) -> dict[str, object]:
    """An object with what the objects in it hold, too, under dotted names such as `labels.label`."""
    inner = [(name, _flat(value)) for name, value in item.items() if isinstance(value, dict)]
    if not inner:
        return item
    dotted = {f"{name}.{key}": each for name, values in inner for key, each in values.items()}
    return item | {name: each for name, each in dotted.items() if name not in item}


def _names(items: Iterable[dict[str, object] | str], wanted: Collection[str]) -> list[str]:
    """The names that objects have, as they come, until all that are wanted are there."""
    names: dict[str, None] = {}
    for item in items:
        if isinstance(item, dict) and not item.keys() <= names.keys():
            names |= dict.fromkeys(item)
            if set(wanted) <= set(map(composed, names)):
                break
    return list(names)


def _values(items: Iterable[dict[str, object] | str], names: list[str]) -> Iterator[Record]:
    for number, item in enumerate(items, start=1):
        yield number, item if isinstance(item, str) else [item.get(name) for name in names]


def _json(part: LocalPart, wanted: Collection[str], dialect: Dialect) -> Table:
    """An array of objects, or an object in which one list of objects is; or lines, which are often named so, too."""
    text = read_text(part.path, dialect.encoding)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(_json_object(text.lstrip().partition("\n")[0]), dict):
            return _json_lines(part, wanted, dialect)
        raise InputError(f"is not JSON ({error})", where=part) from error
    if isinstance(content, dict):
        lists = {name: each for name, each in content.items() if isinstance(each, list) and _has_objects(each)}
        if len(lists) > 1:
            fix = "write an array of objects"
            raise InputError(f"several lists of objects are in it: {', '.join(lists)}", where=part, fix=fix)
        content = next(iter(lists.values()), None)
    if not isinstance(content, list) or not _has_objects(content):
        fix = "write one, as pandas does with `to_json(orient='records')`"
        raise InputError("has no array of JSON objects", where=part, fix=fix)
    items = [_flat(item) if isinstance(item, dict) else "not a JSON object" for item in content]
    names = _names(items, wanted)
    return names, _values(items, names)


def _has_objects(items: Iterable[object]) -> bool:
    return any(isinstance(item, dict) for item in items)


def _excel(part: LocalPart, wanted: Collection[str], dialect: Dialect) -> Table:
    rows = read_sheet(part.path, part.within)
    number, first = next(((number, cells) for number, cells in rows if cells), (0, []))
    if not first:
        raise InputError("has no cells with anything in it", where=part)
    width = len(first)

    def records() -> Iterator[Record]:
        empty: list[Record] = []
        for line, cells in rows:
            if not cells:
                empty.append((line, "empty line"))
                continue
            yield from empty
            empty.clear()
            filled = [*cells, *[None] * (width - len(cells))]
            yield line, filled if len(filled) == width else f"{len(filled)} fields instead of {width}"

    if not dialect.header:
        return _numbered((number, first), records())
    return ["" if name is None else str(name) for name in first], records()


def _parquet(part: LocalPart, wanted: Collection[str], dialect: Dialect) -> Table:
    import pyarrow.parquet

    with _parquet_errors(part):
        file = pyarrow.parquet.ParquetFile(part.path)
        schema = file.schema_arrow
        needed = {path[0]: None for name, path in leaves(schema).items() if composed(name) in wanted}
        names, rows = rows_of(schema, file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(needed)), wanted)

    def records() -> Iterator[Record]:
        with _parquet_errors(part):
            yield from rows

    return names, records()


@contextmanager
def _parquet_errors(part: LocalPart) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # for a damaged file pyarrow raises all kinds of exceptions, not only its own
        raise InputError(f"is not a Parquet file ({error})", where=part) from error


_Reader = Callable[[LocalPart, Collection[str], Dialect], Table]
TEXT: dict[str, _Reader] = {
    ".tsv": _tsv,
    ".txt": _tsv,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json-lines": _json_lines,
    ".json": _json,
}
BINARY: dict[str, _Reader] = {".parquet": _parquet, **dict.fromkeys(WORKBOOKS, _excel)}
