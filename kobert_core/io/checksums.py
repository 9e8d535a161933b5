"""Checksums: `SHA256SUMS` of a folder, a SHA-256 within a JSON object, a CRC-32 at the end of a line of JSON."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kobert_core.errors import InputError

SUMS, SEAL = "SHA256SUMS", "sha256"
_CRC = b',"crc32":"'


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, computed once per process while its size and modification time stay the same.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError(f"the file cannot be read ({error.strerror})", where=path) from error


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    return sha256_file(path)


def write_sums(folder: Path, known: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write `SHA256SUMS` for all files in a folder, in the format of `sha256sum --check`. The sums of some files may be
    `known`."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != SUMS)
    lines = [f"{known.get(name) or sha256_file(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that a folder's `SHA256SUMS` names.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is not what `write_sums` writes.
    """
    sums = {}
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  ([^/\s]+)", line)
        if match is None:
            raise ValueError(f"this is no line of `sha256sum`: {line!r:.80}")
        sums[match[2]] = match[1]
    return sums


def check_sums(folder: Path) -> None:
    """Check the files of a folder against its `SHA256SUMS`, once per process; a folder without one is accepted.

    Raises:
        InputError: a file is missing, or is not what was written.
    """
    if not (folder / SUMS).is_file():
        return
    try:
        sums = read_sums(folder)
    except (OSError, ValueError) as error:
        what = "the checksums of this folder are damaged, or cannot be read"
        raise InputError(what, where=folder / SUMS, fix="make the folder again") from error
    for name, digest in sums.items():
        if file_digest(folder / name) != digest:
            raise InputError(
                "the file is damaged, or was altered: its SHA-256 is not the one written",
                where=folder / name,
                fix="make the folder again",
            )


def sealed(content: Mapping[str, object]) -> dict[str, object]:
    """A JSON object with its own SHA-256 as its last value."""
    return {**content, SEAL: _seal_of(content)}


def unsealed(content: object, *, where: object) -> dict[str, Any]:
    """The object that was sealed, without its SHA-256; an object without one is accepted.

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


def _seal_of(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed_line(record: Mapping[str, object]) -> bytes:
    """A line of JSON that ends in its own CRC-32."""
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":"))[:-1].encode("utf-8", "replace")
    return body + _crc_of(body) + b"\n"


def unsealed_line(line: bytes) -> dict[str, Any]:
    """The record of a line, without its CRC-32.

    Raises:
        ValueError: this is no JSON object on a line, or not the one that was written.
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
