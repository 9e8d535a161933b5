"""How a process reaches an object store: by an address, with requests that are repeated while the store is away.

Credentials and endpoints come from the environment or the machine's role, and never from an address.
"""

from __future__ import annotations

import errno
import os
import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from kobert_core.errors import InputError
from kobert_core.io.remote import SCHEMES
from kobert_core.texts import printable
from tuning.tracking.uris import redact_uri

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PATIENCE = 15 * 60.0
"""Seconds for which a request is repeated while the store does not answer, or is busy."""
_STALLED = 60
"""Seconds without a byte after which a request is given up and repeated."""
_BEHIND = 10
"""As `nice` counts: a tenth of the share of a thread that trains."""
_Answer = TypeVar("_Answer")
RAISED = object()
"""As the answer where an object is not there: FileNotFoundError."""
_METADATA = re.compile(r"/latest/(?:api/token|meta-data)|/computeMetadata/|/metadata/identity/")
"""Where a machine asks for the credentials of its role: what fails there, fails for want of any."""
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist")
_NO_FOLDER = f"(os error {errno.ENOTDIR})"
"""In a `file://` store: a part of the key is a file."""


class Kind(NamedTuple):
    """What stores of a kind read in the environment."""

    library_class: str
    """Its name in `obstore.store`."""
    endpoints: tuple[str, ...]
    """Variables that name another server than that of Amazon, Google or Microsoft."""
    credentials: str
    """What to do where there are none."""


_AZURE = Kind(
    "AzureStore",
    ("AZURE_STORAGE_ENDPOINT",),
    "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or give the machine an identity",
)
_KINDS = {
    "s3": Kind(
        "S3Store",
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
    ),
    "gs": Kind(
        "GCSStore",
        ("GOOGLE_BASE_URL",),
        "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account",
    ),
    "az": _AZURE,
    "abfs": _AZURE,
}


class Conflict(Exception):
    """An object was not written, because it is there already, or is no more the one that was read."""


class StoreAway(InputError):
    """The store has not answered for as long as a request is repeated."""


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
        what, others = "an address has no name, password or options in it", "AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL"
        names = "AZURE_STORAGE_ACCOUNT_NAME" if _KINDS.get(scheme) is _AZURE else others
        raise InputError(what, where=where, fix=f"give them in the environment, as {names}")
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


@cache
def opened(address: str, patience: float) -> ObjectStore:
    """The library's object of an address, one for each process.

    Raises:
        FileNotFoundError: it is a folder by its `file://` address, and is not there.
        InputError: obstore is not installed, the folder cannot be looked at, or the environment is wrong.
    """
    try:
        import obstore.store
        from obstore.exceptions import BaseError
    except ImportError:
        fix = "install it with `pip install kobert-tuning[object-storage]`"
        raise InputError("an object store needs the package `obstore`", where=address, fix=fix) from None
    scheme, _, rest = address.partition("://")
    if scheme == "file":
        folder = folder_at(address)
        try:
            is_there = folder.is_dir()
        except OSError as error:
            what = f"the folder cannot be looked at ({error.strerror})"
            raise InputError(what, where=address, fix="check the address and your rights") from None
        if not is_there:
            raise FileNotFoundError(address)
        return obstore.store.LocalStore(folder, automatic_cleanup=True)
    bucket, _, prefix = rest.partition("/")
    kind = _KINDS[scheme]
    make: Any = getattr(obstore.store, kind.library_class)
    options = {
        "allow_http": "http" in _schemes_of_endpoints(kind),
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=_STALLED),
        "timeout": timedelta(hours=1),
    }
    retries = {"max_retries": 6, "retry_timeout": timedelta(seconds=min(60.0, patience))}
    try:
        store: ObjectStore = make(bucket, prefix=prefix or None, client_options=options, retry_config=retries)
    except BaseError as error:  # of what it has read in the environment
        what = f"this object store cannot be asked ({_shown(error)})"
        raise InputError(what, where=address, fix=kind.credentials) from None
    return store


