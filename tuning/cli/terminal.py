"""Output to a terminal: no name, text or log of a user can move the cursor or change colours."""

from __future__ import annotations

import logging

import typer

from kobert_core.texts import printable


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text with its control characters escaped."""
    typer.echo(printable(text), err=err, nl=nl)  # noqa: TID251


class PrintableFormatter(logging.Formatter):
    """A format of log lines with control characters escaped: a warning has its level and place, what is only told has
    not."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return printable(super().format(record) if record.levelno > logging.INFO else record.getMessage())
