"""Files and folders in an object store: S3, Google Cloud Storage, Azure, or a folder by a `file://` address.

Only this module imports obstore. Credentials and endpoints come from the environment or the machine's role, and never
from an address.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache, partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_file, atomic_folder
from kobert_core.io.checksums import sha256_file
from kobert_core.io.remote import SCHEMES
from kobert_core.io.remote import is_address as is_address
from kobert_core.texts import printable
from tuning.tracking.uris import redact_uri

if TYPE_CHECKING:
    from obstore.store import ObjectStore

COMMITTED = ".committed.json"
"""Within a folder: its size and SHA-256 of each file. It is written last, and a folder without it does not exist."""
PATIENCE = 15 * 60.0
"""Seconds for which a request is repeated while the store does not answer, or is busy."""
_PART = 8 << 20
"""Bytes of a part of an upload; S3 takes 10,000 parts, so files up to 80 GiB."""
_STALLED = 60
"""Seconds without a byte after which a request is given up and repeated."""
_AT_ONCE = 8
"""Requests for the files of a folder."""
_BEHIND = 10
"""As `nice` counts: a tenth of the share of a thread that trains."""
_Answer = TypeVar("_Answer")
_RAISED = object()
_METADATA = re.compile(r"/latest/(?:api/token|meta-data)|/computeMetadata/|/metadata/identity/")
"""Where a machine asks for the credentials of its role: what fails there, fails for want of any."""
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist")
_NO_FOLDER = f"(os error {errno.ENOTDIR})"
"""In a `file://` store: a part of the key is a file."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT")
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or give the machine an identity",
}


class Conflict(Exception):
    """An object was not written, because it is there already, or is no more the one that was read."""


class StoreAway(InputError):
    """The store has not answered for as long as a request is repeated."""


class Damaged(InputError):
    """What is in the store is not what was written."""


class Stored(NamedTuple):
    """An object as it was read."""

    content: bytes
    etag: str
    """What `put` takes as `if_match`."""


def check_address(address: str) -> str:
    """An address that a user gave, without a slash at its end.

    Raises:
        InputError: it is of another kind, names no bucket, or holds a secret.
    """
    where, fix = redact_uri(address), "use s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIR"
    scheme, _, rest = address.partition("://")
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if scheme not in SCHEMES:
        raise InputError(f"there is no object store of the kind `{printable(scheme)}`", where=where, fix=fix)
    if "@" in bucket or "?" in rest or "#" in rest:
        what = "an address has no name, password or options in it"
        raise InputError(what, where=where, fix="give them in the environment, as AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL")
    if scheme == "file" and (bucket or not prefix):
        raise InputError("the address of a folder has three slashes and a path", where=where, fix="use file:///DIR")
    if scheme != "file" and not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,62}", bucket):
        raise InputError("the address names no bucket", where=where, fix=fix)
    if any(part in ("", ".", "..") for part in prefix.split("/")[: None if prefix else 0]):
        raise InputError("an address has no empty parts, `.` or `..` in it", where=where, fix=fix)
    return address.rstrip("/")


