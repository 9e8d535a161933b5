"""The folder of a sweep: the name of every file and folder in it, and of what lies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kobert_core.errors import InputError

if TYPE_CHECKING:
    from tuning.sweep_dir.trial_table import TrialRecord

SWEEPS = Path("sweeps")
"""The folder of all sweeps, where nothing else is said."""
STUDY = "study.yaml"
LEDGER, TABLE = "trials.json", "trials.csv"
"""All trials: for the program, and for people."""
WINNER = "winner.json"
MODEL = "model"
"""The exported winner."""
REPORT, REVIEW = "report.html", "review.jsonl.gz"
"""A page on the sweep, and a model's answer to each row or question: the winner's to the dev split, and that of a run
which confirms it, in its own folder, to the holdout."""
TEST_SET_LOG = "test_readings.jsonl"
"""Also in the folder of an exported model."""
PROVENANCE, ENVIRONMENT = "ground.json", "environment.txt"
JOURNAL, SUM = "optuna_journal.log", ".sha256"
"""Optuna's journal; the file with its checksum has the same name and one more suffix."""
EARLIER = "earlier_trials.json"
"""Trials of other sweeps that the search learns from, as they were when the sweep began."""
SPOOL = "tracking.jsonl"
"""`tuning.tracking` writes two more files beside it."""
HEARD = "callbacks.json"
"""How far the callbacks of the study have heard."""
LOCK = ".lock"
HOME = ".storage.json"
"""Of a working copy: the address in an object store that the sweep lives at."""
ASKED, MESSAGES, OUTPUT = ".asked.yaml", "driver.jsonl", "driver.log"
"""Of a sweep that a Python program started: the study that it gave, what the driver says, and what else it printed."""
TENSORBOARD, WANDB = "tensorboard", "wandb"
"""What is written for other trackers, where the study names them."""
SCRATCH = ".ray"
"""Ray's own files."""
SHARED = ".shared-"
"""Prefix of files that are written to check that all machines share the folder."""
TRIALS = "trials"
"""A folder for each trial: see `trial_folder`."""

COSTS = "costs"
"""A file for each shape that models of the sweep have: what such a model costs, where the study asks for that."""

CONFIRM, RUNS = "confirm", "runs.json"
"""The runs that confirm the winner: a folder as of a sweep, whose trials are these runs, and their ledger."""

SOFT_LABELS, SOFT_LABELS_MADE_OF = "soft_labels.parquet", "soft_labels.json"
"""What a teacher says of the texts that a student is trained on, and what that was made of."""
STUDENTS = "students.json"
"""Scores, sizes and latencies of students beside their teacher."""

LOG = "log.txt"
CHECKPOINTS = "checkpoints"
OUTBOX = "outbox"
"""Checkpoints on their way into an object store."""
PBT_CHECKPOINTS = "donations"
"""Checkpoints that are kept for other trials of a population."""
MAX_PBT_CHECKPOINTS = 5
"""The largest number of them for each trial."""
MODEL_FILES = "model"
"""The trial's config and tokenizer; of a run that confirms what is exported, in the end also its weights."""

PLAN = "plan.json"
"""What the sweep was expected to take."""

CACHE, PROFILES, PLANS, FRAMES = "cache", "profiles", "plans", "frames"
"""In the folder of all sweeps; the last has the DataFrames that studies were given."""


def trial_folder(sweep: Path, trial: int) -> Path:
    """The folder of a trial, by its number."""
    return sweep / TRIALS / f"{trial:04d}"


def confirm_folder(sweep: Path, run: int) -> Path:
    """The folder of a run that confirms the winner, by its number."""
    return trial_folder(sweep / CONFIRM, run)


def checkpoint_of(sweep: Path, record: TrialRecord) -> Path:
    """The folder of a trial's best checkpoint, in its sweep's present folder.

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
