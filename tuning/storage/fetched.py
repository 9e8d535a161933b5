"""Data and encoders that a study names by an address in an object store: fetched once a machine, by their content."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import re
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypedDict

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json
from tuning.storage.connection import StoreAway, check_address
from tuning.storage.inputs import StoredInput, only_one, place_of_input
from tuning.storage.node import inputs_here, node_folder
from tuning.storage.store import Damaged, Store

SECONDS_TO_ANSWER = 60.0
"""So long is a store asked for what is not here yet, or may be another there now."""
log = logging.getLogger(__name__)


class Fetched(TypedDict):
    """What was fetched from an address."""

    version: str
    """In the store."""
    digest: str
    is_folder: bool


@cache
def fetched(address: str) -> Path:
    """What lies at an address, as a file or a folder of this machine with its own name: a process asks for it once.

    It is fetched again only where the store has another version. Where the store does not answer, the version of before
    is taken, and a warning says so.

    Raises:
        InputError: nothing is there, or the store cannot be used.
    """
    store, name = _store_and_name(address)
    digest = hashlib.sha256(address.encode()).hexdigest()[:32]
    record = node_folder() / "fetched" / f"{digest}.json"
    with only_one(_lock_of(digest)):
        known = _read(record)
        place = known and place_of_input(StoredInput(known["digest"], name, known["is_folder"]), inputs_here())
        if place is not None and not place.exists():
            known = place = None
        try:
            versions = store.versions(name)
        except StoreAway as error:
            if place is None:
                raise
            log.warning("%s; what was fetched before is taken", error)
            return place
        if not versions:
            what = "there is no such object, and no folder with some"
            raise InputError(what, where=address, fix="check the address: see `kobert-tune doctor --output ADDRESS`")
        version = hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()
        if known is not None and place is not None and known["version"] == version:
            return place
        _remove_leftovers(but=digest)
        given, place = _fetch(store, name, [*versions], _temporary(digest))
        atomic_write_json(record, Fetched(version=version, digest=given.digest, is_folder=given.is_folder))
        return place


def matching(pattern: str) -> list[str]:
    """The addresses of all objects that match one with `*`, `?` or `[…]` in it, sorted; a `*` ends at a `/`.

    Raises:
        InputError: there are none, or the store cannot be used.
    """
    fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")[0]
    store = Store.at(fixed, patience=SECONDS_TO_ANSWER)
    parts = pattern[len(fixed) + 1 :].split("/")
    found = []
    for key in store.objects():
        names = key.split("/")
        if len(names) == len(parts) and all(map(fnmatch.fnmatchcase, names, parts)):
            found.append(f"{store.address}/{key}")
    if not found:
        raise InputError("no object matches this pattern", where=pattern, fix="check its folder and its suffix")
    return found


def _store_and_name(address: str) -> tuple[Store, str]:
    above, _, name = check_address(address).rpartition("/")
    if above.endswith(":/"):
        fix = "give the address of a file or a folder in it"
        raise InputError("the address names a whole bucket", where=address, fix=fix)
    return Store.at(above, patience=SECONDS_TO_ANSWER), name


def _read(record: Path) -> Fetched | None:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return Fetched(version=content["version"], digest=content["digest"], is_folder=content["is_folder"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _lock_of(digest: str) -> Path:
    """Held by the process that fetches from the address that has this digest."""
    return node_folder() / "fetched" / f"{digest}.lock"


def _temporary(digest: str) -> Path:
    """The folder into which it fetches."""
    return inputs_here() / f".{digest}.tmp"


def _remove_leftovers(*, but: str) -> None:
    """Remove what killed processes left, from whatever address: a process that lives holds the address's lock."""
    for leftover in inputs_here().glob(_temporary("*").name):
        digest = leftover.name[1:].removesuffix(".tmp")
        if digest != but:  # that lock is held here
            with suppress(BlockingIOError), only_one(_lock_of(digest), wait=False):
                shutil.rmtree(leftover, ignore_errors=True)


def _fetch(store: Store, name: str, keys: list[str], temporary: Path) -> tuple[StoredInput, Path]:
    """Bring an object, or all objects of a folder, to this machine, below the hash of their content."""
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    new = temporary / name
    try:
        if keys == [name]:
            store.download(name, new)
        elif not store.download_folder(name, new):
            for key in keys:
                path = key.removeprefix(f"{name}/")
                if any(part in ("", ".", "..") for part in path.split("/")):  # such as the mark of an empty folder
                    continue
                store.download(key, new / path)
        given = StoredInput.of(new)
        place = place_of_input(given, inputs_here())
        with only_one(inputs_here() / f"{given.digest}.lock"):
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                os.rename(new, place)
        return given, place
    except FileNotFoundError:
        what = "the folder has changed while it was fetched"
        raise Damaged(what, where=f"{store.address}/{name}", fix="try again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
