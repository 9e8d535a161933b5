"""A sweep whose home is an object store. Its folder on the driver's machine is a working copy: what a resume needs of
it is committed to the store at each step, and taken from there on a machine that has none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_bytes, atomic_write_json
from kobert_core.io.checksums import SUMS, file_digest
from tuning.storage.inputs import only_one, remove_leftovers
from tuning.storage.node import node_folder
from tuning.storage.records import Head, Records, StorageLost, download_records, read_head
from tuning.storage.store import Store
from tuning.sweep_dir.layout import (
    ASKED,
    CONFIRM,
    HOME,
    JOURNAL,
    LEDGER,
    LOCK,
    MESSAGES,
    MODEL,
    MODEL_FILES,
    OUTPUT,
    REVIEW,
    RUNS,
    SCRATCH,
    SHARED,
    SPOOL,
    STUDY,
    SUM,
    TABLE,
    TEST_SET_LOG,
    TRIALS,
    checkpoint_of,
    trial_folder,
)
from tuning.sweep_dir.lock import is_running
from tuning.tracking import dead_letters_path, is_server, state_path

if TYPE_CHECKING:
    from tuning.sweep_dir.trial_table import TrialRecord

FIRST = (JOURNAL, f"{JOURNAL}{SUM}", LEDGER, TABLE, f"{CONFIRM}/{RUNS}")
"""Read before all others, in this order, and the spool last: what was written first may be newer, and is harmless so
(see docs/resume.md)."""
OF_THIS_MACHINE = (LOCK, HOME, ASKED, MESSAGES, OUTPUT)
"""Files of the folder that mean nothing elsewhere."""
SECONDS_TO_ANSWER = 30.0
"""So long does a command try to reach a store."""
OF_A_COPY = 0
"""The token of a folder in which no driver has written."""
READINGS, READINGS_HOME = "readings", ".readings.json"
"""Below a sweep's address: readings of test files by its exported model, by the model's version; and the file beside a
copy of a model that says where these are."""
FOLDERS_APART = (SCRATCH, MODEL, TRIALS)
"""Folders that are no records: the exported model is whole or not there, as a folder of the store, and so is all that
trials have."""


def record_files(folder: Path, *, tracking_uri: str | None = None) -> list[str]:
    """The files that are committed, by their paths in a sweep's folder, in the order in which they are read; none of a
    sweep that has no study any more.

    How far MLflow has heard is among them where a server hears it: another machine's own store has heard nothing.
    """
    if not (folder / STUDY).is_file():
        return []
    found = sorted(_files_in(folder))
    state = state_path(Path(SPOOL)).name
    skipped = {*OF_THIS_MACHINE, *FIRST, SPOOL} | ({state} if tracking_uri and not is_server(tracking_uri) else set())
    others = [name for name in found if name not in skipped]
    return [*(name for name in FIRST if name in found), *others, *([SPOOL] if SPOOL in found else [])]


def _files_in(folder: Path) -> Iterator[str]:
    """All files but those of trials, which lie in the store as folders of their own; of a run that confirms, what it
    answered."""
    runs = folder / CONFIRM / TRIALS
    for place, folders, names in os.walk(folder):
        here = Path(place)
        if here == folder:
            folders[:] = [name for name in folders if name not in FOLDERS_APART]
        elif here.parent == runs:
            folders.clear()
            names = [name for name in names if name == REVIEW]
        folders[:] = [name for name in folders if not name.endswith(".tmp")]
        for name in names:
            if not name.startswith(SHARED) and not name.endswith(".tmp"):
                yield (here / name).relative_to(folder).as_posix()


class Commits(Protocol):
    """Where a sweep commits what it has come to, besides its folder."""

    def soon(self) -> None:
        """Commit the records as they are now, in the background."""
        ...

    def commit(self) -> None:
        """Commit the records as they are now, and return when that is done."""
        ...

    def check(self) -> None:
        """Raise `StorageLost` if this process may not go on."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether it may not."""
        ...

    @property
    def limit(self) -> Callable[[], int] | None:
        """How much of the spool may be sent to MLflow; None where that is all that the disk has."""
        ...

    def put_model(self) -> None:
        """Commit the exported model."""
        ...

    def finish(self, is_finished: bool) -> None:
        """Whether the sweep has come to its end: if not, another command with its name goes on by itself."""
        ...


class OnDisk:
    """The sweep's folder is all that there is."""

    @property
    def is_lost(self) -> bool:
        return False

    @property
    def limit(self) -> Callable[[], int] | None:
        return None

    def soon(self) -> None:
        pass

    def commit(self) -> None:
        pass

    def check(self) -> None:
        pass

    def put_model(self) -> None:
        pass

    def finish(self, is_finished: bool) -> None:
        pass


