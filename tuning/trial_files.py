"""Where a sweep keeps what belongs to one trial."""

from __future__ import annotations

from pathlib import Path

LOG = "log.txt"
CHECKPOINTS = "checkpoints"
MODEL_FILES = "model"


def trial_folder(sweep: Path, trial: int) -> Path:
    """The folder of a trial, by its number."""
    return sweep / "trials" / f"{trial:04d}"
