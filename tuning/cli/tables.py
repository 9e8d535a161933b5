"""The results of `evaluate` and `describe` as tables; `--json` has the same for programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kobert_core.texts import printable

MAX_CLASSES = 20
"""Without a confusion matrix for more classes than this."""


def print_table(table: Table) -> None:
    """On stdout; into a file or a pipe as wide as it comes, so that nothing is cut off."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    console.print(table)


def table_of(found: Mapping[str, object]) -> Table:
    """Names and values; nested ones are indented."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, value in rows_of(found):
        grid.add_row(cell(name), cell(value))
    return grid


def rows_of(found: Mapping[str, object], indent: str = "") -> Iterator[tuple[str, str]]:
    """Names and values in words, nested ones indented."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}", ""
            yield from rows_of(value, indent + "  ")
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, Mapping):
                    yield f"{indent}{name}", ""
                    yield from rows_of(each, indent + "  ")
                else:
                    yield f"{indent}{name}", str(each)
        elif isinstance(value, float):
            yield f"{indent}{name}", f"{value:.6g}"
        else:
            yield f"{indent}{name}", f"{value:,}" if isinstance(value, int) else str(value)


def class_tables(classes: Mapping[str, Mapping[str, float]], matrix: list[list[int]]) -> list[Table]:
    """The scores of each class, and the confusion matrix, unless there are too many classes."""
    scores = Table(box=None, pad_edge=False, header_style="dim")
    scores.add_column("class")
    for name in next(iter(classes.values())):
        scores.add_column(name, justify="right")
    for name, values in classes.items():
        scores.add_row(
            cell(name), *(f"{value:.4f}" if isinstance(value, float) else f"{value:,}" for value in values.values())
        )
    if len(classes) > MAX_CLASSES:
        return [scores]
    confusion = Table(box=None, pad_edge=False, header_style="dim")
    confusion.add_column("true \\ predicted")
    for name in classes:
        confusion.add_column(cell(name), justify="right")
    for name, counts in zip(classes, matrix, strict=True):
        confusion.add_row(cell(name), *(f"{count:,}" for count in counts))
    return [scores, confusion]


def cell(text: str) -> Text:
    """A user's text in one line of a table: control characters are escaped, line ends become blanks."""
    return Text(printable(re.sub(r"\s", " ", text)))
