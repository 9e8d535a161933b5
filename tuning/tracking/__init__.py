"""MLflow. Only this package imports it, and a sweep only in the thread that sends, or where it begins with what an
experiment has. Reports go to a local spool first, so that a slow, broken or missing server never stops a sweep, and no
report is lost or doubled."""

from __future__ import annotations

from tuning.tracking.backends import make_backend
from tuning.tracking.callbacks import Callback, Listener, OnReport, TrialKey, callbacks_named, read_reports
from tuning.tracking.dead_letters import count_dead_letters, dead_letters_path
from tuning.tracking.experiment import LoggedSweep, LoggedTrial, sweeps_in
from tuning.tracking.mlflow_store import DESCRIPTION_TAG
from tuning.tracking.registry import TASK_TAG, RegisteredVersion, Registry, check_alias, logged_model
from tuning.tracking.sender import state_path
from tuning.tracking.tracker import INTERRUPTED_TAGS, End, Ends, Status, SyncResult, Tracker, send_spool
from tuning.tracking.ui import reach, serve_ui, show_ui, ui_command, ui_environment
from tuning.tracking.uris import (
    address_problem,
    default_tracking_uri,
    experiment_of,
    is_server,
    redact_uri,
    resolve_tracking_uri,
    shown_uri,
)

__all__ = [
    "DESCRIPTION_TAG",
    "INTERRUPTED_TAGS",
    "TASK_TAG",
    "Callback",
    "End",
    "Ends",
    "Listener",
    "LoggedSweep",
    "LoggedTrial",
    "OnReport",
    "RegisteredVersion",
    "Registry",
    "Status",
    "SyncResult",
    "Tracker",
    "TrialKey",
    "address_problem",
    "callbacks_named",
    "check_alias",
    "count_dead_letters",
    "dead_letters_path",
    "default_tracking_uri",
    "experiment_of",
    "is_server",
    "logged_model",
    "make_backend",
    "reach",
    "read_reports",
    "redact_uri",
    "resolve_tracking_uri",
    "send_spool",
    "serve_ui",
    "show_ui",
    "shown_uri",
    "state_path",
    "sweeps_in",
    "ui_command",
    "ui_environment",
]
