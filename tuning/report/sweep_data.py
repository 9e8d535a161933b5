"""All that a report needs to know of a sweep, read from its folder. Nothing is written or locked: the sweep may run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError
from tuning.search.warm_start import begun_with, in_words
from tuning.study import StudyConfig
from tuning.sweep_dir.confirm_runs import ConfirmRun, ConfirmRuns
from tuning.sweep_dir.layout import ENVIRONMENT, PROVENANCE, SPOOL, STUDY, WINNER
from tuning.sweep_dir.plans import plan_of
from tuning.sweep_dir.provenance import Provenance, read_provenance
from tuning.sweep_dir.reviews import Review, read_review, reviewed_runs, reviews_of_winner
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.test_set_log import Reading, read_log
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, read_winner
from tuning.tracking import read_reports


@dataclass(frozen=True, kw_only=True)
class SweepData:
    """A sweep at one moment."""

    folder: Path
    study: StudyConfig
    table: TrialTable
    records: tuple[TrialRecord, ...]
    """All trials, by number."""
    winner: TrialRecord | None
    """The sweep's, or the best one so far."""
    result: Mapping[str, Any] | None
    """`winner.json`; None while these trials have come to none."""
    confirmations: tuple[ConfirmRun, ...]
    """The runs with other seeds after the search, by number."""
    reviews: tuple[Review, ...]
    """The winner's answers: of each seed that the verdict rests on, or of its checkpoint on dev."""
    readings: tuple[Reading, ...]
    """Of the test file."""
    plan: Mapping[str, Any] | None
    """What it was expected to take: see `tuning.planning.plan.Plan`; None where `plan` was not asked."""
    warm_start: tuple[str, ...]
    """Of earlier sweeps, how many trials the search learned from, in words."""
    provenance: Provenance | None
    environment: str
    study_file: str
    last_reports: Mapping[int, float]
    """When each trial reported last, in seconds since 1970; empty where none has paused, and each ran in one piece."""

    @property
    def is_confirmed(self) -> bool:
        """Whether the reviews are those of the runs that the verdict rests on."""
        return bool(self.winner and reviewed_runs(self.folder, self.confirmations, self.winner.trial))

    @property
    def in_order(self) -> tuple[TrialRecord, ...]:
        """All trials in the order of their ends, or of the newest reports of those that may go on."""
        return tuple(
            sorted(self.records, key=lambda each: self.last_reports.get(each.trial, each.started + each.seconds))
        )


def read_sweep(folder: Path) -> SweepData:
    """Read the folder of a sweep, which may be running.

    Raises:
        InputError: it is none, no trial has begun, or a file is damaged.
    """
    study = load_sweep_study(folder)
    table = TrialTable.of(folder, study)
    if not len(table):
        raise InputError("no trial of this sweep has begun", where=folder, fix="wait for its first one")
    result = _result_of(folder, table)
    winner = table[result["winner"]["trial"]] if result else table.winner()
    confirmations = tuple(ConfirmRuns(folder))
    reviews = reviews_of_winner(folder, confirmations, winner.trial) if winner else []
    return SweepData(
        folder=folder.resolve(),
        study=study,
        table=table,
        records=tuple(table),
        winner=winner,
        result=result,
        confirmations=confirmations,
        reviews=tuple(map(read_review, reviews)) if result else (),
        readings=tuple(read_log(folder)),
        plan=plan_of(folder),
        warm_start=tuple(in_words(begun_with(folder, study))),
        provenance=read_provenance(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else None,
        environment=_text_of(folder / ENVIRONMENT),
        study_file=_text_of(folder / STUDY),
        last_reports=_last_reports(folder) if study.scheduler.name == "promotion" else {},
    )


def _last_reports(folder: Path) -> dict[int, float]:
    found: dict[int, float] = {}
    for trial, _, _, time in read_reports(folder / SPOOL):
        if isinstance(trial, int):
            found[trial] = max(found.get(trial, 0.0), time / 1000)
    return found


def _result_of(folder: Path, table: TrialTable) -> Mapping[str, Any] | None:
    """`winner.json`, unless trials have begun, ended or gone on since: then its winner may not be theirs."""
    if not (folder / WINNER).is_file():
        return None
    result: Mapping[str, Any] = read_winner(folder)
    return result if table.is_of(result) else None


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
