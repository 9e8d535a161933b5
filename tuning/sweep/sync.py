"""Sends the unsent records of a sweep whose driver is gone, without Ray."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kobert_core.errors import InputError
from tuning.sweep_dir.layout import SPOOL, STUDY
from tuning.sweep_dir.lock import sweep_lock
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.trial_status import run_ends
from tuning.sweep_dir.trial_table import TrialTable
from tuning.tracking import Ends, SyncResult, resolve_tracking_uri, send_spool


def sync_sweep(folder: Path, *, uri: str | None = None) -> SyncResult:
    """Send the unsent records of a sweep to its MLflow store; end runs that a killed driver left open.

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
                ends = run_ends(TrialTable.of(folder, study))
        return send_spool(folder / SPOOL, uri=resolve_tracking_uri(uri, folder.resolve().parent), ends=ends)
