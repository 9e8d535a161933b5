"""The states of a trial, and their names in Optuna and MLflow. Only this module decides how a trial ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

from kobert_core.texts import printable
from tuning.sweep_dir.descriptions import describe_trial
from tuning.tracking import DESCRIPTION_TAG, INTERRUPTED_TAGS, End, Ends, Status

if TYPE_CHECKING:
    from tuning.sweep_dir.trial_table import TrialRecord


class TrialState(StrEnum):
    """As the ledger has it."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    """It ran to its end."""
    PRUNED = "PRUNED"
    """The scheduler stopped it."""
    FAILED = "FAILED"
    """Its training function raised an error, or its workers were lost again and again."""
    INTERRUPTED = "INTERRUPTED"
    """The sweep stopped, or processes died: the trial continues when the sweep does."""
    PAUSED = "PAUSED"
    """It waits at a rung: the scheduler may let it go on, until the search ends."""


UNFINISHED = (TrialState.RUNNING, TrialState.INTERRUPTED, TrialState.PAUSED)
OPTUNA_STATES = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "COMPLETE",
    TrialState.PRUNED: "PRUNED",
    TrialState.FAILED: "FAIL",
    TrialState.INTERRUPTED: "WAITING",
    TrialState.PAUSED: "RUNNING",
}
"""Names of Optuna's states. `ask` returns a waiting trial again, so a paused one, which only its scheduler may let go
on, is none; and what has ended in Optuna cannot go on."""
RUN_STATUS: dict[TrialState, Status] = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAILED: "FAILED",
    TrialState.INTERRUPTED: "KILLED",
    TrialState.PAUSED: "SCHEDULED",
}
"""MLflow's status of the run, for a trial that is not running."""


def state_at_end(progress: int, *, failed: bool = False, lost: bool = False, paused: bool = False) -> TrialState:
    """How a trial ended, or a part of it: PRUNED where it came to no end of its own, and is neither lost nor paused.

    Args:
        progress: Percent of its steps that were done at its last report.
        failed: Its training function raised an error.
        lost: Its processes died, or the sweep stopped.
        paused: The scheduler stopped it, and may let it go on.
    """
    if lost:
        return TrialState.INTERRUPTED
    if failed:
        return TrialState.FAILED
    if progress == 100:
        return TrialState.COMPLETE
    return TrialState.PAUSED if paused else TrialState.PRUNED


def run_end(record: TrialRecord) -> End:
    """How a trial's run in MLflow ends: its status, and tags. MLflow calls a pruned trial killed: the tag `state` has
    the ledger's word.

    Where the values of the best checkpoint are not the run's parameters, which MLflow does not let change, they are a
    tag.
    """
    tags = {"values": json.dumps(record.values)} if record.lineage else {}
    if record.state == TrialState.PRUNED:
        tags = {"pruned": "true"} | tags
    elif record.state == TrialState.FAILED:
        tags = {"reason": last_line(record.reason or "unknown")[:500]}
    elif record.state == TrialState.INTERRUPTED:
        tags = dict(INTERRUPTED_TAGS)
    description = describe_trial(record, reason=tags.get("reason", ""))
    return RUN_STATUS[record.state], tags | {"state": str(record.state), DESCRIPTION_TAG: description}


def run_ends(records: Iterable[TrialRecord]) -> Ends:
    """`run_end` of the trials that have ended, by number."""
    return {str(record.trial): run_end(record) for record in records if record.has_ended}


def last_line(reason: str) -> str:
    """The last line of a reason: a traceback ends with its error."""
    return printable((reason.strip().splitlines() or [""])[-1])