@cache
def stay_behind() -> None:
    """Let what this process sends to stores wait for what it computes; before its first request to one.

    The threads that sign, copy and encrypt are the library's own, and have the priority of the thread that begins them.
    """

    def begin() -> None:
        import obstore
        from obstore.store import MemoryStore

        with suppress(OSError, AttributeError):  # where a thread has no priority of its own
            here = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, here, os.getpriority(os.PRIO_PROCESS, here) + _BEHIND)
        obstore.put(MemoryStore(), "first", b"")

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()


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
        _opened(store.address, patience)
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
        return _opened(self.address, self.patience)

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
            return self._etag(obstore.put(self._objects, key, content, mode=mode))

        if not create and if_match is None:
            return self._repeated(write, key)
        try:
            if self.address.startswith("file:"):
                with _alone(_folder(self.address)):
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
        _side_by_side(
            partial(self._repeated, partial(obstore.delete, self._objects, key), key, missing=None) for key in keys
        )

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object, in parts that are sent side by side where it is large."""
        import obstore

        self._repeated(lambda: obstore.put(self._objects, key, path, chunk_size=_PART, max_concurrency=4), key)

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

    def _repeated(self, ask: Callable[[], _Answer], key: str, missing: Any = _RAISED) -> _Answer:
        """The answer to a request, or `missing` where the object is not there."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        end, pause = time.monotonic() + self.patience, 1.0
        while True:
            try:
                return ask()
            except (AlreadyExistsError, PreconditionError) as error:
                raise Conflict(key) from error
            except FileNotFoundError as error:
                if _NO_BUCKET.search(str(error)):
                    raise self._error(error) from None
                if missing is _RAISED:
                    raise
                return cast(_Answer, missing)
            except (BaseError, TimeoutError, ConnectionError) as error:
                if _NO_FOLDER in str(error) and missing is not _RAISED:
                    return cast(_Answer, missing)
                if not self._is_away(error):
                    raise self._error(error) from None
                if time.monotonic() + pause > end:
                    what = f"the object store did not answer for {self.patience:.0f} s ({_shown(error)})"
                    fix = "check the network, and the endpoint in the environment"
                    raise StoreAway(what, where=self.address, fix=fix) from None
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, 30.0)

    def _etag(self, meta: Any) -> str:
        """What a later put is held against: a generation on Google Cloud, else the ETag."""
        return str(meta["version"] if self.address.startswith("gs:") else meta["e_tag"])

    def _is_away(self, error: Exception) -> bool:
        """Whether a request that failed so may succeed later."""
        text = str(error)
        status = re.search(r"status code: (\d{3})", text)
        if self.address.startswith("file:") or _METADATA.search(text) or _NO_BUCKET.search(text):
            return False
        return status is None or status[1][0] == "5" or status[1] in ("408", "409", "429")

    def _error(self, error: Exception) -> InputError:
        """One line for an error that no repetition mends."""
        text = str(error)
        if _METADATA.search(text):
            what, fix = "there are no credentials for this object store", _CREDENTIALS[self.address.partition(":")[0]]
        elif _NO_BUCKET.search(text):
            what, fix = "there is no such bucket", "make it, or give the address of another"
        elif re.search(r"status code: (401|403)", text):
            what, fix = f"the object store refuses this ({_shown(error)})", "check the credentials and their rights"
        else:
            what, fix = f"the object store cannot do this ({_shown(error)})", "check the address and the endpoint"
        return InputError(what, where=self.address, fix=fix)


def _side_by_side(calls: Iterable[Callable[[], object]]) -> None:
    """Make several calls at once, in threads that the end of the process does not wait for; raises what one raised."""
    waiting = [*calls]
    if len(waiting) < 2:
        for call in waiting:
            call()
        return
    with ThreadPool(min(_AT_ONCE, len(waiting))) as threads:
        threads.map(lambda call: call(), waiting, chunksize=1)


def _object_of(folder: str, name: str, sha256: str) -> str:
    """The key of a file in a folder."""
    return f"{folder}/{sha256[:16]}/{name}"


def _shown(error: Exception) -> str:
    """What a library says of a request, short and without secrets: the code that the server gave, or the first line."""
    text = str(error)
    status, code = re.search(r"status code: (\d{3}[^:\n]*)", text), re.search(r"<Code>(\w+)</Code>", text)
    if status:
        return f"{status[1].strip()}{f', {code[1]}' if code else ''}"
    first = text.partition("\n")[0]
    return redact_uri(re.sub(r"^Generic \w+ error: ", "", first))[:200]


@cache
def _opened(address: str, patience: float) -> ObjectStore:
    """The library's object of an address, one for each process."""
    try:
        from obstore.store import AzureStore, GCSStore, LocalStore, S3Store
    except ImportError:
        fix = "install it with `pip install kobert-tuning[object-storage]`"
        raise InputError("an object store needs the package `obstore`", where=address, fix=fix) from None
    scheme, _, rest = address.partition("://")
    if scheme == "file":
        return LocalStore(_folder(address), mkdir=True, automatic_cleanup=True)
    bucket, _, prefix = rest.partition("/")
    kinds: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    endpoints = (os.environ.get(name, "") for name in _ENDPOINTS)
    opened: ObjectStore = kinds[scheme](
        bucket,
        prefix=prefix or None,
        client_options={
            "allow_http": any(endpoint.startswith("http://") for endpoint in endpoints),
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=_STALLED),
            "timeout": timedelta(hours=1),
        },
        retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=min(60.0, patience))},
    )
    return opened


def _folder(address: str) -> Path:
    return Path(address.removeprefix("file://"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Around a conditional write in a folder, for which its file system has no operation of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
