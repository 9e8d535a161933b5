"""The one time that a sweep reads its test file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kobert_core.data.source import Source
from tuning.study import StudyConfig
from tuning.sweep.background import in_background
from tuning.sweep.budget import Budget
from tuning.sweep.comparison import baselines_of, compared
from tuning.sweep_dir.confirm_runs import ConfirmRun
from tuning.sweep_dir.layout import CACHE, CHECKPOINTS, MODEL_FILES, checkpoint_of, confirm_folder, trial_folder
from tuning.sweep_dir.test_set_log import read_before, record_reading
from tuning.sweep_dir.trial_status import last_line
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.workers.checkpoint_tasks import evaluate_checkpoint
from tuning.workers.worker_pool import WorkerPool

SECONDS_BETWEEN_LOOKS = 0.2


def read_test_set(
    study: StudyConfig,
    table: TrialTable,
    groups: WorkerPool,
    winner: TrialRecord,
    runs: Iterable[ConfirmRun],
    *,
    budget: Budget,
    say: Callable[[str], object],
) -> dict[str, dict[str, float]]:
    """Metrics on the test file of the winner, of the baselines to compare it with, and of the runs that its verdict
    rests on; none when the sweep is interrupted meanwhile.

    A resumed sweep that has the same winner as before has read it already.
    """
    file = study.data.test
    if file is None:
        return {}
    folder, records = table.folder, compared(winner, baselines_of(table, study))
    scored = {
        f"trial {record.trial}, {record.checkpoint}": Scored(
            trial_folder(folder, record.trial) / MODEL_FILES, checkpoint_of(folder, record), record.metrics
        )
        for record in records.values()
        if record.checkpoint
    }
    weights = {name: f"trial {record.trial}, {record.checkpoint}" for name, record in records.items()}
    for run in runs:
        if run.is_judged:
            weights[f"trial_{run.trial}_seed_{run.seed}"] = what = f"run {run.number} of trial {run.trial}"
            if run.checkpoint:
                here = confirm_folder(folder, run.number)
                scored[what] = Scored(here / MODEL_FILES, here / CHECKPOINTS / run.checkpoint, run.metrics)
    if earlier := read_before(table.folder, sha256=file.digest(), weights=weights):
        return earlier
    try:
        asked = {
            what: in_background(partial(score, groups, folder.parent / CACHE, each, file))
            for what, each in scored.items()
        }  # each waits for a group of its own
        while wait(asked.values(), SECONDS_BETWEEN_LOOKS).not_done:
            if budget.interrupted:
                return {}
        found = {what: future.result() for what, future in asked.items()}
    except RuntimeError as error:
        say(f"the test file was not read: {last_line(str(error))}")
        return {}
    metrics = {name: found[what] for name, what in weights.items() if what in found}
    record_reading(table.folder, file=file, sha256=file.digest(), by="sweep", metrics=metrics, weights=weights)
    return metrics


class Scored(NamedTuple):
    """Weights to score."""

    model: Path
    """Folder with their config and tokenizer."""
    checkpoint: Path
    metrics: dict[str, float]
    """On the dev split."""


def score(groups: WorkerPool, cache: Path, scored: Scored, file: Source) -> dict[str, float]:
    """The metrics of a checkpoint on a labelled file, on a free worker group."""
    metrics: dict[str, float] = groups.run(
        evaluate_checkpoint,
        model=str(scored.model),
        cache=str(cache),
        checkpoint=str(scored.checkpoint),
        metrics=scored.metrics,
        file=file.as_json(),
    )
    return metrics
