"""What a sweep's winner answers on dev, and how its answers are read best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kobert_core.tasks import task_class
from tuning.study import StudyConfig
from tuning.sweep.extras import DecodingScores
from tuning.sweep_dir.layout import CACHE, MODEL_FILES, REVIEW, checkpoint_of, trial_folder
from tuning.sweep_dir.trial_status import last_line
from tuning.sweep_dir.trial_table import TrialRecord
from tuning.workers.checkpoint_tasks import review_checkpoint, tune_checkpoint_decoding
from tuning.workers.results import TunedDecoding
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
        say(f"the winner's answers were not written: {last_line(str(error))}")


def tune_winner_decoding(
    groups: WorkerPool, study: StudyConfig, sweep: Path, winner: TrialRecord, *, say: Callable[[str], object]
) -> DecodingScores | None:
    """With which settings the answers of the winner's best checkpoint are best on dev, on a free worker group; None
    where there are no such settings, or no single dev split."""
    if winner.checkpoint is None or study.data.folds is not None or not task_class(study.task).decoding:
        return None
    objective = study.objective
    try:
        found: TunedDecoding | None = groups.run(
            tune_checkpoint_decoding,
            model=str(trial_folder(sweep, winner.trial) / MODEL_FILES),
            cache=str(sweep.parent / CACHE),
            checkpoint=str(checkpoint_of(sweep, winner)),
            metric=objective.metric,
            mode=objective.mode,
        )
    except RuntimeError as error:
        say(f"the settings of decoding were not tried: {last_line(str(error))}")
        return None
    if found is None:
        return None
    return DecodingScores(metric=objective.metric, before=winner.metrics[objective.metric], **found)
