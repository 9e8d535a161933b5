"""MLflow, the only place that imports it, and only in the thread that sends: a sweep's reports go to a local
spool first, so that a slow, broken or missing server never stops, loses or doubles anything."""

from __future__ import annotations

from .tracker import Status, SyncResult, Tracker, sync
from .ui import runs_page, serve_ui, sweep_page, ui_command, ui_environment
from .uris import default_tracking_uri, redact_uri, resolve_tracking_uri

__all__ = [
    "Status",
    "SyncResult",
    "Tracker",
    "default_tracking_uri",
    "redact_uri",
    "resolve_tracking_uri",
    "runs_page",
    "serve_ui",
    "sweep_page",
    "sync",
    "ui_command",
    "ui_environment",
]
