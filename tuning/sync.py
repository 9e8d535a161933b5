"""What MLflow was not told yet: sends it without Ray, for a sweep whose driver is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from kobert_core.errors import InputError
from tuning.results import UNFINISHED, TrialRecord, TrialTable
from tuning.study import load_study
from tuning.sweep_folder import STUDY
from tuning.sweep_lock import sweep_lock
from tuning.tracking import Ends, Status, SyncResult, resolve_tracking_uri, sync

SPOOL = "tracking.jsonl"


def ends_of(records: Iterable[TrialRecord]) -> Ends:
    """How trials ended, in MLflow's words; those that did not are left out."""
    ends: dict[str, tuple[Status, dict[str, str]]] = {}
    for record in records:
        if record.state == "COMPLETE":
            ends[str(record.trial)] = "FINISHED", {}
        elif record.state == "PRUNED":
            ends[str(record.trial)] = "KILLED", {"pruned": "true"}
        elif record.state not in UNFINISHED:
            lines = (record.reason or "unknown").strip().splitlines()
            ends[str(record.trial)] = "FAILED", {"reason": lines[-1][:500]}
    return ends


def sync_sweep(folder: Path, *, uri: str | None = None) -> SyncResult:
    """Send what is left of a sweep to its MLflow store; runs that a killed driver left open are ended.

    Args:
        folder: Of the sweep.
        uri: Another store than that of the sweep's study.

    Raises:
        InputError: this is no folder of a sweep, or the sweep still runs.
    """
    if not (folder / SPOOL).is_file():
        raise InputError("there are no records of a sweep here", where=folder, fix="see `kobert-tune list`")
    with sweep_lock(folder):
        ends: Ends = {}
        if (folder / STUDY).is_file():  # a sweep in which nothing began has none
            study = load_study(folder / STUDY)
            uri = uri or study.tracking.uri
            with contextlib.suppress(InputError):  # without its ledger, what is open counts as interrupted
                ends = ends_of(TrialTable(folder, study.objective))
        return sync(folder / SPOOL, uri=resolve_tracking_uri(uri, folder.resolve().parent), ends=ends)
