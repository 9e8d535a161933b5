"""MLflow's web page on a store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

from kobert_core.errors import InputError

from .store import prepare_environment
from .uris import artifact_root, redact_uri, sqlite_path


def ui_command(*, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The server's command line; the store comes by `ui_environment`: its address may hold a password."""
    options = ["--host", host, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *options]


def ui_environment(uri: str) -> dict[str, str]:
    """The environment of the server: store and artifacts, no telemetry, no job workers (1.7 GB of memory)."""
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    if root := artifact_root(uri, Path.cwd()):
        environment["MLFLOW_ARTIFACTS_DESTINATION"] = root.as_uri()
    return environment


def runs_page(server: str, experiment_id: str, metric: str) -> str:
    """The address of a list of all trials with their states, best metric first.

    MLflow's own start page is the one for language model applications, and folds trials into their sweep.
    """
    query = {"workflowType": "machine_learning", "orderByKey": f"metrics.`{metric}`", "orderByAsc": "false"}
    return f"{server}/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def sweep_page(uri: str, *, server: str, experiment: str, metric: str) -> str:
    """The address of the list of a sweep's trials; the server's start page when the store lacks the experiment."""
    prepare_environment()
    from mlflow import MlflowClient

    found = MlflowClient(uri).get_experiment_by_name(experiment)
    return runs_page(server, found.experiment_id, metric) if found else f"{server}/?workflowType=machine_learning"


def serve_ui(uri: str, *, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Serve the page until Ctrl-C or SIGTERM; the server's exit code, 0 when it was ended that way.

    Raises:
        InputError: the store is a server already, its file is missing, or the port is taken.
    """
    if uri.startswith(("http:", "https:", "databricks")):
        raise InputError("this store is a server", where=redact_uri(uri), fix="open it in a browser")
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise InputError("no MLflow store here yet", where=path, fix="run a sweep first")
    _check_free(host, port)
    server = subprocess.Popen(ui_command(host=host, port=port), env=ui_environment(uri))
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True
        server.terminate()

    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = server.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0 if ended else code


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror})", where=host, fix="choose another --port"
            ) from error
