"""Files that are either whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kobert_core.errors import InputError

_ONE_AT_A_TIME = threading.Lock()


def check_writable(folder: Path) -> None:
    """Write in a folder, or where it would be made, and leave nothing behind.

    Raises:
        InputError: it cannot be written, or not be made.
    """
    there = _nearest(folder)
    try:
        _try_to_write(there)
    except OSError as error:
        raise InputError(f"nothing can be written here ({error.strerror})", where=there) from error


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file or nothing: a reader never sees a part of it, also after a crash."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty file beside `path` that takes its place when the block ends well, and is removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        permit(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_text(path: str | os.PathLike[str], content: str) -> None:
    """`atomic_write_bytes` for UTF-8 text."""
    atomic_write_bytes(path, content.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike[str], content: object) -> None:
    """`atomic_write_text` for a JSON value, indented, with Korean left readable."""
    atomic_write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error says, itself or by what led to it, that a disk has no space left or a quota is spent."""
    full = (errno.ENOSPC, errno.EDQUOT)
    while error is not None:
        if getattr(error, "errno", None) in full or any(f"(os error {number})" in str(error) for number in full):
            return True  # the latter is how safetensors puts it
        error = error.__cause__ or error.__context__
    return False


def check_output(path: Path) -> None:
    """Look whether a file could be written here, before the work for it is done; its folder may not be there yet.

    Raises:
        InputError: it could not.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _try_to_write(_nearest(path.absolute().parent))
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=path, fix="give another place") from error


def _nearest(folder: Path) -> Path:
    """The folder, or what is there of its parents."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def _try_to_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and is removed otherwise.

    Raises:
        FileExistsError: `path` is already there and not empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
        permit(temporary)
        try:
            os.rename(temporary, path)
        except OSError as error:
            raise FileExistsError(f"{path} is already there") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def permit(path: str | os.PathLike[str]) -> None:
    """Give a file or folder that was made for its owner alone the permissions that the umask leaves to others."""
    os.chmod(path, (0o777 if os.path.isdir(path) else 0o666) & ~_umask())


def _umask() -> int:
    """The umask of this process; on Linux read and not set, because other threads make files meanwhile."""
    try:
        status = Path("/proc/self/status").read_bytes()
    except OSError:
        status = b""
    if found := re.search(rb"^Umask:\s*([0-7]+)$", status, re.MULTILINE):
        return int(found[1], 8)
    with _ONE_AT_A_TIME:
        mask = os.umask(0)
        os.umask(mask)
    return mask
