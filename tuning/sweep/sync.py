"""What MLflow was not told yet: sends it without Ray, for a sweep whose driver is gone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from kobert_core.errors import InputError
from tuning.study import STUDY, load_sweep_study
from tuning.sweep_dir.lock import sweep_lock
from tuning.sweep_dir.trial_table import UNFINISHED, TrialRecord, TrialTable, last_line
from tuning.tracking import INTERRUPTED, End, Ends, SyncResult, resolve_tracking_uri, sync

SPOOL = "tracking.jsonl"


def end_of(record: TrialRecord) -> End:
    """How a trial ended, in MLflow's words: the status of its run, and tags; among these its best checkpoint's values
    where they are not the run's parameters, which MLflow does not let change."""
    values = {"values": json.dumps(record.values)} if record.lineage else {}
    if record.state == "COMPLETE":
        return "FINISHED", values
    if record.state == "PRUNED":
        return "KILLED", {"pruned": "true"} | values
    if record.state == "FAILED":
        return "FAILED", {"reason": last_line(record.reason or "unknown")[:500]}
    return INTERRUPTED


def ends_of(records: Iterable[TrialRecord]) -> Ends:
    """`end_of` those trials that ended, by number."""
    return {str(record.trial): end_of(record) for record in records if record.state not in UNFINISHED}


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
            study = load_sweep_study(folder)
            uri = uri or study.tracking.uri
            with contextlib.suppress(InputError):  # without its ledger, what is open counts as interrupted
                ends = ends_of(TrialTable(folder, study.objective))
        return sync(folder / SPOOL, uri=resolve_tracking_uri(uri, folder.resolve().parent), ends=ends)
