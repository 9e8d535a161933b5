"""What a sweep's winner answers on dev, and the report that shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tuning.sweep_dir.layout import CACHE, MODEL_FILES, REVIEW, checkpoint_of, trial_folder
from tuning.sweep_dir.trial_table import TrialRecord
from tuning.workers.trial import review_checkpoint
from tuning.workers.worker_pool import WorkerPool


def review_winner(groups: WorkerPool, sweep: Path, winner: TrialRecord, *, say: Callable[[str], object]) -> None:
    """Write the answers of the winner's best checkpoint to the dev split, on a free worker group."""
    (sweep / REVIEW).unlink(missing_ok=True)  # of an earlier winner
    if winner.checkpoint is None:
        return
    try:
        groups.run(
            review_checkpoint,
            model=str(trial_folder(sweep, winner.trial) / MODEL_FILES),
            cache=str(sweep.parent / CACHE),
            checkpoint=str(checkpoint_of(sweep, winner)),
            metrics=winner.metrics,
            output=str(sweep / REVIEW),
        )
    except RuntimeError as error:
        say(f"the winner's answers were not written: {str(error).strip().splitlines()[-1]}")
