"""DataFrames as data of a study: each is written once, by the hash of its content, as a Parquet file that trials, their
hashes and a later resume read like any other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_bytes

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def is_frame(value: object) -> bool:
    """Whether a value is a DataFrame of pandas, or a data set of HuggingFace's `datasets` in memory."""
    kind = type(value)  # by name: to import either library takes long
    package = kind.__module__.partition(".")[0]
    return (package, kind.__name__) in (("pandas", "DataFrame"), ("datasets", "Dataset"))


def _is_pandas(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "pandas"


def store_frame(frame: Any, folder: Path, *, name: str) -> Path:
    """Write a frame into a folder, unless one with the same content is there.

    The index is left out. The name of the file is that of its content: column names, types and cells, whatever version
    of pandas or Arrow writes it.

    Args:
        frame: As `is_frame` knows them. The classes of a data set are written by their names.
        folder: Where to write.
        name: What to call the frame in an error: `data`, `dev` or `test`.

    Raises:
        InputError: it has no rows, two columns of one name, or a column that no file could have.
    """
    where = f"the frame `{name}`"
    table = _table_of(frame if _is_pandas(frame) else _pandas_of(frame), where)
    path = folder / f"{_digest(table)[:16]}.parquet"
    if not path.is_file():
        import pyarrow as pa
        import pyarrow.parquet

        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, sink.getvalue().to_pybytes())
    return path


def _pandas_of(dataset: Any) -> pd.DataFrame:
    frame: pd.DataFrame = dataset.to_pandas()
    for column, feature in dataset.features.items():
        if names := getattr(feature, "names", None):  # a ClassLabel; -1 is none
            frame[column] = [None if number < 0 else names[number] for number in frame[column]]
    return frame


def _table_of(frame: pd.DataFrame, where: str) -> pa.Table:
    import pyarrow as pa

    names = [str(name) for name in frame.columns]
    if frame.columns.nlevels > 1:
        raise InputError("its columns have several levels", where=where, fix="give each column one name")
    if not len(frame):
        raise InputError("has no rows", where=where)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"the column {twice!r} is there {names.count(twice)} times", where=where)
    columns = []
    for place, name in enumerate(names):
        cells = frame.iloc[:, place]
        try:
            columns.append(pa.Array.from_pandas(cells))
        except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError) as error:
            raise _unlike(cells, name, where) from error
    return pa.table(columns, names=names)


def _unlike(cells: pd.Series[Any], name: str, where: str) -> InputError:
    """The error of a column that Arrow does not take: its first cell of another type than the ones before it."""
    kinds: dict[str, int] = {}
    for row, cell in enumerate(cells, start=1):
        if cell is not None and cell == cell:  # not NaN
            kinds.setdefault(type(cell).__name__, row)
    what = ", ".join(f"{kind} (row {row})" for kind, row in kinds.items())
    fix = f"write the column as one type, such as frame[{name!r}].astype(str)"
    return InputError(f"the column {name!r} cannot be written: it has {what}", where=where, fix=fix)


def _digest(table: pa.Table) -> str:
    head: Mapping[str, str] = {field.name: str(field.type) for field in table.schema}
    digest = hashlib.sha256(json.dumps(list(head.items()), ensure_ascii=False).encode("utf-8", "surrogatepass"))
    for batch in table.to_batches(max_chunksize=10_000):
        cells = json.dumps(batch.to_pydict(), ensure_ascii=False, default=str)
        digest.update(cells.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
