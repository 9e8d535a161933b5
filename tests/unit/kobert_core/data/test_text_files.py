"""Encodings that are recognised, those that are not, and what is compressed."""

from __future__ import annotations

import bz2
import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from kobert_core.data.formats import Dialect, read_table
from kobert_core.data.text_files import encoding_of, read_lines
from kobert_core.errors import InputError

TEXT = "id\tdocument\tlabel\n1\t정말 재미있다 ㅋㅋㅋ\t1\n2\t뷁 똠방각하 처음부터 끝까지 별로였다\t0\n"
KOREAN = "배우들 연기가 좋았다. 영화 내내 화면이 아름다웠고, 음악도 훌륭했다.\n"


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-8", []),
        ("utf-8-sig", []),
        ("utf-16", ["a.tsv: read as UTF-16"]),
        ("utf-32", ["a.tsv: read as UTF-32"]),
        ("cp949", ["a.tsv: read as CP949"]),
    ],
)
def test_what_is_recognised_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str, told: list[str]
) -> None:
    caplog.set_level(logging.INFO)
    path = written(tmp_path / "a.tsv", TEXT.encode(encoding))
    for same in (path, path, tmp_path / ".." / tmp_path.name / "a.tsv"):
        assert "\n".join(read_lines(same)) + "\n" == TEXT
    assert [record.getMessage() for record in caplog.records] == told
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_utf16_of_either_order(tmp_path: Path) -> None:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        assert list(read_lines(written(tmp_path / encoding, mark + TEXT.encode(encoding)))) == TEXT.splitlines()


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gbk", "这部电影非常好看，演员的表演也很出色，音乐很美。\n" * 3),
        ("big5", "這部電影非常好看，演員的表演也很出色，音樂很美。\n" * 3),
        ("shift_jis", "この映画はとても面白かった。俳優の演技も素晴らしい。\n" * 3),
        ("euc_jp", "この映画はとても面白かった。俳優の演技も素晴らしい。\n" * 3),
        ("latin-1", "Größe, Äußerung, façade, naïve, ÄÖÜ\n" * 3),
        ("cp949", "별로\n"),  # too little to be sure
        ("utf-16-le", KOREAN),
        ("johab", KOREAN),
    ],
)
def test_what_is_in_doubt_is_not_guessed(tmp_path: Path, encoding: str, text: str) -> None:
    path = written(tmp_path / f"{encoding}.txt", text.encode(encoding))
    assert encoding_of(path) == "utf-8-sig"
    with pytest.raises(
        InputError, match=r"the first line is not UTF-8 text; write the file as UTF-8, or say `data.enc"
    ):
        list(read_lines(path))
    if encoding != "latin-1":  # which is any bytes
        assert "\n".join(read_lines(path, encoding)) + "\n" == text


@pytest.mark.parametrize("broken", [1, 2, 5])
def test_broken_rows_in_utf8_are_not_a_reason(tmp_path: Path, broken: int) -> None:
    lines = [KOREAN.encode() if number >= broken else KOREAN.encode("cp949") for number in range(6)]
    path = written(tmp_path / "a.txt", b"text\n" + b"".join(lines))
    assert encoding_of(path) == "utf-8-sig"
    assert sum("\udc80" <= max(line) <= "\udcff" for line in read_lines(path)) == broken


def test_one_broken_row_of_cp949_is_set_aside(tmp_path: Path) -> None:
    rows = [b"id,document,label", "1,좋다 정말,1".encode("cp949"), b"2,\xb0,0", "3,별로,0".encode("cp949")]
    path = written(tmp_path / "a.csv", b"\n".join(rows))
    assert encoding_of(path) == "utf-8-sig"  # not all of it can be decoded
    names, records = read_table(path, {"document", "label"}, Dialect(encoding="cp949"))
    assert names == ["id", "document", "label"]
    assert list(records) == [(2, ["1", "좋다 정말", "1"]), (3, "broken CP949"), (4, ["3", "별로", "0"])]
    with pytest.raises(InputError, match="the first line is not CP949 text"):
        list(read_lines(written(tmp_path / "b.csv", b"\xff\xff\n"), "cp949"))


def test_a_torn_end_of_utf16_is_set_aside(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", TEXT.encode("utf-16")[:-3])
    _, records = read_table(path, {"document"})
    assert [values for _, values in records][-1] == "broken UTF-16"


def test_the_study_decides_but_never_against_utf8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "a.tsv", TEXT.encode())
    assert encoding_of(path, "cp949") == "utf-8-sig"
    assert [record.getMessage() for record in caplog.records] == ["a.tsv: read as UTF-8, not as `data.encoding: cp949`"]
    other = written(tmp_path / "b.tsv", "뷁".encode("cp949"))
    assert encoding_of(other, "cp949") == "cp949" and encoding_of(other, "utf-8-sig") == "utf-8-sig"


def packed_by(suffix: str) -> Callable[[bytes], bytes]:
    def by_arrow(content: bytes) -> bytes:
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, {".zst": "zstd", ".lz4": "lz4"}[suffix]) as stream:
            stream.write(content)
        return bytes(sink.getvalue())

    return {".gz": gzip.compress, ".bz2": bz2.compress}.get(suffix, by_arrow)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst", ".lz4", ".GZ"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp949"])
def test_compressed(tmp_path: Path, suffix: str, encoding: str) -> None:
    text = TEXT + "".join(f"{number}\t{number}번째 영화\t1\n" for number in range(3, 30_000))
    packed = packed_by(suffix.lower())(text.encode(encoding))
    _, records = read_table(written(tmp_path / f"a.tsv{suffix}", packed), {"document"})
    lines = text.splitlines()
    assert [(line, "\t".join(values)) for line, values in records] == list(enumerate(lines[1:], start=2))
    cut = written(tmp_path / f"cut.tsv{suffix}", packed[: len(packed) // 2])
    with pytest.raises(InputError, match=r"the archive is damaged, or is no \.\w+ file \(Truncated.*; make it again"):
        list(read_table(cut, {"document"})[1])
    with pytest.raises(InputError, match="the archive is damaged"):
        read_table(written(tmp_path / f"no.tsv{suffix}", b"id\tdocument\n1\tx\n"), {"document"})


def test_archives_one_after_another_and_missing_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt.gz", gzip.compress("하나\n".encode()) + gzip.compress("둘\n".encode()))
    assert list(read_lines(path)) == ["하나", "둘"]
    with pytest.raises(InputError, match=r"no\.txt\.gz: there is no such file$"):
        list(read_lines(tmp_path / "no.txt.gz"))
    with pytest.raises(InputError, match=r"a file '.parquet' is read as it is; unpack it"):
        read_table(written(tmp_path / "a.parquet.gz", gzip.compress(b"x")), set())
