"""MLflow, the only place that imports it, and only in the thread that sends: a sweep's reports go to a local
spool first, so that a slow, broken or missing server never stops, loses or doubles anything."""

from __future__ import annotations

from .letters import count_letters, letters_path
from .tracker import INTERRUPTED, End, Ends, Status, SyncResult, Tracker, sync
from .ui import runs_page, serve_ui, sweep_page, ui_command, ui_environment
from .uris import default_tracking_uri, redact_uri, resolve_tracking_uri

__all__ = [
    "INTERRUPTED",
    "End",
    "Ends",
    "Status",
    "SyncResult",
    "Tracker",
    "count_letters",
    "default_tracking_uri",
    "letters_path",
    "redact_uri",
    "resolve_tracking_uri",
    "runs_page",
    "serve_ui",
    "sweep_page",
    "sync",
    "ui_command",
    "ui_environment",
]
