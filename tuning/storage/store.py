"""Files and folders in an object store: S3, Google Cloud Storage, Azure, or a folder by a `file://` address.

Only this module and `connection.py` import obstore.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_file, atomic_folder
from kobert_core.io.checksums import sha256_file
from kobert_core.io.remote import is_address as is_address
from tuning.storage.connection import (
    PATIENCE,
    RAISED,
    Conflict,
    check_address,
    folder_at,
    make_folder,
    opened,
    repeated,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_Answer = TypeVar("_Answer")
COMMITTED = ".committed.json"
"""Within a folder: its size and SHA-256 of each file. It is written last, and a folder without it does not exist."""
_PART = 8 << 20
"""Bytes of a part of an upload; S3 takes 10,000 parts, so files up to 80 GiB."""
_AT_ONCE = 8
"""Requests for the files of a folder."""


class Damaged(InputError):
    """What is in the store is not what was written."""


class Stored(NamedTuple):
    """An object as it was read."""

    content: bytes
    etag: str
    """What `put` takes as `if_match`."""


class Store:
    """Objects below an address. Only the address is pickled; each process opens its own connections.

    Every method repeats a request that met a busy, slow or unreachable store, with growing pauses, for `patience`
    seconds, and raises an `InputError` of one line when it cannot succeed: no such bucket, no rights, no credentials,
    or `StoreAway`. Keys are relative, with `/` between their parts.
    """

    def __init__(self, address: str, *, patience: float = PATIENCE) -> None:
        """The store below an address that `check_address` accepts; nothing is asked of it yet."""
        self.address, self.patience = address.rstrip("/"), patience

    @classmethod
    def at(cls, address: str, *, patience: float = PATIENCE) -> Self:
        """The store at an address that a user gave.

        Raises:
            InputError: it is no address of a store, or obstore is not installed.
        """
        store = cls(check_address(address), patience=patience)
        with suppress(FileNotFoundError):  # a folder, which is made when something is written
            opened(store.address, patience)
        return store

    def __truediv__(self, key: str) -> Self:
        """The store of what lies below a key."""
        return type(self)(f"{self.address}/{key}", patience=self.patience)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    @property
    def _objects(self) -> ObjectStore:
        return opened(self.address, self.patience)

    @property
    def _objects_to_write(self) -> ObjectStore:
        """The same; its folder is made if it is one."""
        make_folder(self.address)
        return self._objects

    def patient(self, seconds: float) -> Self:
        """The same store, with another `patience`."""
        return type(self)(self.address, patience=seconds)

    def put(self, key: str, content: bytes, *, create: bool = False, if_match: str | None = None) -> str:
        """Write an object, whole or not at all, and return its ETag.

        Args:
            key: Of the object.
            content: Of the object. Under a condition it must be such as no other process writes there: when an answer
                was lost and the object has this content, then it was this put that wrote it.
            create: Only if there is none yet.
            if_match: Only if the one there has this ETag.

        Raises:
            Conflict: the condition is not met.
            InputError: see `Store`.
        """
        import obstore

        def write() -> str:
            mode: Any = "overwrite"
            if create:
                mode = "create"
            elif if_match is not None:
                mode = {"version" if self.address.startswith("gs:") else "e_tag": if_match}
            return self._etag(obstore.put(self._objects_to_write, key, content, mode=mode))

        if not create and if_match is None:
            return self._repeated(write, key)
        try:
            if self.address.startswith("file:"):
                with _alone(self.address):
                    if create:
                        return self._repeated(write, key)
                    there = self.read(key)
                    if there is None or there.etag != if_match:
                        raise Conflict(key)
                    return self.put(key, content)
            return self._repeated(write, key)
        except Conflict:
            there = self.read(key)
            if there is not None and there.content == content:
                return there.etag
            raise

    def put_all(self, contents: Mapping[str, bytes]) -> None:
        """Write several objects, side by side."""
        _side_by_side(partial(self.put, key, content) for key, content in contents.items())

    def read(self, key: str) -> Stored | None:
        """An object and its ETag; None where there is none."""
        import obstore

        def read() -> Stored:
            answer = obstore.get(self._objects, key)
            return Stored(bytes(answer.bytes()), self._etag(answer.meta))

        return self._repeated(read, key, missing=None)

    def written(self, key: str) -> float | None:
        """When an object was written, in seconds since 1970 by the store's clock; None where there is none."""
        import obstore

        return self._repeated(lambda: obstore.head(self._objects, key)["last_modified"].timestamp(), key, missing=None)

    def get(self, key: str) -> bytes | None:
        """The content of an object; None where there is none."""
        there = self.read(key)
        return there.content if there else None

    def objects(self, prefix: str = "") -> dict[str, int]:
        """The size of each object below a prefix, in bytes, by key; the prefix is a folder's key, without its slash."""
        import obstore

        def read() -> dict[str, int]:
            found = obstore.list(self._objects, prefix or None, chunk_size=1000)
            return {each["path"]: each["size"] for chunk in found for each in chunk}

        return dict(sorted(self._repeated(read, prefix, missing={}).items()))

    def versions(self, key: str) -> dict[str, list[object]]:
        """What tells the present object at a key from any other; where there is none, of each of those below it, as
        below a folder; by key."""
        import obstore

        def of(meta: Any) -> list[object]:
            return [meta.get("e_tag"), meta.get("version"), meta["size"], meta["last_modified"].timestamp()]

        def read() -> dict[str, list[object]]:
            found = obstore.list(self._objects, key, chunk_size=1000)
            return {each["path"]: of(each) for chunk in found for each in chunk}

        one = self._repeated(lambda: of(obstore.head(self._objects, key)), key, missing=None)
        return self._repeated(read, key, missing={}) if one is None else {key: one}

    def names(self, prefix: str = "") -> list[str]:
        """The names of the folders right below a prefix: what is listed is one level alone, however much is below."""
        import obstore

        def read() -> list[str]:
            found = obstore.list_with_delimiter(self._objects, prefix or None)["common_prefixes"]
            return [path.rstrip("/").rpartition("/")[2] for path in found]

        return sorted(self._repeated(read, prefix, missing=[]))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        import obstore

        keys = [*keys]
        if self.address.startswith("s3:") and keys:  # in one request, where what is not there is no error
            self._repeated(lambda: obstore.delete(self._objects, keys), "")
            return

        def remove(key: str) -> None:
            self._repeated(lambda: obstore.delete(self._objects, key), key, missing=None)

        _side_by_side(partial(remove, key) for key in keys)

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object, in parts that are sent side by side where it is large."""
        import obstore

        self._repeated(lambda: obstore.put(self._objects_to_write, key, path, chunk_size=_PART, max_concurrency=4), key)

    def download(self, key: str, path: Path) -> str:
        """Write an object as a file, which is there whole or not at all, and return its SHA-256.

        Raises:
            FileNotFoundError: there is no such object.
            InputError: see `Store`.
        """
        import obstore

        def fetch() -> str:
            digest = hashlib.sha256()
            with atomic_file(path) as temporary, open(temporary, "wb") as file:
                for chunk in obstore.get(self._objects, key).stream(min_chunk_size=1 << 20):
                    file.write(chunk)
                    digest.update(chunk)
            return digest.hexdigest()

        return self._repeated(fetch, key)

    def upload_folder(self, folder: Path, key: str, *, known: Mapping[str, str] = MappingProxyType({})) -> None:
        """Write all files of a folder, and last the marker without which it does not exist.

        Each file is an object below its own hash, so that of two that write the same folder neither spoils the other's.
        A folder that is there with the same files is left as it is.

        Args:
            folder: On this machine; nothing may change in it meanwhile.
            key: Of the folder.
            known: The SHA-256 of files that need not be computed again, by their paths within the folder.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {
            name: {"size": path.stat().st_size, "sha256": known.get(name) or sha256_file(path)}
            for name, path in ((path.relative_to(folder).as_posix(), path) for path in paths)
        }
        marker = json.dumps({"files": files}, ensure_ascii=False).encode()
        if self.get(f"{key}/{COMMITTED}") == marker:
            return
        _side_by_side(
            partial(self.upload, folder / name, _object_of(key, name, str(file["sha256"])))
            for name, file in files.items()
        )
        self.put(f"{key}/{COMMITTED}", marker)

    def download_folder(self, key: str, folder: Path, *, only: Collection[str] = ()) -> bool:
        """Bring a folder to this machine, under a temporary name until it is whole; False where there is none.

        Args:
            key: Of the folder.
            folder: To make.
            only: The files to bring, by their paths in it; all when none is named.

        Raises:
            FileExistsError: `folder` is already there and not empty.
            Damaged: a file is missing, or is not what was written.
            InputError: see `Store`.
        """
        files = self.folder_files(key)
        if files is None:
            return False
        with atomic_folder(folder) as temporary:
            _side_by_side(
                partial(self._download_checked, _object_of(key, name, digest), temporary / name, digest)
                for name, digest in files.items()
                if not only or name in only
            )
        return True

    def _download_checked(self, key: str, path: Path, sha256: str) -> None:
        where = f"{self.address}/{key}"
        try:
            found = self.download(key, path)
        except FileNotFoundError:
            raise Damaged("the object is missing in a folder that was whole", where=where) from None
        if found != sha256:
            raise Damaged("the object is damaged: its SHA-256 is not the one written", where=where)

    def folder_files(self, key: str) -> dict[str, str] | None:
        """The SHA-256 of each file of a folder, by its path in it; None where there is no whole folder.

        Raises:
            Damaged: the marker is no marker.
            InputError: see `Store`.
        """
        marker = self.get(f"{key}/{COMMITTED}")
        if marker is None:
            return None
        try:
            files = {str(name): str(file["sha256"]) for name, file in json.loads(marker)["files"].items()}
        except (ValueError, LookupError, TypeError, AttributeError):
            files = {"..": ""}
        if any(part in ("", ".", "..") for name in files for part in name.split("/")):
            raise Damaged("this is no marker of a whole folder", where=f"{self.address}/{key}/{COMMITTED}")
        return files

    def folders(self, prefix: str = "") -> list[str]:
        """The keys of all whole folders below a prefix, sorted."""
        return [key.removesuffix(f"/{COMMITTED}") for key in self.objects(prefix) if key.endswith(f"/{COMMITTED}")]

    def copy_folder(self, key: str, to: str) -> None:
        """Make a folder once more below another key, without bringing it here.

        Raises:
            InputError: it is not there.
        """
        import obstore

        def copy(name: str, digest: str) -> None:
            source, target = _object_of(key, name, digest), _object_of(to, name, digest)
            self._repeated(partial(obstore.copy, self._objects, source, target), source, missing=None)

        files = self.folder_files(key) or {}
        _side_by_side(partial(copy, name, digest) for name, digest in files.items())
        marker = self.get(f"{key}/{COMMITTED}")
        if marker is None:
            raise InputError("this folder is not in the object store any more", where=f"{self.address}/{key}")
        self.put(f"{to}/{COMMITTED}", marker)

    def delete_folder(self, key: str) -> None:
        """Remove a folder: from its marker on, it does not exist."""
        self.delete([f"{key}/{COMMITTED}"])
        self.delete(self.objects(key))

    def _repeated(self, ask: Callable[[], _Answer], key: str, missing: Any = RAISED) -> _Answer:
        return repeated(ask, key, address=self.address, patience=self.patience, missing=missing)

    def _etag(self, meta: Any) -> str:
        """What a later put is held against: a generation on Google Cloud, else the ETag."""
        return str(meta["version"] if self.address.startswith("gs:") else meta["e_tag"])


def _side_by_side(calls: Iterable[Callable[[], object]]) -> None:
    """Make several calls at once, in threads that the end of the process does not wait for. Once one has raised an
    error no more begin; it is raised when those that had begun have ended."""
    waiting = [*calls]
    if len(waiting) < 2:
        for call in waiting:
            call()
        return
    has_failed = threading.Event()

    def make(call: Callable[[], object]) -> None:
        if has_failed.is_set():
            return
        try:
            call()
        except BaseException:
            has_failed.set()
            raise

    with ThreadPool(min(_AT_ONCE, len(waiting))) as threads:
        threads.map(make, waiting, chunksize=1)


def _object_of(folder: str, name: str, sha256: str) -> str:
    """The key of a file in a folder."""
    return f"{folder}/{sha256[:16]}/{name}"


@contextmanager
def _alone(address: str) -> Iterator[None]:
    """Around a conditional write in a folder, for which its file system has no operation of its own."""
    make_folder(address)
    handle = os.open(folder_at(address), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
