"""Where MLflow's store is, and how its address may be shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kobert_core.errors import InputError

_SQLITE = "sqlite:///"
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def default_tracking_uri(output: Path) -> str:
    """The store of an output folder: an absolute `sqlite:////…/mlflow.db`.

    Raises:
        InputError: the folder's name holds a `?`, which would begin the options of the address.
    """
    path = str(output.resolve() / "mlflow.db")
    if "?" in path:
        raise InputError("a sqlite address cannot hold a '?'", where=path, fix="choose another output folder")
    return _SQLITE + path


def resolve_tracking_uri(study_uri: str | None, output: Path) -> str:
    """The study file's address, else MLFLOW_TRACKING_URI, else the default; a sqlite path is made absolute.

    Raises:
        InputError: MLflow has no such kind of store (its plain folders, `file:`, are gone).
    """
    uri = study_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(output)
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise InputError(
            "MLflow has no such tracking store",
            where=redact_uri(uri),
            fix="use http://HOST:PORT, sqlite:///PATH or postgresql+psycopg2://…",
        )
    if path := sqlite_path(uri):
        return _SQLITE + str(path)
    return uri


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a sqlite store's file; None for every other kind of store."""
    name = uri.removeprefix(_SQLITE)
    if name == uri or not name or name.startswith(":memory:"):
        return None
    return Path(name).absolute()


def artifact_root(uri: str, folder: Path) -> Path | None:
    """The folder for artifacts when no server keeps them: beside the sqlite file, else in `folder`."""
    if uri.startswith(("http:", "https:", "databricks")):
        return None
    path = sqlite_path(uri)
    return (path.parent if path else folder.absolute()) / "mlartifacts"


def redact_uri(text: str) -> str:
    """An address, or any text with addresses in it, without passwords, tokens and query values."""
    text = re.sub(r"://(?:[^/\s]*|[^/\s:@]*:\S*)@", "://***@", text)  # a password may hold a slash
    return re.sub(r"(?i)([?&;][\w.-]*(?:password|passwd|pwd|token|secret|key|sig)[\w-]*=)[^&;\s]+", r"\1***", text)
