"""Names and values in a form that MLflow accepts: it refuses others, or cuts them silently."""

from __future__ import annotations

import hashlib
import posixpath
import re

LONGEST_KEY, LONGEST_PARAM, LONGEST_TAG, LONGEST_NAME = 250, 6000, 8000, 500
"""MLflow's own limits, in characters: of names of parameters, metrics and tags; of values; of a dataset's name."""


def accepted_key(name: str) -> str:
    r"""A name of a parameter, metric or tag: a character that MLflow does not allow becomes its code point between
    colons.

    A tab is `:9:`, and a colon `:3a:`, so that no two names become one. A longer one than MLflow takes ends in eight
    digits of its SHA-256.
    """
    key = re.sub(r"[^\w./ -]", _code, name)
    if posixpath.normpath(key) != key or key.startswith(("/", "..")) or key == ".":  # MLflow may make files of them
        key = re.sub(r"[./]", _code, key) or ":"
    if len(key) > LONGEST_KEY:
        key = f"{key[: LONGEST_KEY - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return key


def accepted_text(value: str, longest: int) -> str:
    """A value of at most `longest` characters; a cut one says how many it had. A NUL is replaced for databases."""
    value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(value) <= longest:
        return value
    rest = f"… ({len(value):,} characters)"
    return value[: longest - len(rest)] + rest


def accepted_model_name(name: str) -> str:
    """A name of a LoggedModel, with `_` for each forbidden character."""
    return re.sub(r"[/:.%\"']", "_", name)


def _code(match: re.Match[str]) -> str:
    return f":{ord(match[0]):x}:"