class InStore(Records):
    """The sweep's home is an object store."""

    finished = False

    @property
    def limit(self) -> Callable[[], int] | None:
        return lambda: self.committed(SPOOL)

    def put_model(self) -> None:
        self.store.upload_folder(self.folder / MODEL, MODEL)

    def finish(self, is_finished: bool) -> None:
        self.finished = is_finished


@contextmanager
def stored_sweep(
    address: str, folder: Path, *, resume: bool, tracking_uri: str, say: Callable[[str], object]
) -> Iterator[InStore]:
    """Around a sweep whose home is below an address: this process is the one that may commit there, and the folder is
    what the store has, or newer.

    Args:
        address: Of the folder of all sweeps.
        folder: The sweep's working copy.
        resume: As for `open_sweep_dir`.
        tracking_uri: Of MLflow.
        say: Is told when another process is waited for, or something is moved.

    Raises:
        InputError: the store cannot be used, the name is in use there, or another process runs the sweep.
    """
    store = Store.at(address) / folder.name

    def may_take(head: Head) -> None:
        if head.ended and STUDY in head.files and not resume:
            fix = "give another `--name`, or `--resume`"
            raise InputError(f"the sweep name `{folder.name}` is in use", where=store.address, fix=fix)

    if is_running(folder):
        raise _busy(store)
    records = _records(store, folder, tracking_uri=tracking_uri, say=say)
    before = read_head(store)
    used = records.take(busy=lambda: _busy(store), may_take=may_take)
    records.finished = bool(before and before[0].ended)
    was_cut_off = bool(before and before[0].files and not before[0].ended)
    try:
        if used:
            _settle(store, folder, records.head, was_cut_off=was_cut_off, say=say)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(folder / HOME, {"address": store.address, "token": records.head.token})
    except BaseException:
        records.close(ended=not was_cut_off)
        raise
    records.start()
    try:
        yield records
    except StorageLost as lost:
        records.abandon()
        raise InputError(str(lost), where=store.address, fix="look at it there") from None
    except (Exception, KeyboardInterrupt):
        _close(records)
        raise
    else:
        _close(records)


def _records(store: Store, folder: Path, *, tracking_uri: str | None, say: Callable[[str], object]) -> InStore:
    grow = (JOURNAL, SPOOL, dead_letters_path(Path(SPOOL)).name)
    return InStore(
        store, folder, lambda: record_files(folder, tracking_uri=tracking_uri), grow=grow, ahead=SPOOL, say=say
    )


def _busy(store: Store) -> InputError:
    return InputError("another process runs this sweep", where=store.address, fix="wait for it, or stop it")


def _close(records: InStore) -> None:
    if not records.is_lost:
        records.soon()
    records.close(ended=records.finished)


def _settle(store: Store, folder: Path, head: Head, *, was_cut_off: bool, say: Callable[[str], object]) -> None:
    """Make the working copy what the store has. One whose own driver was the last to commit there is that already, or
    newer, as after any kill."""
    is_ours = _home_of(folder) == (store.address, head.token - 1)
    if (folder / STUDY).exists() and not is_ours:
        aside = folder.with_name(f"{folder.name}.before-{head.token}")
        folder.rename(aside)
        say(f"what was in {folder} is older than the object store: it is in {aside} now")
    if not is_ours:
        download_records(store, folder)
        if head.files:
            say(f"the sweep's records are taken from {store.address}")
    if was_cut_off:
        (folder / LOCK).write_text("cut off\n", encoding="utf-8")


