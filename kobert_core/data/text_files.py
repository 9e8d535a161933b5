"""A file to its text: what it is compressed with, and in which encoding it is."""

from __future__ import annotations

import codecs
import io
import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from kobert_core.data.dialect import UTF_8
from kobert_core.errors import InputError
from kobert_core.texts import character_problem

COMPRESSED = (".gz", ".zst", ".bz2", ".lz4")
"""Suffixes of files that are unpacked as they are read."""
BLOCK = 1 << 20
SAMPLE_BLOCKS = 16
"""A file of which so many blocks are UTF-8 is taken to be UTF-8 as a whole."""
FEWEST_SYLLABLES = 4
"""CP949 is not told from other encodings by less."""

_MARKS = (
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SYLLABLES = {bytes((row, cell)).decode("euc_kr") for row in range(0xB0, 0xC9) for cell in range(0xA1, 0xFF)}
"""The 2,350 of KS X 1001: all others are rare, and what other languages look like when it is read as CP949."""
_JAMO = set(map(chr, range(0x3131, 0x3164)))

_log = logging.getLogger(__name__)

codecs.register_error("lone_surrogate", lambda error: ("\udcff", error.end))  # type: ignore[attr-defined]


def read_lines(path: Path, encoding: str | None = None) -> Iterator[str]:
    r"""Lines without their `\n`, which alone ends one: reviews hold `\r`, U+2028 and the like. Empty lines at the end
    of the file are left out.

    Bytes that are no text become lone surrogates, so that one broken row does not cost the others.

    Args:
        path: The file, compressed where its suffix says so.
        encoding: As for `encoding_of`.

    Raises:
        InputError: the file cannot be read, or its first line is no text.
    """
    with open_text(path, encoding) as file:
        begin = file.readline()
        if character_problem(begin) is not None:
            name = display_name(encoding_of(path, encoding))
            fix = "write the file as UTF-8, or say `data.encoding`"
            raise InputError(f"the first line is not {name} text", where=path, fix=fix)
        empty: list[str] = []
        for line in itertools.chain([begin], file):
            if line.isspace() and not line.strip("\r\n"):
                empty.append(line[:-1])
                continue
            if empty:
                yield from empty
                empty.clear()
            yield line[:-1] if line[-1] == "\n" else line


def read_text(path: Path, encoding: str | None = None) -> str:
    """The whole text of a file, as `read_lines` reads it."""
    with open_text(path, encoding) as file:
        return file.read()


@contextmanager
def open_text(path: Path, encoding: str | None = None, *, strict: bool = False) -> Iterator[IO[str]]:
    """A file as text, whose lines end at `\\n`.

    Args:
        path: The file, compressed where its suffix says so.
        encoding: As for `encoding_of`.
        strict: Raise UnicodeDecodeError for bytes that are no text, instead of giving lone surrogates.
    """
    found = encoding_of(path, encoding)
    errors = "strict" if strict else "surrogateescape" if found == UTF_8 else "lone_surrogate"
    with reading(path), _open(path) as file:
        yield io.TextIOWrapper(file, encoding=found, errors=errors, newline="\n")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what keeps a file from being read into InputError."""
    try:
        yield
    except FileNotFoundError:
        raise InputError("there is no such file", where=path) from None
    except IsADirectoryError:
        raise InputError("is a folder", where=path, fix="give a file") from None
    except OSError as error:
        if error.errno is None and is_compressed(path):  # pyarrow's, which have a text alone
            what = f"the archive is damaged, or is no {path.suffix} file ({error})"
            raise InputError(what, where=path, fix="make it again, or give the file unpacked") from error
        raise InputError(f"cannot be read ({error.strerror or error})", where=path) from error


def is_compressed(path: Path) -> bool:
    """Whether the name of a file says so."""
    return path.suffix.lower() in COMPRESSED


def _open(path: Path) -> IO[bytes]:
    if not is_compressed(path):
        return open(path, "rb")
    import pyarrow

    path.stat()  # pyarrow's own error for a file that is missing says it twice
    packed = pyarrow.input_stream(str(path), compression=pyarrow.Codec.detect(path.name.lower()).name)
    return io.BufferedReader(packed)


def encoding_of(path: Path, given: str | None = None) -> str:
    """The encoding of a file, found once per process while its size and modification time stay the same.

    A byte order mark decides. Without one, a file that is UTF-8 is UTF-8. Any other is in the encoding that is `given`;
    else CP949, if that is beyond doubt; else UTF-8 with broken rows. What is not UTF-8, or not what was given, is
    logged.

    Raises:
        InputError: the file cannot be read.
    """
    with reading(path):
        status = path.stat()
        return _encoding_of(Path(os.path.abspath(path)), status.st_size, status.st_mtime_ns, given)


@cache
def _encoding_of(path: Path, size: int, modified: int, given: str | None) -> str:
    with _open(path) as file:
        begin = file.read(4)
    found = next((encoding for mark, encoding in _MARKS if begin.startswith(mark)), None)
    if found is None and given is None:
        found = UTF_8 if _is_utf8(path) or not _is_cp949(path) else "cp949"
    elif found is None:
        found = UTF_8 if given == UTF_8 or (_is_utf8(path) and _has_hangul(_begin(path))) else given
    assert found is not None
    if given not in (None, found):
        _log.warning("%s: read as %s, not as `data.encoding: %s`", path.name, display_name(found), given)
    elif given is None and found != UTF_8:
        _log.info("%s: read as %s", path.name, display_name(found))
    return found


def display_name(encoding: str) -> str:
    """An encoding as people write it."""
    return encoding.removesuffix("-sig").upper()


def _blocks(path: Path) -> Iterator[bytes]:
    with _open(path) as file:
        yield from iter(lambda: file.read(BLOCK), b"")


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in itertools.islice(_blocks(path), SAMPLE_BLOCKS):
            decoder.decode(block)
    except UnicodeDecodeError:
        return False
    return True


def _begin(path: Path) -> str:
    return next(_blocks(path), b"").decode("utf-8", "ignore")


def _is_cp949(path: Path) -> bool:
    """Whether a file that is not UTF-8 is Korean in CP949 beyond doubt: all of it can be decoded, what comes out is
    mostly of the syllables and letters that Korean is written with, and none of its lines is Korean in UTF-8."""
    counts, others, as_utf8 = Counter[str](), 0, list[str]()
    with _open(path) as file:
        while lines := file.readlines(BLOCK):
            try:
                counts.update(b"".join(lines).decode("cp949"))
            except UnicodeDecodeError:
                return False
            for line in lines:
                try:
                    as_utf8 += [] if line.isascii() else [line.decode()]
                except UnicodeDecodeError:
                    others += 1
    syllables = sum(counts[each] for each in _SYLLABLES)
    jamo = sum(counts[each] for each in _JAMO)
    letters = sum(count for each, count in counts.items() if each.isalpha() and not each.isascii())
    return (
        "\0" not in counts
        and syllables >= FEWEST_SYLLABLES
        and 2 * syllables > letters
        and 10 * (syllables + jamo) > 9 * letters
        and 10 * len(as_utf8) <= others
        and not any(map(_has_hangul, as_utf8))
    )


def _has_hangul(text: str) -> bool:
    return any("가" <= letter <= "힣" or letter in _JAMO for letter in text)
