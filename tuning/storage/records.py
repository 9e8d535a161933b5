"""Small files that one process writes, kept in an object store: a head that names them all, which is also their lock.

The head is one object. It says who may write, with a token that grows with each new writer, and of what parts each file
is made. A commit puts what is new of the files under names that nobody had before, and then replaces the head, if it is
still the one that this process wrote last. So whoever reads the head sees the files as they were at one moment, and of
two writers only one commits: the other finds another head than its own, however long it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

import psutil

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_bytes
from tuning.storage.connection import PATIENCE, Conflict, StoreAway
from tuning.storage.store import Store

HEAD, PARTS = "head.json", "records"
LEASE_SECONDS = 60.0
"""A writer that has not renewed its head for so long may be replaced."""
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_WARN = 30.0
PART_BYTES = 1 << 18
"""Of a file that only grows, no more than so much is put again when it has grown."""


class StorageLost(BaseException):
    """This process may not write in the store any more, or cannot. No `Exception`, which Ray Tune would take for an
    error of the current trial: the sweep ends as if it had been killed."""


class Part(NamedTuple):
    """A piece of a file."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Holder:
    """The process that may write."""

    id: str
    """Of this tenure: no other process, and no other tenure of this one, has it."""
    host: str
    pid: int
    machine: str
    """Of the processes among which its number is unique: the start of the machine, and the namespace."""
    begun: float
    """When the process started, in seconds since 1970."""

    @classmethod
    def here(cls) -> Self:
        """This process."""
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid(), _machine(), psutil.Process().create_time())

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to be gone: that can be seen from its own machine alone."""
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.pid)
            return bool(abs(process.create_time() - self.begun) > 1 or process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True)
class Head:
    """What the head says."""

    token: int
    """Grows with each writer."""
    sequence: int
    """Grows with each time that it is written."""
    holder: Holder | None
    """None between two writers."""
    renewed: float = 0.0
    """When it was written, in seconds since 1970, by the clock of its writer: for people alone."""
    ended: bool = False
    """Whether the last writer has ended, and was not cut off."""
    files: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    """By path."""

    @property
    def is_running(self) -> bool:
        """Whether its writer is probably alive."""
        return self.holder is not None and not self.holder.is_dead and time.time() - self.renewed < 3 * LEASE_SECONDS

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps({"format": 1, **asdict(self), "renewed": time.time()}, ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str) -> Self:
        """The head of JSON.

        Raises:
            InputError: it is none, or a newer version has written it.
        """
        try:
            read = json.loads(content)
            if read.pop("format") != 1:
                what = "a newer version of kobert-tuning has written here"
                raise InputError(what, where=where, fix="use that one")
            files = {name: tuple(Part(*part) for part in parts) for name, parts in read.pop("files").items()}
            holder = read.pop("holder")
            if any(not _is_plain(name) for name in files):
                raise ValueError
            return cls(**read, holder=holder and Holder(**holder), files=files)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("this is no head of a sweep's records", where=where) from error


def read_head(store: Store) -> tuple[Head, str] | None:
    """The head in a store, and its ETag; None where nobody has written."""
    there = store.read(HEAD)
    return None if there is None else (Head.from_bytes(there.content, where=f"{store.address}/{HEAD}"), there.etag)


def download_records(store: Store, folder: Path) -> Head:
    """Write all files of the head into a folder, as they were at one moment. Those that are the same stay.

    Raises:
        InputError: there are none, or a part is damaged.
    """
    for _ in range(20):
        found = read_head(store)
        if found is None:
            raise InputError("there is no sweep here", where=store.address, fix="see `kobert-tune list --output URL`")
        contents = {name: _content(store, parts, folder / name) for name, parts in found[0].files.items()}
        if None not in contents.values():
            for name, content in contents.items():
                if content is not None and content != _read(folder / name):
                    atomic_write_bytes(folder / name, content)
            return found[0]
        time.sleep(0.2)  # its writer has replaced a part meanwhile
    raise InputError("parts of the records are missing", where=store.address)


def _content(store: Store, parts: Iterable[Part], here: Path) -> bytes | None:
    """The content of a file, from the one that is here as far as it is the same; None where a part is missing."""
    known, content = _read(here) or b"", bytearray()
    for part in parts:
        piece: bytes | None = known[len(content) : len(content) + part.size]
        if hashlib.sha256(piece or b"").hexdigest() != part.sha256:
            piece = store.get(part.key)
            if piece is None:
                return None
            if hashlib.sha256(piece).hexdigest() != part.sha256:
                where = f"{store.address}/{part.key}"
                raise InputError("the object is damaged: its SHA-256 is not the one written", where=where)
        content += piece or b""
    return bytes(content)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


class Records:
    """The files of a folder, committed to a store by the one process that may write there.

    A thread commits, renews the head while nothing changes, and sees when another process has taken its place.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        files: Callable[[], Iterable[str]],
        *,
        grow: Collection[str] = (),
        ahead: str | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        """Nothing is asked of the store yet: see `take`.

        Args:
            store: Where the head lies.
            folder: With the files.
            files: Names those to commit, by their paths in the folder, in the order in which they are read: one that
                may not be older than another is read after it.
            grow: Those of them that only grow, by whole lines.
            ahead: One of them that may be newer than the others, and that is committed by itself when it has grown.
            say: Gets a line when the store does not answer.
        """
        self.store, self.folder, self._files, self._grow, self._ahead = store, folder, files, set(grow), ahead
        self._say = say
        self._head: Head | None = None
        self._etag = ""
        self._seen: dict[str, tuple[tuple[int, int, int], tuple[Part, ...]]] = {}
        self._wanted: dict[str, tuple[Part, ...]] | None = None
        self._new: dict[str, bytes] = {}
        self._asked = self._done = self._parts = 0
        self._dropped: list[str] = []
        self._doomed: list[str] = []
        self._lost: str | None = None
        self._closing = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="records", daemon=True)

    @property
    def head(self) -> Head:
        """As this process has written it last."""
        assert self._head is not None, "`take` comes first"
        return self._head

    @property
    def is_lost(self) -> bool:
        """Whether this process may not write any more."""
        return self._lost is not None

    def take(self, *, busy: Callable[[], InputError], may_take: Callable[[Head], object] = lambda head: None) -> bool:
        """Become the one that writes; False where nobody has written before.

        A writer that is not known to be dead, and has not said that it has ended, is waited for, until its head was not
        renewed for `LEASE_SECONDS` by this machine's clock.

        Args:
            busy: Makes the error for when another process writes.
            may_take: Called with the head that is there; may raise.

        Raises:
            InputError: from `busy` or `may_take`, or the store cannot be used.
        """
        begin, seen, told = time.monotonic(), "", False
        store = self.store.patient(SECONDS_TO_WARN)
        while True:
            found = read_head(store)
            if found is None:
                new = Head(1, 1, Holder.here())
                try:
                    self._etag, self._head = store.put(HEAD, new.to_bytes(), create=True), new
                except Conflict:
                    continue
                self._refuse_without_conditions()
                return False
            head, etag = found
            may_take(head)
            if head.holder is None or head.holder.is_dead or (seen and time.monotonic() - begin > LEASE_SECONDS):
                new = replace(head, token=head.token + 1, sequence=head.sequence + 1, holder=Holder.here(), ended=False)
                try:
                    self._etag, self._head = store.put(HEAD, new.to_bytes(), if_match=etag), new
                except Conflict:
                    raise busy() from None
                self._clean()
                return True
            if seen and etag != seen:
                raise busy()
            if not told:
                who = f"{head.holder.host} (process {head.holder.pid})"
                self._say(f"waiting up to {LEASE_SECONDS:.0f} s to see whether {who} still runs this sweep")
            seen, told = etag, True
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _refuse_without_conditions(self) -> None:
        """Refuse a store that writes where it must not: there is a head now, so that nobody can make one."""
        try:
            self.store.put(HEAD, b"", create=True)
        except Conflict:
            return
        self.store.delete([HEAD])
        what = "this object store ignores conditions (If-None-Match): two drivers could write there at once"
        raise InputError(
            what, where=self.store.address, fix="use one that has conditional writes; see `kobert-tune doctor`"
        )

    def start(self) -> None:
        """Begin to renew the head, and to commit what is asked for."""
        self._thread.start()

    def check(self) -> None:
        """Look whether this process may go on.

        Raises:
            StorageLost: another process writes now, or the store was away for too long.
        """
        if self._lost is not None:
            raise StorageLost(self._lost)

    def soon(self) -> None:
        """Commit the files as they are now, in the background. Raises as `check`."""
        self._ask()

    def commit(self) -> None:
        """Commit the files as they are now, and return when the store has them. Raises as `check`."""
        asked = self._ask()
        with self._change:
            while self._done < asked and self._lost is None:
                self._change.wait(SECONDS_BETWEEN_LOOKS)
        self.check()

    def committed(self, name: str) -> int:
        """How many bytes of a file the store has."""
        return sum(part.size for part in self.head.files.get(name, ()))

    def close(self, *, ended: bool) -> None:
        """Give the place free; without any file, nothing stays. `ended`: the next writer does not go on by itself."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        if self._lost is not None:
            return
        try:
            if not self.head.files:
                self.store.delete(key for key in self.store.objects() if key != HEAD)
                self.store.delete([HEAD])
                return
            self._put_head(replace(self.head, holder=None, ended=ended))
            self.store.delete([*self._doomed, *self._dropped])
        except (Conflict, StoreAway):
            pass  # nobody waits for this: the lease ends by itself

    def abandon(self) -> None:
        """Stop as a kill would, and leave the head as it is."""
        self._lost = self._lost or "given up"
        with self._change:
            self._change.notify_all()

    def _ask(self) -> int:
        self.check()
        with self._change:
            self._wanted = {name: parts for name in self._files() if (parts := self._look(name)) is not None}
            self._asked += 1
            self._change.notify_all()
            return self._asked

    def _look(self, name: str) -> tuple[Part, ...] | None:
        """The parts of a file as it is now; new ones wait to be put. None where it is not there."""
        path = self.folder / name
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
                before, parts = self._seen.get(name, ((0, 0, 0), ()))
                if stamp == before:
                    return parts
                kept: tuple[Part, ...] = ()
                if name in self._grow and before[0] == stamp[0] and before[1] <= stamp[1]:
                    kept = tuple(part for part in parts if part.size == PART_BYTES)
                file.seek(sum(part.size for part in kept))
                content = file.read()
        except FileNotFoundError:
            return None
        if name in self._grow:
            content = content[: content.rfind(b"\n") + 1]
            pieces = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
        else:
            pieces = [content]
        known = {part.sha256: part for part in parts} | {part.sha256: part for part in self.head.files.get(name, ())}
        found = [*kept]
        for piece in pieces:
            digest = hashlib.sha256(piece).hexdigest()
            part = known.get(digest)
            if part is None:
                self._parts += 1
                part = Part(f"{PARTS}/{name}/{self.head.token:06d}-{self._parts:08d}", len(piece), digest)
                self._new[part.key] = piece
            found.append(part)
        self._seen[name] = stamp, tuple(found)
        return tuple(found)

    def _work(self) -> None:
        renewed, away = time.monotonic(), 0.0
        while self._lost is None:
            with self._change:
                if self._done == self._asked and not self._closing:
                    self._change.wait(SECONDS_BETWEEN_LOOKS)
                if self._lost is not None:
                    return
                if self._done == self._asked and self._ahead and self._head:
                    parts = self._look(self._ahead)
                    if parts is not None and self._wanted is not None and parts != self._wanted.get(self._ahead):
                        self._wanted = self._wanted | {self._ahead: parts}
                        self._asked += 1
                asked, wanted = self._asked, self._wanted
                if asked == self._done and self._closing:
                    return
            is_due = time.monotonic() - renewed > LEASE_SECONDS / 3
            if asked == self._done and not is_due:
                continue
            try:
                self._write(self.head.files if asked == self._done or wanted is None else wanted)
                renewed, away = time.monotonic(), 0.0
                with self._change:
                    self._done = asked
                    self._change.notify_all()
                self.store.patient(SECONDS_TO_WARN).delete(self._doomed)
                self._doomed = []
            except Conflict:
                self._lose("another process runs this sweep now; this one has ended, and nothing of it is lost")
            except StoreAway as error:
                away = away or time.monotonic() - SECONDS_TO_WARN
                if time.monotonic() - away > PATIENCE:
                    self._lose(str(error))
                else:
                    self._say(f"warning: {error}; the sweep waits for it")
            except InputError as error:
                self._lose(str(error))
            except Exception as error:  # nobody hears of it in a thread: the sweep does
                self._lose(f"the records cannot be written to the object store ({error})")

    def _lose(self, line: str) -> None:
        with self._change:
            self._lost = self._lost or line
            self._change.notify_all()

    def _write(self, files: Mapping[str, tuple[Part, ...]]) -> None:
        before = self.head.files
        keys = {part.key for parts in files.values() for part in parts}
        with self._change:
            new = {key: content for key, content in self._new.items() if key in keys}
        store = self.store.patient(SECONDS_TO_WARN)
        store.put_all(new)
        self._put_head(replace(self.head, files=dict(files)))
        with self._change:
            for key in [key for key in self._new if key in keys or key not in self._keys_wanted()]:
                del self._new[key]
        gone = [part.key for parts in before.values() for part in parts if part.key not in keys]
        self._doomed += [key for key in self._dropped if key not in keys]
        self._dropped = gone  # who has read the head before may read them now

    def _keys_wanted(self) -> set[str]:
        wanted = {part.key for parts in (self._wanted or {}).values() for part in parts}
        return wanted | {part.key for _, parts in self._seen.values() for part in parts}

    def _put_head(self, head: Head) -> None:
        new = replace(head, sequence=head.sequence + 1)
        self._etag = self.store.patient(SECONDS_TO_WARN).put(HEAD, new.to_bytes(), if_match=self._etag)
        self._head = new

    def _clean(self) -> None:
        """Remove the parts that a lost writer has put and never committed."""
        keys = {part.key for parts in self.head.files.values() for part in parts}
        self.store.delete(key for key in self.store.objects(PARTS) if key not in keys)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not on Linux: nobody is known to be dead
        return uuid.uuid4().hex


def _is_plain(name: str) -> bool:
    return bool(name) and all(part not in ("", ".", "..") for part in name.split("/"))
