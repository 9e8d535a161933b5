"""Columns and rows of Arrow's tables, in which Parquet files and data sets of HuggingFace's come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from kobert_core.texts import composed

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 10_000

Records = Iterable[tuple[int, Sequence[object]]]
"""Number of a row from 1, and its values in the order of the columns."""


def leaves(schema: pyarrow.Schema) -> dict[str, tuple[str, ...]]:
    """The path of each column by its name; a column within another has a dotted name, such as `labels.label`."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in schema.names}
    for field in schema:
        for path in _paths_within(field):
            found.setdefault(".".join(path), path)
    return found


def _paths_within(field: pyarrow.Field) -> Iterator[tuple[str, ...]]:
    import pyarrow.types

    if pyarrow.types.is_struct(field.type):
        for inner in field.type.fields:
            yield field.name, inner.name
            yield from ((field.name, *path) for path in _paths_within(inner))


def rows_of(
    schema: pyarrow.Schema,
    batches: Iterable[pyarrow.RecordBatch],
    wanted: Collection[str],
    named: Mapping[str, Callable[[object], object]] = MappingProxyType({}),
) -> tuple[list[str], Records]:
    """Names of the columns, and the rows.

    Args:
        schema: Of the whole table.
        batches: Some rows each, with the columns that are wanted, at least.
        wanted: Columns whose values are needed, by their `composed` names; the others are None.
        named: What to make of the values of a column.
    """
    paths = leaves(schema)
    names = [*schema.names, *(name for name, path in paths.items() if len(path) > 1)]

    def rows() -> Iterator[Sequence[object]]:
        for batch in batches:
            nothing = [None] * batch.num_rows
            columns = {}
            for name, path in paths.items():
                if composed(name) in wanted:
                    columns[name] = _values(batch, path)
                    if make := named.get(name):
                        columns[name] = list(map(make, columns[name]))
            yield from zip(*(columns.get(name, nothing) for name in names), strict=True)

    return names, enumerate(rows(), start=1)


def _values(batch: pyarrow.RecordBatch, path: tuple[str, ...]) -> list[object]:
    import pyarrow.compute
    import pyarrow.types

    column = batch.column(path[0])
    if len(path) > 1:
        column = pyarrow.compute.struct_field(column, list(path[1:]))
    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        column = column.cast("large_binary")  # to_pylist would stop at the first broken string
    return [
        value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in column.to_pylist()
    ]