def _home_of(folder: Path) -> tuple[str, int] | None:
    try:
        home = json.loads((folder / HOME).read_text(encoding="utf-8"))
        return str(home["address"]), int(home["token"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def copy_here(address: str) -> Path:
    """The records of a sweep, as a folder of this machine: for commands that look at it.

    Raises:
        InputError: there is none at the address, or the store cannot be used.
    """
    store = Store.at(address, patience=SECONDS_TO_ANSWER)
    folder = _copies(store) / store.address.rpartition("/")[2]
    with _exclusive(store):
        head = download_records(store, folder)
        if STUDY not in head.files:
            fix = "see `kobert-tune list --output ADDRESS`"
            raise InputError("there is no sweep here", where=store.address, fix=fix)
        for name in set(record_files(folder)) - head.files.keys():
            (folder / name).unlink()
        model = folder / MODEL
        if model.is_dir() and (store.folder_files(MODEL) or {}).get(SUMS) != file_digest(model / SUMS):
            shutil.rmtree(model)  # of an earlier winner
        atomic_write_json(
            folder / HOME,
            {"address": store.address, "token": OF_A_COPY, "running": head.is_running, "ended": head.ended},
        )
    return folder


def _copies(store: Store) -> Path:
    digest = hashlib.sha256(store.address.encode()).hexdigest()[:16]
    return node_folder() / "copies" / digest


def _exclusive(store: Store) -> AbstractContextManager[None]:
    """One command of this machine at a time brings what a sweep has in the store: others wait, and find it here."""
    return only_one(_copies(store).with_suffix(".lock"))


def model_here(address: str) -> Path:
    """The exported model of a sweep, as a folder of this machine.

    Args:
        address: Of the sweep, or of the model in it.

    Raises:
        InputError: there is none, or the store cannot be used.
    """
    store = Store.at(address.rstrip("/").removesuffix(f"/{MODEL}"), patience=SECONDS_TO_ANSWER)
    files = store.folder_files(MODEL)
    if files is None:
        fix = "a sweep has one when it has ended"
        raise InputError("there is no exported model here", where=store.address, fix=fix)
    version = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]
    folder = _copies(store) / f"{MODEL}-{version}" / store.address.rpartition("/")[2]
    with only_one(folder.parent.with_suffix(".lock")):
        if not folder.is_dir():
            remove_leftovers(folder)
            store.download_folder(MODEL, folder)
    readings = store / READINGS / version
    atomic_write_json(folder.parent / READINGS_HOME, {"address": readings.address})
    log = folder / TEST_SET_LOG
    known = log.read_bytes() if log.is_file() else b""
    for name in readings.objects():
        line = readings.get(name)
        if line is not None and line not in known:
            known += line
    if known:
        atomic_write_bytes(log, known)
    return folder


def keep_readings(model: Path) -> None:
    """Where a model is a copy of one in an object store: keep its log of readings there too. Each reading is an object
    of its own, below its hash, so that it needs no lock and meets no driver.

    Raises:
        InputError: the store cannot be used.
    """
    try:
        home = json.loads((model.parent / READINGS_HOME).read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, LookupError):
        return
    readings = Store.at(home, patience=SECONDS_TO_ANSWER)
    there = readings.objects()
    for line in (model / TEST_SET_LOG).read_bytes().splitlines(keepends=True):
        name = f"{hashlib.sha256(line).hexdigest()[:32]}.jsonl"
        if name not in there:
            readings.put(name, line)


def has_sweep(address: str) -> bool:
    """Whether there is a sweep at an address.

    Raises:
        InputError: the store cannot be used.
    """
    found = read_head(Store.at(address, patience=SECONDS_TO_ANSWER))
    return found is not None and STUDY in found[0].files


def sweeps_at(address: str) -> list[str]:
    """The addresses of all sweeps right below one, sorted.

    Raises:
        InputError: the store cannot be used.
    """
    store = Store.at(address, patience=SECONDS_TO_ANSWER)
    found = (f"{store.address}/{name}" for name in store.names())
    return [each for each in found if has_sweep(each)]


def place_of(folder: Path) -> str:
    """What people call a sweep by: its folder, or the address that a copy was taken from."""
    home = _home_of(folder)
    return home[0] if home and home[1] == OF_A_COPY else str(folder)


def bring(sweep: Path, path: Path) -> Path:
    """A folder or a file of a sweep that lies in an object store, such as a checkpoint: brought here, unless the folder
    is here. In the folder of any other sweep, and where the store has none, nothing happens.

    Args:
        sweep: The sweep's folder here.
        path: In it.

    Returns:
        `path`.

    Raises:
        InputError: the store cannot be used, or what it has is damaged.
    """
    home = None if path.is_dir() else _home_of(sweep)
    if home is None:
        return path
    store, key = Store.at(home[0], patience=SECONDS_TO_ANSWER), path.relative_to(sweep).as_posix()
    with _exclusive(store):
        if not path.is_dir() and not store.download_folder(key, path) and (content := store.get(key)) is not None:
            atomic_write_bytes(path, content)
    return path


def bring_trial(sweep: Path, record: TrialRecord) -> None:
    """What a trial's export needs, as `bring` does."""
    bring(sweep, trial_folder(sweep, record.trial) / MODEL_FILES)
    if record.checkpoint is not None:
        bring(sweep, checkpoint_of(sweep, record))


def bring_confirmed(sweep: Path) -> None:
    """The models of the runs that confirm the winner, as `bring` does."""
    home = _home_of(sweep)
    if home is not None:
        store = Store.at(home[0], patience=SECONDS_TO_ANSWER)
        for key in store.folders(f"{CONFIRM}/{TRIALS}"):
            if key.endswith(f"/{MODEL_FILES}"):
                bring(sweep, sweep / key)


@contextmanager
def writing_at(address: str, *, say: Callable[[str], object]) -> Iterator[Path]:
    """A copy of a sweep's records that takes their place when the block ends well. Nobody else can write meanwhile.

    Raises:
        InputError: there is no sweep, another process runs it, or the store cannot be used.
    """
    folder = copy_here(address)
    store = Store.at(address)
    before = read_head(store)
    records = _records(store, folder, tracking_uri=None, say=say)
    records.take(busy=lambda: _busy(store))
    records.start()
    try:
        download_records(store, folder)
        yield folder
        records.commit()
    except StorageLost as lost:
        raise InputError(str(lost), where=store.address) from None
    finally:
        records.close(ended=before is None or before[0].ended)
