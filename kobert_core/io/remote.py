"""Files and folders that have an address in an object store, such as `s3://bucket/train.tsv`.

Who can fetch them says so here, and who reads them asks for their paths on this machine."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError

SCHEMES = ("s3", "gs", "az", "abfs", "file")
_module: str | None = None


def is_address(text: object) -> bool:
    """Whether this is the address of something in an object store, and not a path."""
    return isinstance(text, str) and re.match(rf"(?:{'|'.join(SCHEMES)})://", text) is not None


def fetch_with(module: str) -> None:
    """Name the module that knows object stores: `fetched(address)` gives the path of what lies there, and
    `matching(pattern)` the addresses that match. It is imported when it is needed."""
    global _module
    _module = module


def here(text: str) -> str:
    """The path on this machine of what an address names, which is fetched if it must be; any other text as it is.

    Raises:
        InputError: nothing is there, or the object store cannot be used.
    """
    return str(_fetcher(text).fetched(text)) if is_address(text) else text


def matching(pattern: str) -> list[str]:
    """The addresses of all files that match one with `*`, `?` or `[…]` in it, sorted; raises as `here`."""
    found: list[str] = _fetcher(pattern).matching(pattern)
    return found


def here_or_none(text: str) -> Path | None:
    """The folder of this text, or that its address was fetched to; None where it is the name of a model on the hub."""
    path = Path(here(text))
    return path if path.is_dir() else None


def _fetcher(address: str) -> Any:
    if _module is None:
        what = "nobody here can read object stores"
        raise InputError(what, where=address, fix="import `tuning`, or give a file of this machine")
    return import_module(_module)
