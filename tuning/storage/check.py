"""Whether an object store does what a sweep needs of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from kobert_core.errors import InputError
from tuning.storage.connection import Conflict
from tuning.storage.store import Store

OBJECT = "object"
SECONDS_TO_ANSWER = 10.0
MUCH_CLOCK_SKEW = 5.0
"""Seconds; with 15 minutes, S3 refuses requests."""


class Check(NamedTuple):
    """One thing that was tried."""

    ok: bool
    what: str


def check_store(address: str) -> list[Check]:
    """Write an object below an address, write it under conditions, list it, remove it, and look at the clock; ends at
    the first of these that is refused. Nothing stays.

    Raises:
        InputError: this is no address of a store.
    """
    store, folder = Store.at(address, patience=SECONDS_TO_ANSWER), f".doctor-{uuid.uuid4().hex}"
    done: list[Check] = []
    try:
        done += _tried(store, folder)
    except InputError as error:
        done.append(Check(False, str(error)))
    finally:
        with suppress(InputError):  # told already
            store.delete([f"{folder}/{OBJECT}"])
    return done


def _tried(store: Store, folder: str) -> Iterator[Check]:
    where, key = store.address, f"{folder}/{OBJECT}"
    begin = time.time()
    first = store.put(key, b"1")
    here = (begin + time.time()) / 2
    yield Check(True, f"{where} can be written")
    if store.get(key) != b"1":
        yield Check(False, f"{where} does not give back what was just written: it must be consistent")
        return
    refuses = _refuses(lambda: store.put(key, b"2", create=True))
    second = store.put(key, b"3", if_match=first)
    refuses = refuses and _refuses(lambda: store.put(key, b"4", if_match=first))
    if not refuses or store.get(key) != b"3":
        what = "ignores conditions (If-Match, If-None-Match): two drivers could write there at once"
        yield Check(False, f"{where} {what}; use a store that has conditional writes")
        return
    store.put(key, b"5", if_match=second)
    yield Check(True, f"{where} keeps to conditional writes")
    if store.objects(folder) != {key: 1}:
        yield Check(False, f"{where} does not list what was just written")
        return
    written = store.written(key)
    if written is not None:
        skew = written - here
        if abs(skew) > MUCH_CLOCK_SKEW:
            yield Check(False, f"{where}: its clock is {skew:+.0f} s off that of this machine")
    store.delete([key])
    gone = not store.objects(folder)
    yield Check(gone, f"{where} can be listed, and objects removed" if gone else f"{where} does not remove objects")


def _refuses(put: Callable[[], object]) -> bool:
    try:
        put()
    except Conflict:
        return True
    return False
