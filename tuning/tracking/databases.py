"""Whether a database answers."""

from __future__ import annotations

from kobert_core.errors import InputError
from tuning.tracking.uris import redact_uri, sqlite_path

CONNECT_SECONDS = 5


def try_database(uri: str) -> None:
    """Connect to a database, or raise why that is not possible: MLflow would try for hours."""
    from sqlalchemy import create_engine

    seconds = {"connect_timeout": CONNECT_SECONDS} if uri.startswith(("postgresql", "mysql")) else {}
    engine = create_engine(uri, connect_args=seconds)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def problem_of(uri: str) -> str | None:
    """Why a database cannot be reached, in a line without secrets; None when it can."""
    try:
        try_database(uri)
    except Exception as error:  # SQLAlchemy's, the driver's, a missing driver
        return redact_uri(" ".join(str(getattr(error, "orig", None) or error).split()))
    return None


def check_database(uri: str, *, where: str) -> None:
    """Check that a database answers, or is a file, which need not exist yet.

    Raises:
        InputError: neither; `where` is the key that has the address.
    """
    file = sqlite_path(uri)
    if file is None and uri.startswith("sqlite"):
        what = "a sqlite database must be a file: in memory it would be gone with its process"
        raise InputError(what, where=where, fix="use sqlite:///PATH")
    if (file is None or file.exists()) and (problem := problem_of(uri)):
        raise InputError(f"no database can be reached at {redact_uri(uri)} ({problem})", where=where)
