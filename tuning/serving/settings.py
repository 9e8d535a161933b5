"""What a server is told: how much it takes, and how it gathers requests."""

from __future__ import annotations

from dataclasses import dataclass

from kobert_core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Limits of a server, and of the batches that it makes of requests."""

    max_body: int = 2**20
    """Bytes of the body of a request."""
    body_seconds: float = 30.0
    """How long it may take to come."""
    max_rows: int = 256
    """Rows of a request."""
    max_characters: int = 10_000
    """Characters of a text."""
    max_waiting: int = 1024
    """Rows that wait for the model; more are refused, to be sent again."""
    batch_rows: int = 32
    """Rows that go to the model together."""
    batch_wait_ms: float = 5.0
    """How long a batch waits at most for rows that are expected."""

    def __post_init__(self) -> None:
        if self.max_waiting < self.max_rows:
            raise InputError(
                f"{self.max_waiting} rows may wait, but a request may have {self.max_rows}",
                where="--max-waiting",
                fix="give it as many at least, or fewer to --max-rows",
            )
