"""What the best checkpoint answered to each row or question, as a file of the sweep: gzip, a JSON object a line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_bytes
from tuning.sweep_dir.confirm_runs import ConfirmRun
from tuning.sweep_dir.layout import REVIEW, confirm_folder

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


def reviewed_runs(sweep: Path, runs: Iterable[ConfirmRun], trial: int) -> list[Path]:
    """The answers of the runs of a trial that the verdict rests on, as far as they were kept."""
    judged = [run.number for run in runs if run.is_judged and run.trial == trial]
    paths = [confirm_folder(sweep, number) / REVIEW for number in judged]
    return [path for path in paths if path.is_file()]


def reviews_of_winner(sweep: Path, runs: Iterable[ConfirmRun], trial: int) -> list[Path]:
    """The answers of the runs that confirm the winner; of a sweep that confirms nothing, those of the winner to dev."""
    return reviewed_runs(sweep, runs, trial) or [path for path in [sweep / REVIEW] if path.is_file()]


def only_answer(review: Review) -> object | None:
    """What is answered to every row or question, where that is one and the same although not the same is expected;
    else None."""
    answers = {json.dumps(record["predicted"], ensure_ascii=False) for record in review}
    expected = {json.dumps(record["expected"], ensure_ascii=False) for record in review}
    return review[0]["predicted"] if len(answers) == 1 and len(expected) > 1 else None