def _schemes_of_endpoints(kind: Kind) -> set[str]:
    """`http`, `https` or nothing: of the servers that the environment names for stores of a kind.

    Raises:
        InputError: one of them is no URL, of which the library would make a traceback of its own.
    """
    given = {name: os.environ[name] for name in kind.endpoints if os.environ.get(name)}
    for name, url in given.items():
        if not re.fullmatch(r"https?://[\w.:\[\]-]+(/\S*)?", url):
            where = name if "@" in url else f"{name}={printable(url)}"  # a password may stand before the @
            raise InputError("the endpoint is no URL", where=where, fix="write http://HOST:PORT or https://HOST")
    return {url.partition(":")[0] for url in given.values()}


def folder_at(address: str) -> Path:
    """The folder that a `file://` address names."""
    return Path(address.removeprefix("file://"))


def make_folder(address: str) -> None:
    """Make the folder that a `file://` address names, for what is written there; nothing for any other address.

    Raises:
        InputError: it cannot be made.
    """
    if not address.startswith("file:"):
        return
    try:
        folder_at(address).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the folder cannot be made ({error.strerror})"
        raise InputError(what, where=address, fix="check the address and your rights") from None


def repeated(ask: Callable[[], _Answer], key: str, *, address: str, patience: float, missing: Any = RAISED) -> _Answer:
    """The answer to a request, which is made again, with growing pauses, while a store is busy, slow or away.

    Args:
        ask: Makes the request.
        key: Of the object.
        address: Of the store.
        patience: Seconds for which the request is repeated.
        missing: The answer where the object is not there; by default that raises FileNotFoundError.

    Raises:
        Conflict: a condition of the request is not met.
        StoreAway: the store has not answered for so long.
        InputError: no repetition mends this.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    end, pause = time.monotonic() + patience, 1.0
    while True:
        try:
            return ask()
        except (AlreadyExistsError, PreconditionError) as error:
            raise Conflict(key) from error
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise _error(error, address) from None
            if missing is RAISED:
                raise
            return cast(_Answer, missing)
        except (BaseError, TimeoutError, ConnectionError) as error:
            if _NO_FOLDER in str(error) and missing is not RAISED:
                return cast(_Answer, missing)
            if not _is_away(error, address):
                raise _error(error, address) from None
            if time.monotonic() + pause > end:
                what = f"the object store did not answer for {patience:.0f} s ({_shown(error)})"
                fix = "check the network, and the endpoint in the environment"
                raise StoreAway(what, where=address, fix=fix) from None
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, 30.0)


def _is_away(error: Exception, address: str) -> bool:
    """Whether a request that failed so may succeed later."""
    text = str(error)
    status = re.search(r"status code: (\d{3})", text)
    if address.startswith("file:") or _METADATA.search(text) or _NO_BUCKET.search(text):
        return False
    return status is None or status[1][0] == "5" or status[1] in ("408", "409", "429")


def _error(error: Exception, address: str) -> InputError:
    """One line for an error that no repetition mends."""
    text = str(error)
    if _METADATA.search(text):
        what, fix = "there are no credentials for this object store", _KINDS[address.partition(":")[0]].credentials
    elif _NO_BUCKET.search(text):
        what, fix = "there is no such bucket", "make it, or give the address of another"
    elif re.search(r"status code: (401|403)", text):
        what, fix = f"the object store refuses this ({_shown(error)})", "check the credentials and their rights"
    else:
        what, fix = f"the object store cannot do this ({_shown(error)})", "check the address and the endpoint"
    return InputError(what, where=address, fix=fix)


def _shown(error: Exception) -> str:
    """What a library says of a request, short and without secrets: the code that the server gave, or the first line."""
    text = str(error)
    status, code = re.search(r"status code: (\d{3}[^:\n]*)", text), re.search(r"<Code>(\w+)</Code>", text)
    if status:
        return f"{status[1].strip()}{f', {code[1]}' if code else ''}"
    first = text.partition("\n")[0]
    return redact_uri(re.sub(r"^Generic \w+ error: ", "", first))[:200]
