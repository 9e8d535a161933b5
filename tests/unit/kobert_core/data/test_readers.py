from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.tasks.labelled_texts.columns import Columns
from kobert_core.tasks.labelled_texts.rows import ROWS_AT_ONCE, Rows, read_rows, row_chunks
from kobert_core.tasks.text_classification.targets import ClassIndices

BLOCK = 1 << 20
LABELS = {"0": "negative", "1": "positive"}
COLUMNS = Columns(text="document")
HEADER = "id\tdocument\tlabel\n"


def read(path: Path, content: str | bytes | None = None, **options: Any) -> Rows:
    """Reads the file, first written if there is content; any number of bad rows unless told otherwise."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    values: dict[str, Any] = {"columns": COLUMNS, "labels": LABELS, "max_bad_fraction": 1.0, **options}
    labels = values.pop("labels")
    targets = None if labels is None else ClassIndices(labels, values["columns"].labels[0])
    return read_rows(path, targets=targets, **values)


def reasons(rows: Rows) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in rows.bad]


def test_tsv(tmp_path: Path) -> None:
    content = HEADER + '7\t재미없지는 않다\t1\n8\t"최악\t0\n'
    rows = read(tmp_path / "a.tsv", content, max_bad_fraction=0.0)
    assert rows.ids == ["7", "8"]
    assert rows.texts == ["재미없지는 않다", '"최악']  # no quoting
    assert rows.labels.tolist() == [1, 0]
    assert rows.labels.dtype == "int64"
    assert rows.lines == [2, 3]
    assert rows.bad == []
    assert rows.path == Source.of(tmp_path / "a.tsv")


def test_classes_are_numbered_in_the_order_of_the_labels(tmp_path: Path) -> None:
    columns = Columns(text="text", labels=("mood",), id=None)
    labels = {"pos": "positive", "neg": "negative", "?": "neutral"}
    rows = read(tmp_path / "a.TXT", "mood\ttext\n?\t그냥\nneg\t별로\npos\t최고\n", columns=columns, labels=labels)
    assert rows.labels.tolist() == [2, 1, 0]
    assert rows.ids == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n\n"])
def test_marks_and_line_ends(tmp_path: Path, name: str, bom: bytes, newline: bytes, end: bytes) -> None:
    lines = ["id,document,label", "1,좋다,1", "2,별로,0"]
    content = bom + "\n".join(lines).encode().replace(b",", b"\t" if name == "a.tsv" else b",") + end
    rows = read(tmp_path / name, content.replace(b"\n", newline), max_bad_fraction=0.0)
    assert (rows.ids, rows.texts, rows.labels.tolist()) == (["1", "2"], ["좋다", "별로"], [1, 0])


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r"])
def test_only_newlines_end_a_line(tmp_path: Path, odd: str) -> None:
    text = f"앞{odd}뒤"
    assert read(tmp_path / "a.tsv", f"{HEADER}1\t{text}\t1\n2\t끝\t0\n").texts == [text, "끝"]
    assert read(tmp_path / "a.csv", f"id,document,label\n1,{text},1\n2,끝,0\n").texts == [text, "끝"]
    item = json.dumps({"document": text, "label": 1}, ensure_ascii=False)
    assert read(tmp_path / "a.jsonl", f"{item}\n{item}\n").texts == [text, text]


def test_every_kind_of_bad_row_is_set_aside_with_its_line(tmp_path: Path) -> None:
    content = HEADER.encode() + b"\n".join(
        [
            "1\t좋다\t1".encode(),
            "2\t좋다".encode(),
            "3\t좋다\t1\t남음".encode(),
            b"4\t  \xe3\x80\x80 \t1",  # spaces, one of them ideographic
            "5\t좋다\t".encode(),
            "6\t좋다\t2".encode(),
            b"7\t\xb0\xa1\xb3\xaa\t1",
            "1\t나쁘다\t0".encode(),
            "9\t좋\0다\t1".encode(),
            b"",
            "\t좋다\t1".encode(),
            "12\t끝\t0".encode(),
        ]
    )
    rows = read(tmp_path / "a.tsv", content)
    assert rows.ids == ["1", "12"]
    assert rows.lines == [2, 13]
    assert reasons(rows) == [
        (3, "2 fields instead of 3"),
        (4, "4 fields instead of 3"),
        (5, "empty text"),
        (6, "missing label"),
        (7, "label '2' is none of 0, 1 (`data.labels`)"),
        (8, "broken UTF-8"),
        (9, "id '1' is already on line 2"),
        (10, "NUL character"),
        (11, "empty line"),
        (12, "missing id"),
    ]


def test_too_many_bad_rows_stop_with_the_first_places(tmp_path: Path) -> None:
    content = HEADER + "".join(f"{number}\t좋다\t{7 if number < 8 else 1}\n" for number in range(100))
    with pytest.raises(InputError) as error:
        read(tmp_path / "a.tsv", content, max_bad_fraction=0.05)
    message = str(error.value)
    assert "8 of 100 rows are bad (8.00%, at most 5.00% may be)" in message
    assert "line 2: label '7' is none of 0, 1 (`data.labels`); line 3:" in message
    assert "line 6:" in message and "line 7:" not in message
    assert "\n" not in message
    assert len(read(tmp_path / "a.tsv", max_bad_fraction=0.08).bad) == 8


def test_another_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"broken UTF-8.*write the file as UTF-8"):
        read(tmp_path / "a.tsv", (HEADER + "1\t좋다\t1\n").encode("cp949"), max_bad_fraction=0.01)
    with pytest.raises(InputError, match="not UTF-8"):
        read(tmp_path / "b.tsv", (HEADER + "1\t재미있다\t1\n").encode("utf-16-le"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", "is empty"),
        ("a.csv", "\n \n", "is empty"),
        ("a.tsv", b"\xef\xbb\xbf", "is empty"),
        ("a.tsv", HEADER, "has no rows"),
        ("a.tsv", HEADER + "1\t\t1\n", "none of its 1 rows can be used: line 2: empty text"),
        ("a.xls", "x", r"unknown kind of file '.xls'; use one of .tsv"),
        ("a", "x", "unknown kind of file"),
        ("a.jsonl", "[\n{\n", "no line is a JSON object"),
        ("a.parquet", "id,document", "is not a Parquet file"),
        ("a.tsv", "id\tdocumnet\tlabel\n1\t2\t3\n", "no text column 'document' .did you mean 'documnet'"),
        ("a.tsv", "id\tdocument\tclass\n1\t2\t3\n", "columns are 'id', 'document', 'class'"),
        ("a.tsv", "document\tdocument\tlabel\n1\t2\t3\n", "'document' is there 2 times"),
        ("a.csv", '"id,document\n', "header is not CSV"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path / name, content)
    assert str(tmp_path / name) in str(error.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)


def test_only_the_default_id_column_may_be_missing(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.tsv", "document\tlabel\n좋다\t1\n\t1\n별로\t0\n")
    assert rows.ids == ["1", "3"]
    with pytest.raises(InputError, match="no id column 'key'"):
        read(tmp_path / "a.tsv", columns=Columns(text="document", id="key"))


def test_texts_to_predict_need_no_ids(tmp_path: Path) -> None:
    named = Columns(text="document", id="번호")
    assert read(tmp_path / "a.tsv", "document\n좋다\n별로\n", labels=None, columns=named).ids == ["1", "2"]
    assert read(tmp_path / "a.tsv", "번호\tdocument\n7\t좋다\n", labels=None, columns=named).ids == ["7"]


def test_without_labels_every_text_is_kept_in_order(tmp_path: Path) -> None:
    content = "id\tdocument\n1\t좋다\n1\t별로\n\t그냥\n4\t \n5\t끝\n"
    rows = read(tmp_path / "a.tsv", content, labels=None)
    assert rows.texts == ["좋다", "별로", "그냥", "끝"]
    assert rows.ids == ["1", "1", "", "5"]
    assert rows.labels.shape == (0,)
    assert reasons(rows) == [(5, "empty text")]
    labelled = HEADER + "1\t좋다\t1\n2\t별로\t\n3\t그냥\t모름\n"
    assert len(read(tmp_path / "b.tsv", labelled, labels=None, max_bad_fraction=0.0)) == 3


def test_csv_with_quotes_and_newlines_inside(tmp_path: Path) -> None:
    content = 'id,document,label\r\n1,"첫 줄\r\n""둘째"", 줄",1\r\n2,짧다,9\r\n3,"끝, 정말",0\r\n'
    rows = read(tmp_path / "a.csv", content)
    assert rows.texts == ['첫 줄\r\n"둘째", 줄', "끝, 정말"]
    assert rows.lines == [2, 5]
    assert reasons(rows) == [(4, "label '9' is none of 0, 1 (`data.labels`)")]


@pytest.mark.parametrize("last", ["5,끝,1", '5,"끝",1'])
def test_csv_quote_that_is_never_closed_costs_its_own_line_only(tmp_path: Path, last: str) -> None:
    rows = read(tmp_path / "a.csv", f'id,document,label\n1,좋다,1\n2,"별로,0\n3,그냥,0\n{last}\n')
    assert rows.ids == ["1", "3", "5"]
    assert [row.line for row in rows.bad] == [3]


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "document": "좋다", "label": 1}',
        '{"id": 2.0, "document": "별로", "label": false, "extra": [1]}',
        '{"label": "1", "document": "최고", "id": "x"}',
        '{"id": 4, "document": "좋다", "label": 1.0}',
        "{",
        "[1]",
        "",
        '{"id": 8, "label": 1}',
        '{"id": 9, "document": 5, "label": 1}',
        '{"id": 10, "document": "좋다", "label": null}',
        '{"id": 11, "document": "\\ud83d", "label": 1}',
        '{"id": 12, "document": "좋다", "label": NaN}',
        '{"id": 13, "document": "좋다", "label": 0.5}',
        "[" * 100_000,
    ]
    for suffix in ("jsonl", "ndjson", "json-lines"):
        rows = read(tmp_path / f"a.{suffix}", "\n".join(lines))
        assert rows.ids == ["1", "2", "x", "4"]
        assert rows.labels.tolist() == [1, 0, 1, 1]
        assert reasons(rows) == [
            (5, "not JSON"),
            (6, "not a JSON object"),
            (7, "empty line"),
            (8, "missing text"),
            (9, "text is not a string but int"),
            (10, "missing label"),
            (11, "broken UTF-8"),
            (12, "missing label"),
            (13, "label '0.5' is none of 0, 1 (`data.labels`)"),
            (14, "not JSON"),
        ]


@pytest.mark.parametrize(
    "labels",
    [
        pyarrow.array([1, 0, 1, None, 0]),
        pyarrow.array([1.0, 0.0, 1.0, float("nan"), 0.0]),
        pyarrow.array([True, False, True, None, False]),
        pyarrow.array(["1", "0", "1", "", "0"]).dictionary_encode(),
    ],
    ids=["int", "float", "bool", "dictionary"],
)
def test_parquet(tmp_path: Path, labels: pyarrow.Array) -> None:
    raw = pyarrow.array(["좋다".encode(), b"\xff\xfe", "최고".encode(), b"ok", None], pyarrow.binary())
    table = pyarrow.table(
        {
            "id": [10, 20, 30, 40, 50],
            "document": pyarrow.StringArray.from_buffers(5, *raw.buffers()[1:], raw.buffers()[0]),
            "label": labels,
            "seen": pyarrow.array([1, 2, 3, 4, 5], pyarrow.timestamp("ns")),  # needs pandas to become a list
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert (rows.ids, rows.texts, rows.lines) == (["10", "30"], ["좋다", "최고"], [1, 3])
    assert rows.labels.tolist() == [1, 1]
    assert reasons(rows) == [(2, "broken UTF-8"), (4, "missing label"), (5, "missing text")]


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(TEXTS)
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_ALL)
    writer.writerows([["document", "label"], *([text, "1"] for text in texts)])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    assert read(path, written.getvalue(), max_bad_fraction=0.0).texts == texts


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_give_rows_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for name, header in (("a.tsv", b"document\tlabel\n"), ("a.csv", b"document,label\n"), ("a.jsonl", b"")):
        try:
            rows = read(folder / name, header + content)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert len(rows) == len(rows.labels) == len(rows.lines) == len(rows.ids)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_a_file_in_parts_is_the_whole_file(tmp_path: Path, name: str, size: int) -> None:
    records = [(f"{number % 7}", f"{number}편", "2" if number == 4 else "1") for number in range(12)]
    content = {
        "a.tsv": HEADER + "".join(f"{one}\t{text}\t{label}\n" for one, text, label in records),
        "a.csv": "id,document,label\n" + "".join(f'{one},"{text}\n",{label}\n' for one, text, label in records),
        "a.jsonl": "".join(json.dumps({"id": i, "document": t, "label": m}) + "\n" for i, t, m in records),
    }[name]
    whole = read(tmp_path / name, content)
    assert "id '0' is already on line" in whole.bad[1].reason
    classes = ClassIndices(LABELS, "label")
    parts = list(row_chunks(tmp_path / name, columns=COLUMNS, targets=classes, max_bad_fraction=1.0, size=size))
    assert len(parts) == -(-len(records) // size)
    for field in ("ids", "texts", "lines", "bad"):
        assert [one for part in parts for one in getattr(part, field)] == getattr(whole, field)
    assert np.concatenate([part.labels for part in parts]).tolist() == whole.labels.tolist()


def test_lines_longer_than_a_block_and_ends_in_the_next_one(tmp_path: Path) -> None:
    texts = ["가" * (BLOCK // 3 - 5 + extra) for extra in range(12)] + ["나" * BLOCK]
    rows = read(tmp_path / "a.tsv", HEADER + "".join(f"{i}\t{t}\t1\r\n" for i, t in enumerate(texts)) + "\n" * BLOCK)
    assert rows.texts == texts and rows.bad == []


def test_of_twice_the_rows_no_more_is_held_than_their_ids(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.tsv"
        path.write_text(HEADER + "".join(f"{i}\t{i}번째로 본 영화\t{i % 2}\n" for i in range(rows)), "utf-8")
        tracemalloc.start()
        try:
            for part in row_chunks(path, columns=COLUMNS, targets=ClassIndices(LABELS, "label")):
                assert len(part) <= ROWS_AT_ONCE
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = 3 * ROWS_AT_ONCE, 6 * ROWS_AT_ONCE
    assert peak(many) - peak(few) < 200 * (many - few)  # a row with its text takes 400 bytes and more


def test_take(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.tsv", HEADER + "1\ta\t1\n2\tb\t0\n3\t\t0\n4\tc\t1\n")
    taken = rows.take([2, 0])
    assert (taken.ids, taken.texts, taken.lines) == (["4", "1"], ["c", "a"], [5, 2])
    assert taken.labels.tolist() == [1, 1]
    assert (taken.bad, taken.path) == (rows.bad, rows.path)
    unlabelled = read(tmp_path / "a.tsv", labels=None).take([1])
    assert (unlabelled.texts, unlabelled.labels.shape) == (["b"], (0,))


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`0 <= max_bad_fraction <= 1` must hold, but got 1\.5"):
        read(tmp_path / "a.tsv", HEADER, max_bad_fraction=1.5)


def test_all_of_nsmc(shared: Path) -> None:
    rows = read(shared / "data" / "nsmc" / "ratings_train.txt", max_bad_fraction=0.0)
    assert len(rows) == 150_000
    assert set(rows.labels.tolist()) == {0, 1}
