"""Files that are either whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache as memoised
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError

SUMS, SEAL = "SHA256SUMS", "sha256"
_CRC = b',"crc32":"'


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, computed once a process while its size and time of change stay.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError(f"the file cannot be read ({error.strerror})", where=path) from error


@memoised
def _digest(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` of all files that are in a folder now, in the format of `sha256sum --check`."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != SUMS)
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> None:
    """Hold the files of a folder against its `SHA256SUMS`, once a process; a folder without them is taken as it is.

    Raises:
        InputError: one is missing or is not what was written.
    """
    where = folder / SUMS
    if not where.is_file():
        return
    try:
        lines = where.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the checksums of this folder cannot be read", where=where, fix="make it again") from error
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64})  ([^/\s]+)", line)
        if not match or file_digest(folder / match[2]) != match[1]:
            raise InputError(
                "the file is damaged, or was altered: its SHA-256 is not the one written",
                where=folder / match[2] if match else where,
                fix="make the folder again",
            )


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


def sealed_line(record: dict[str, Any]) -> bytes:
    """A line of JSON that ends in its own CRC-32."""
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":"))[:-1].encode("utf-8", "replace")
    return body + _crc_of(body) + b"\n"


def unsealed_line(line: bytes) -> dict[str, Any]:
    """The record of a line, without its CRC.

    Raises:
        ValueError: this is no line of JSON with an object, or not the one that was written.
    """
    body, found, end = line.rstrip(b"\n").rpartition(_CRC)
    if found + end != _crc_of(body):
        raise ValueError("its CRC-32 is not the one written")
    record = json.loads(body + b"}")
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    return record


def _crc_of(body: bytes) -> bytes:
    return _CRC + f'{zlib.crc32(body):08x}"}}'.encode()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its own SHA-256 in it, last."""
    return content | {SEAL: _seal_of(content)}


def unsealed(content: Any, *, where: object) -> dict[str, Any]:
    """What was sealed, without the seal; an object that has none is taken as it is.

    Raises:
        InputError: this is no object, or it was altered after it was written.
    """
    if not isinstance(content, dict):
        raise InputError(f"this must be an object, but it is a {type(content).__name__}", where=where)
    content = dict(content)
    seal = content.pop(SEAL, None)
    if seal is not None and seal != _seal_of(content):
        raise InputError(
            "the file is damaged, or was altered by hand: its SHA-256 is not the one written",
            where=where,
            fix="take a copy of it from a backup",
        )
    return content


def _seal_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file or nothing: a reader never sees a part of it, also after a crash."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        permit(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def atomic_write_text(path: str | os.PathLike[str], content: str) -> None:
    """`atomic_write_bytes` for UTF-8 text."""
    atomic_write_bytes(path, content.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike[str], content: Any) -> None:
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
    mask = os.umask(0)
    os.umask(mask)
    return mask
