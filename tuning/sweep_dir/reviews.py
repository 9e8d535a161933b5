"""What the best checkpoint answered to each row or question, as a file of the sweep: gzip, a JSON object a line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_bytes

Review = list[dict[str, Any]]
"""Records as `kobert_core.tasks.base.Task.review` gives them."""


def write_review(path: Path, records: Sequence[dict[str, object]]) -> None:
    """Write the records of a review; the same ones give the same bytes."""
    lines = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    atomic_write_bytes(path, gzip.compress(lines.encode("utf-8", "surrogatepass"), mtime=0))


def read_review(path: Path) -> Review:
    """The records of a review.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8", "surrogatepass").split("\n")
        return [json.loads(line) for line in lines if line]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"the file cannot be read ({error})", where=path) from error
