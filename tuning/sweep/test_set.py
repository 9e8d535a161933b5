"""The one time that a sweep reads its test file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kobert_core.data.source import Source
from tuning.study import StudyConfig
from tuning.sweep.background import in_background
from tuning.sweep.comparison import baselines_of, compared
from tuning.sweep_dir.layout import CACHE, MODEL_FILES, checkpoint_of, trial_folder
from tuning.sweep_dir.test_set_log import read_before, record_reading
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.workers.trial import evaluate_checkpoint
from tuning.workers.worker_pool import WorkerPool


def read_test_set(
    study: StudyConfig, table: TrialTable, groups: WorkerPool, winner: TrialRecord, *, say: Callable[[str], object]
) -> dict[str, dict[str, float]]:
    """Metrics on the test file of the winner, and of the baselines to compare it with.

    A resumed sweep that has the same winner as before has read it already.
    """
    file = study.data.test
    if file is None:
        return {}
    records = compared(winner, baselines_of(table, study))
    scored = {record.trial: record for record in records.values() if record.checkpoint}
    weights = {name: f"trial {record.trial}, {record.checkpoint}" for name, record in records.items()}
    if earlier := read_before(table.folder, sha256=file.digest(), weights=weights):
        return earlier
    try:
        asked = {
            trial: in_background(partial(score, groups, table.folder, record, file)) for trial, record in scored.items()
        }  # each waits for a group of its own
        found = {trial: future.result() for trial, future in asked.items()}
    except RuntimeError as error:
        say(f"the test file was not read: {str(error).strip().splitlines()[-1]}")
        return {}
    metrics = {name: found[record.trial] for name, record in records.items() if record.trial in found}
    record_reading(table.folder, file=file, sha256=file.digest(), by="sweep", metrics=metrics, weights=weights)
    return metrics


def score(groups: WorkerPool, sweep: Path, record: TrialRecord, file: Source) -> dict[str, float]:
    """The metrics of a trial's best checkpoint on a labelled file, on a free worker group."""
    metrics: dict[str, float] = groups.run(
        evaluate_checkpoint,
        model=str(trial_folder(sweep, record.trial) / MODEL_FILES),
        cache=str(sweep.parent / CACHE),
        checkpoint=str(checkpoint_of(sweep, record)),
        metrics=record.metrics,
        file=file.as_json(),
    )
    return metrics
