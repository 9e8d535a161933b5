"""MLflow's web page on a store."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from kobert_core.errors import InputError
from tuning.tracking.mlflow_store import open_client, prepare_environment
from tuning.tracking.sender import reason_of
from tuning.tracking.spool import header_of
from tuning.tracking.uris import artifact_root, is_server, page_of, redact_uri, shown_uri, sqlite_path
from tuning.tracking.view import make_view

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from kobert_core.config import Objective

_SECONDS_TO_ANSWER = 9


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


def show_ui(
    uri: str,
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    spool: Path | None = None,
    objective: Objective | None = None,
    parameters: Sequence[str] = (),
    further: Sequence[Objective] = (),
    say: Callable[[str], object],
) -> int:
    """Serve the page until Ctrl-C or SIGTERM, and say where it is; a store that is a server serves it itself.

    Args:
        uri: The store.
        host: To listen on.
        port: To listen on.
        spool: Of the sweep to show; all experiments without it.
        objective: Of the sweep.
        parameters: That the sweep searches: columns of the page.
        further: Objectives and constraints behind the first one: columns, too.
        say: Is given the line for the user, once somebody answers there.

    Returns:
        The server's exit code, 0 when it was ended that way.

    Raises:
        InputError: the store does not answer, its file is missing, or the port is taken.
    """
    server = page_of(uri) if is_server(uri) else f"http://{_as_seen_from_here(host)}:{port}"
    if not is_server(uri):
        check_store_file(uri)
        _check_free(host, port)
    client = reach(uri)
    found = sweep_page(client, server, spool, objective, parameters, further) if spool and objective else None
    page = found or f"{server}/#/experiments?workflowType=machine_learning"
    if is_server(uri):
        say(f"open {page}")
        return 0
    return serve_ui(uri, host=host, port=port, ready=lambda: say(f"open {page}"))


def reach(uri: str) -> MlflowClient:
    """A client of a store; waits ten seconds at most, unless the store is a file.

    Raises:
        InputError: nobody answers there.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    prepare_environment()
    import mlflow  # noqa: F401  (takes long on a busy machine, and is no time that somebody needs to answer)

    answer: Future[MlflowClient] = Future()

    def ask() -> None:
        try:
            answer.set_result(open_client(uri))
        except Exception as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    try:
        return answer.result(None if sqlite_path(uri) else _SECONDS_TO_ANSWER)
    except TimeoutError:
        reason = f"nothing within {_SECONDS_TO_ANSWER} s"
    except Exception as error:
        reason = reason_of(error)
    raise InputError(f"MLflow does not answer here ({reason})", where=shown_uri(uri), fix="start it, or wait for it")


@contextlib.contextmanager
def asking(uri: str) -> Iterator[None]:
    """What MLflow refuses, or cannot be asked, is bad input."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise InputError(f"MLflow refuses this ({reason_of(error)})", where=shown_uri(uri)) from error


def sweep_page(
    client: MlflowClient,
    server: str,
    spool: Path,
    objective: Objective,
    parameters: Sequence[str],
    further: Sequence[Objective] = (),
) -> str | None:
    """The address of the list of a sweep's trials; None when the store does not know the sweep.

    MLflow's own start page is the one for language model applications, and folds trials into their sweep.
    """
    header = header_of(spool)
    experiment = client.get_experiment_by_name(header["experiment"]) if header else None
    if header is None or experiment is None:
        return None
    query = make_view(client, experiment.experiment_id, header["sweep_id"], objective, parameters, further)
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
    encoded = urlencode({"workflowType": "machine_learning", **texts}, quote_via=quote)
    return f"{server}/#/experiments/{experiment.experiment_id}/runs?{encoded}"


def serve_ui(uri: str, *, host: str = "127.0.0.1", port: int = 5000, ready: Callable[[], object] = lambda: None) -> int:
    """Serve the page until Ctrl-C or SIGTERM, call `ready` once it is there; the server's exit code, 0 when it was
    ended that way.

    Raises:
        InputError: the store is a server already, its file is missing, or the port is taken.
    """
    if is_server(uri):
        raise InputError("this store is a server", where=redact_uri(uri), fix="open it in a browser")
    check_store_file(uri)
    _check_free(host, port)
    server = subprocess.Popen(ui_command(host=host, port=port), env=ui_environment(uri))
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True
        server.terminate()

    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while server.poll() is None and not _listens(host, port):
            time.sleep(0.1)
        if server.poll() is None:
            ready()
        code = server.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0 if ended else code


def check_store_file(uri: str) -> None:
    """Refuse a sqlite store that is not there: MLflow would make it.

    Raises:
        InputError: it is not.
    """
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise InputError("no MLflow store here yet", where=path, fix="run a sweep first")


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((_as_seen_from_here(host).strip("[]"), port), timeout=1).close()
    except OSError:
        return False
    return True


def _as_seen_from_here(host: str) -> str:
    """The host of a link, for a host to listen on."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror})", where=host, fix="choose another --port"
            ) from error
