"""Where a sweep keeps what belongs to one trial."""

from __future__ import annotations

from pathlib import Path

from kobert_core.errors import InputError
from tuning.sweep_dir.trial_table import TrialRecord

TRIALS = "trials"
LOG = "log.txt"
CHECKPOINTS = "checkpoints"
DONATIONS = "donations"
MODEL_FILES = "model"
MAX_DONATIONS = 5
"""So many checkpoints of a trial are held for others that may go on from them."""


def checkpoint_of(sweep: Path, record: TrialRecord) -> Path:
    """The folder of a trial's best checkpoint, inside its sweep wherever that lies now.

    Raises:
        InputError: it has none any more.
    """
    if record.checkpoint is None:
        raise InputError(
            f"trial {record.trial} ({record.state}) has no checkpoint any more",
            where=sweep,
            fix="only the best few trials keep theirs: see `keep_checkpoints` in the study file",
        )
    return trial_folder(sweep, record.trial) / CHECKPOINTS / Path(record.checkpoint).name


def trial_folder(sweep: Path, trial: int) -> Path:
    """The folder of a trial, by its number."""
    return sweep / TRIALS / f"{trial:04d}"
