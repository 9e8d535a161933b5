"""Who starts the runs of a sweep, and with which code, in the tags that MLflow has for it."""

from __future__ import annotations

import getpass
import subprocess

_SOURCE = "kobert-tune"
_SECONDS = 5


def origin_tags() -> dict[str, str]:
    """The user, the program, and the git commit of the current folder, if it is in a repository."""
    tags = {"mlflow.user": _user(), "mlflow.source.name": _SOURCE, "mlflow.source.type": "LOCAL"}
    return tags | ({"mlflow.source.git.commit": commit} if (commit := _commit()) else {})


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"


def _commit() -> str | None:
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
