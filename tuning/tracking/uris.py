"""Addresses of MLflow's stores: which is used, which kinds are supported, and how one may be shown."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from kobert_core.errors import InputError

STORE_FILE, ARTIFACTS = "mlflow.db", "mlartifacts"
"""In the folder of all sweeps, unless another store is given."""
_EXPERIMENTS = "experiments:/"
_SQLITE = "sqlite:///"
_DRIVER = "sqlite+pysqlite:///"
_DATABASES = ("postgresql", "mysql", "mssql")
_FIX = "use http://HOST:PORT, sqlite:///PATH or postgresql+psycopg://HOST/DATABASE"


def default_tracking_uri(output: Path) -> str:
    """The store of an output folder: an absolute `sqlite:////…/mlflow.db`.

    Raises:
        InputError: the folder's name is not in UTF-8.
    """
    return sqlite_uri(output.resolve() / STORE_FILE)


def sqlite_uri(path: Path) -> str:
    """The address of a sqlite file. MLflow would make a folder of the path as it is escaped, but not where the address
    names the driver.

    Raises:
        InputError: the path is not in UTF-8.
    """
    try:
        escaped = escaped_path(path)
        escaped.encode()
    except UnicodeEncodeError:
        raise InputError("the folder's name must be in UTF-8", where=ascii(str(path))) from None
    return (_SQLITE if escaped == str(path) else _DRIVER) + escaped


def escaped_path(path: Path) -> str:
    """A path as an address of a database holds it: SQLAlchemy reads `%41` in it as A, and a `?` begins its options."""
    return "".join(quote(c) if c in "%?" or not c.isprintable() else c for c in str(path))


def resolve_tracking_uri(study_uri: str | None, output: Path) -> str:
    """The study file's address, else MLFLOW_TRACKING_URI, else the default; a sqlite path is made absolute.

    Raises:
        InputError: there can be no such store, or what it needs is not on this machine.
    """
    given = study_uri or os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not given:
        return default_tracking_uri(output)
    if problem := address_problem(given) or _problem_here(given):
        what, fix = problem
        where = redact_uri(given) + ("" if study_uri else " (MLFLOW_TRACKING_URI)")
        raise InputError(what, where=where, fix=fix)
    path = sqlite_path(given)
    return given if path is None else sqlite_uri(path) + "".join(given.partition("?")[1:])


def address_problem(uri: str) -> tuple[str, str] | None:
    """Why no MLflow store can have this address, and how to fix it; None when one can."""
    scheme = uri.partition(":")[0]
    kind = scheme.partition("+")[0]
    if scheme in ("http", "https"):
        try:
            address = urlsplit(uri)
            whole = bool(address.hostname) and address.port != 0
        except ValueError:  # a port that is no number, brackets without an end
            whole = False
        return None if whole else ("a tracking server has a host, and a port from 1 to 65535", "use http://HOST:PORT")
    if scheme in ("sqlite", "sqlite+pysqlite"):
        if sqlite_path(uri) is None:
            what = "a sqlite store must be a file: in memory it would be gone with its process"
            return what, "use sqlite:///PATH, with a fourth slash when PATH is absolute"
        return None
    if kind in _DATABASES and "://" in uri:
        return None
    if kind == "postgres":
        return "the address of a PostgreSQL store begins with `postgresql`", _FIX
    if kind in ("databricks", "databricks-uc", "uc"):
        return "a Databricks workspace is not supported as a tracking store", _FIX
    if kind == "file" or "://" not in uri:
        return "MLflow has no tracking stores in plain folders any more", _FIX
    return f"MLflow has no such tracking store as `{kind}`", _FIX


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a sqlite store's file; None for every other kind of store, and for one in memory."""
    match = re.match(r"sqlite(?:\+pysqlite)?:///([^?]+)", uri)
    name = unquote(match[1]) if match else ""
    return Path(name).absolute() if name and not name.startswith((":memory:", "file:")) else None


def artifact_root(uri: str, folder: Path) -> Path | None:
    """The folder for artifacts when no server keeps them: beside the sqlite file, else in `folder`."""
    if is_server(uri):
        return None
    path = sqlite_path(uri)
    return (path.parent if path else folder.absolute()) / ARTIFACTS


def experiment_of(address: str) -> str | None:
    """The experiment's name in `experiments:/NAME`; None for every other address.

    The form is that of MLflow's own `runs:/RUN_ID` and `models:/NAME`: one slash and no host, since all of them are
    looked up in the store that is in use anyway. So an address stays right when the server moves, and holds no secret.
    """
    return address.removeprefix(_EXPERIMENTS) if address.startswith(_EXPERIMENTS) else None


def is_server(uri: str) -> bool:
    """Whether an address is that of a tracking server, and not of its database."""
    return uri.startswith(("http:", "https:"))


def shown_uri(uri: str) -> str:
    """A store's address for display: that of a file as it is, others without secrets."""
    return uri if sqlite_path(uri) else redact_uri(uri)


def page_of(uri: str) -> str:
    """A tracking server's address as a browser opens it, without a name and password: it asks for them."""
    return re.sub(r"://[^/?#]*@", "://", uri.partition("?")[0]).rstrip("/")


def redact_uri(text: str) -> str:
    """An address, or any text with addresses in it, without passwords, tokens and query values."""
    text = re.sub(r"://(?:[^/\s]*|[^/\s:@]*:\S*)@", "://***@", text)  # a password may hold a slash
    return re.sub(r"(?i)([?&;][\w.-]*(?:password|passwd|pwd|token|secret|key|sig)[\w-]*=)[^&;\s]+", r"\1***", text)


def _problem_here(uri: str) -> tuple[str, str] | None:
    """What the store lacks on this machine: a folder for its file, or a database driver."""
    if is_server(uri):
        return None
    if path := sqlite_path(uri):
        above = next(folder for folder in path.parents if folder.exists())
        if path.is_dir() or not above.is_dir():
            return "a sqlite store must be a file in a folder", f"use sqlite:///{above}/{STORE_FILE}"
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            if file.read(16) not in (b"", b"SQLite format 3\0"):
                return "the file is no sqlite database", "give the path of another, or of none"
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except (ArgumentError, ValueError) as error:  # a dialect that nobody knows, a port that is no number
        return f"this is no address of a database ({redact_uri(str(error).splitlines()[0])})", _FIX
    except ImportError as error:
        what = f"the driver of this database, the module `{error.name}`, is not installed"
        return what, "install it; or for PostgreSQL use postgresql+psycopg://, with `pip install kobert-tuning[server]`"
    return None
