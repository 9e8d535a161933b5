"""What stands in a cell of a label or id column, as text."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import suppress


def one_label(values: Sequence[object]) -> list[str]:
    """The label of a row that has one."""
    return [as_string(values[0])]


def as_string(value: object) -> str:
    """A label or id as it would stand in a text file; nothing there is an empty string."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN is how pandas writes a missing number
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def labels_in(value: object, separator: str) -> list[str]:
    """The labels of a cell: those of a list, of a list that is written out as Python or JSON does it, or what stands
    between separators."""
    if isinstance(value, str) and value.strip().startswith("["):
        with suppress(ValueError, SyntaxError):  # the name of a label may begin like this
            value = ast.literal_eval(value.strip())
    if isinstance(value, list | tuple):
        return [as_string(each).strip() for each in value]
    return [label for each in as_string(value).split(separator) if (label := each.strip())]
