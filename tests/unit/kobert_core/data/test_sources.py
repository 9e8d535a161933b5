"""What a study may name as its data: each kind of file, several, patterns, workbooks and data sets."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from kobert_core.data import hf_datasets
from kobert_core.data.formats import Dialect, read_table
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.io.checksums import sha256_file
from tests.fixtures.tiny import SAMPLE

ROWS = [{"id": "1", "text": "좋다", "label": "긍정"}, {"id": "2", "text": "별로, 정말", "label": "부정"}]
WANTED = {"text", "label", "id"}


def read(source: Any, wanted: set[str] = WANTED, **dialect: Any) -> tuple[list[str], list[Any]]:
    names, records = read_table(Source.of(source), wanted, Dialect(**dialect))
    return names, list(records)


def values(source: Any, *columns: str, **dialect: Any) -> list[tuple[object, ...]]:
    names, records = read(source, set(columns), **dialect)
    return [tuple(row[names.index(column)] for column in columns) for _, row in records]


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_csv(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_sheets(path: Path, sheets: Mapping[str, list[list[Any]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize(
    "content", [ROWS, {"data": ROWS}, {"version": "1", "sizes": [1, 2], "rows": ROWS}, {"a": ROWS, "empty": []}]
)
def test_json(tmp_path: Path, content: object) -> None:
    names, records = read(write_json(tmp_path / "a.json", content))
    assert names == ["id", "text", "label"]
    assert records == [(number, list(row.values())) for number, row in enumerate(ROWS, start=1)]


def test_json_of_lines_and_with_bad_items(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\nno\n", encoding="utf-8")
    assert read(path)[1][-1] == (3, "not JSON")
    path = write_json(tmp_path / "b.json", [ROWS[0], 5, {"id": "3", "more": 1}])
    assert read(path)[1][1:] == [(2, "not a JSON object"), (3, ["3", None, None])]
    (tmp_path / "c.json").write_bytes(b'[{"text": "\xff"}]')
    assert read(tmp_path / "c.json")[1] == [(1, ["\udcff"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "has no array of JSON objects; write one, as pandas does with `to_json.orient='records'.`"),
        ('{"text": {"0": "좋다"}}', "has no array of JSON objects"),
        ("[]", "has no array of JSON objects"),
        ('{"train": [{"a": 1}], "test": [{"a": 1}]}', "several lists of objects are in it: train, test"),
        ('[{"a": 1}', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (" ", "is empty"),
    ],
)
def test_json_without_rows(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write_csv(tmp_path / "a.json", content))


def test_nested_columns(tmp_path: Path) -> None:
    items: list[Any] = [
        {"text": "가", "labels": {"label": 4.9, "of": {"label": "x"}}},
        {"text": "나", "labels": None},
        {"text": "다", "labels": {"label": None, "of": None}},
    ]
    lines = write_csv(tmp_path / "a.jsonl", "\n".join(map(json.dumps, items)))
    table = pyarrow.Table.from_pylist(items)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for path in (lines, write_json(tmp_path / "a.json", items), tmp_path / "a.parquet"):
        names, _ = read(path, {"labels.of.label"})
        assert names[:2] == ["text", "labels"] and {"labels.label", "labels.of.label"} <= set(names)
        found = values(path, "text", "labels.label", "labels.of.label")
        assert found == [("가", 4.9, "x"), ("나", None, None), ("다", None, None)]
    flat = write_json(tmp_path / "flat.json", [{"labels.label": "flat", "labels": {"label": "nested"}}])
    assert values(flat, "labels.label") == [("flat",)]


def test_workbooks(tmp_path: Path) -> None:
    rows = [
        ["id", "text", "label"],
        [1, "첫_x000D_\n줄", True],
        [2.0, 2012, 0.5],
        [],
        [4, None, "끝"],
        ["", None, 1, "더"],
    ]
    path = write_sheets(tmp_path / "a.xlsx", {"리뷰": rows, "test": [["text"], ["시험"]]})
    assert read(path)[1] == [
        (2, ["1", "첫\r\n줄", True]),
        (3, ["2", "2012", "0.5"]),
        (4, "empty line"),
        (5, ["4", None, "끝"]),
        (6, "4 fields instead of 3"),
    ]
    assert read(f"{path}:test")[1] == [(2, ["시험"])]
    assert values(path, "1", header=False)[:2] == [("text",), ("첫\r\n줄",)]
    assert Source.of(f"{path}:test").digest() != Source.of(path).digest() == sha256_file(path)
    with pytest.raises(InputError, match="there is no sheet 'tests'; take :리뷰 or :test"):
        read(f"{path}:tests")
    with pytest.raises(InputError, match="has no cells with anything in it"):
        read(write_sheets(tmp_path / "b.xlsx", {"a": []}))


def test_damaged_workbooks(tmp_path: Path) -> None:
    whole = write_sheets(tmp_path / "a.xlsx", {"a": [["text"], *([f"{n}번째"] for n in range(2000))]}).read_bytes()
    for name, content in {
        "cut": whole[:3000],
        "ole": b"\xd0\xcf\x11\xe0" + bytes(600),
        "zip": b"PK\5\6" + bytes(18),
    }.items():
        path = tmp_path / f"{name}.xlsx"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"is not an Excel workbook \(.*; save it as .xlsx, without a password"):
            read(path)


def test_without_header_and_with_other_delimiters(tmp_path: Path) -> None:
    plain = write_csv(tmp_path / "a.csv", '1;"좋다;\n정말";긍정\n2;별로\n')
    names, records = read(plain, delimiter=";", header=False)
    assert names == ["0", "1", "2"]
    assert records == [(1, ["1", "좋다;\n정말", "긍정"]), (3, "2 fields instead of 3")]
    assert read(write_csv(tmp_path / "a.txt", 'a|"b\n'), delimiter="|", header=False)[1] == [(1, ["a", '"b'])]
    with pytest.raises(InputError, match="the first line is not CSV"):
        read(write_csv(tmp_path / "b.csv", '"a,b\n'), header=False)


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ","), ("a.txt", "|")])
def test_a_header_with_another_delimiter_is_told(tmp_path: Path, name: str, delimiter: str) -> None:
    path = write_csv(tmp_path / name, delimiter.join(["id", "text", "label"]) + "\n1\n")
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).endswith(f"but {delimiter!r}; set `data.delimiter: {json.dumps(delimiter)}`")
    assert read(path, {"other"})[0] == ["id" + delimiter + "text" + delimiter + "label"]


def test_several_files_are_one_table(tmp_path: Path) -> None:
    one = write_csv(tmp_path / "b.csv", "id,text,label\n1,좋다,긍정\n2,별로\n")
    two = write_csv(tmp_path / "a.tsv", "label\tmore\ttext\tid\n부정\tx\t별로\t2\n")
    names, records = read([one, two])
    assert names == ["id", "text", "label"]
    assert records == [
        ("b.csv:2", ["1", "좋다", "긍정"]),
        ("b.csv:3", "2 fields instead of 3"),
        ("a.tsv:2", ["2", "별로", "부정"]),
    ]
    assert [line for line, _ in read(f"{tmp_path}/*.?sv")[1]] == ["a.tsv:2", "b.csv:2", "b.csv:3"]
    again = write_csv(tmp_path / "c" / "b.csv", one.read_text("utf-8"))
    assert [line for line, _ in read([one, again])[1]][::2] == [f"{one}:2", f"{again}:2"]


@pytest.mark.parametrize("columns", ["id,text", "text,label", "id,text,name"])
def test_files_of_other_columns_are_refused(tmp_path: Path, columns: str) -> None:
    one = write_csv(tmp_path / "a.csv", "id,text,label\n1,좋다,긍정\n")
    two = write_csv(tmp_path / "b.csv", f"{columns}\n{'x' * columns.count(',')}\n")
    for files in ([one, two], [two, one]):
        with pytest.raises(
            InputError, match=r"b.csv: has no column '\w+', but .*a.csv has one; all files of a list or"
        ):
            read(files)


def test_patterns(tmp_path: Path) -> None:
    odd = write_csv(tmp_path / "a[1].csv", "text\n좋다\n")
    assert read(odd)[1] == [(2, ["좋다"])]  # a file that is there is no pattern
    with pytest.raises(
        InputError, match=r"parts/\*\.csv: no file matches this pattern; check its folder and its suffix"
    ):
        read(tmp_path / "parts" / "*.csv")
    assert not Source.of(tmp_path / "*.tsv").is_here() and Source.of(tmp_path / "*.csv").is_here()


def test_digests_follow_from_content_and_order(tmp_path: Path) -> None:
    one, two = (write_csv(tmp_path / name, f"text\n{name}\n") for name in ("a.csv", "b.csv"))
    alone, both = Source.of(one).digest(), Source.of([one, two]).digest()
    assert alone == Source.of([one]).digest() == Source.of(tmp_path / "a*").digest() == sha256_file(one)
    assert both == hashlib.sha256(f"{sha256_file(one)}\n{sha256_file(two)}".encode()).hexdigest()
    assert both == Source.of(tmp_path / "*.csv").digest() != Source.of([two, one]).digest()
    moved = [shutil.copy(file, tmp_path / f"moved-{file.name}") for file in (one, two)]
    assert both == Source.of(moved).digest()
    with pytest.raises(InputError, match=r"none\.csv: the file cannot be read \(No such file or directory\)"):
        Source.of([one, tmp_path / "none.csv"]).digest()


def test_names_and_texts() -> None:
    one, many = Source.of("/data/train.tsv"), Source.of([f"/data/{number}.tsv" for number in range(5)])
    assert (one.name, str(one), one.as_json()) == ("train.tsv", "/data/train.tsv", "/data/train.tsv")
    assert many.name == "0.tsv, 1.tsv, 2.tsv and 2 more" and len(many.as_json()) == 5
    assert many.without_folders().as_json() == [f"{number}.tsv" for number in range(5)]
    hub = Source.of(["hf://e9t/nsmc:train", "hf:///data/x:test", "a//b.tsv"])
    assert hub.name == "hf://e9t/nsmc:train, hf://x:test, b.tsv"
    assert hub.without_folders().as_json() == ["hf://e9t/nsmc:train", "hf://x:test", "a/b.tsv"]
    assert hub.starting_from(Path("/s")).entries == ("hf://e9t/nsmc:train", "hf:///data/x:test", "/s/a/b.tsv")
    assert Source.of(f"hf://{SAMPLE.name}").starting_from(SAMPLE.parent).entries == (f"hf://{SAMPLE}",)
    for wrong in ([], 5, None, ["a", 1], {"a": "b"}):
        with pytest.raises(ValueError, match=r"give a file, a pattern such as parts/\*\.tsv, or a list of them, not"):
            Source.of(wrong)


FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["부정", "긍정"]),
        "tags": datasets.List(datasets.ClassLabel(names=["O", "B"])),
        "meta": {"label": datasets.ClassLabel(names=["x", "y"]), "size": datasets.Value("int64")},
    }
)
ITEMS = [
    {"text": "좋다", "label": 1, "tags": [0, 1], "meta": {"label": 1, "size": 3}},
    {"text": "별로", "label": 0, "tags": [], "meta": {"label": 0, "size": 4}},
    {"text": "모름", "label": -1, "tags": [1], "meta": {"label": 0, "size": 5}},
]


def test_saved_datasets(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ITEMS, features=FEATURES)
    data.save_to_disk(tmp_path / "one")
    assert values(tmp_path / "one", "text", "label", "tags", "meta.label") == [
        ("좋다", "긍정", ["O", "B"], "y"),
        ("별로", "부정", [], "x"),
        ("모름", None, ["B"], "x"),
    ]
    splits = datasets.DatasetDict({"train": data, "test": data.select([2, 0])})
    splits.save_to_disk(tmp_path / "two", num_shards={"train": 3, "test": 1})
    assert values(f"{tmp_path}/two:test", "text") == [("모름",), ("좋다",)] == values(tmp_path / "two/test", "text")
    train = Source.of(f"{tmp_path}/two:train")
    assert train.digest() == Source.of(tmp_path / "one").digest() != Source.of(f"{tmp_path}/two:test").digest()
    assert next(file.name for file in Source.of(tmp_path / "one").files()) == "data-00000-of-00001.arrow"
    other = data.cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    other.save_to_disk(tmp_path / "names")
    assert Source.of(tmp_path / "names").digest() != train.digest()
    for where, message in {
        f"{tmp_path}/two": "has several splits; take :train or :test",
        f"{tmp_path}/two:dev": "has no split 'dev'; take :train or :test",
        f"{tmp_path}/one:train": "has no splits; leave out `:train`",
        str(
            SAMPLE
        ): "is a folder, and none that `datasets.save_to_disk` wrote; give a file, or a pattern such as sample/",
    }.items():
        with pytest.raises(InputError, match=message):
            read(where)
    arrow = tmp_path / "one" / "data-00000-of-00001.arrow"
    arrow.write_bytes(arrow.read_bytes()[:300])
    with pytest.raises(InputError, match="the data set in this folder is damaged"):
        Source.of(tmp_path / "one").digest()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("hub_cache")
def test_what_load_dataset_loads(tmp_path: Path) -> None:
    folder = tmp_path / "csvs"
    write_csv(folder / "train.csv", "id,text,label\n1,좋다,긍정\n2,별로,부정\n")
    write_csv(folder / "test.csv", "id,text,label\n3,그냥,부정\n")
    assert values(f"hf://{folder}:train", "text", "label") == [("좋다", "긍정"), ("별로", "부정")]
    assert values(f"hf://{folder}:default:test", "id") == [(3,)]
    assert values(f"hf://{folder}:train[1:]", "text") == [("별로",)]
    only = tmp_path / "only"
    datasets.Dataset.from_list(ITEMS, features=FEATURES).to_parquet(only / "train.parquet")
    assert values(f"hf://{only}", "label") == [("긍정",), ("부정",), (None,)]
    assert Source.of(f"hf://{folder}:train").digest() != Source.of(f"hf://{folder}:test").digest()
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert Source.of(f"hf://{folder}:train").digest() == Source.of(f"hf://{copy}:train").digest()
    for where, message in {
        f"hf://{folder}": r"has several splits; take :\w+ or :\w+",
        f"hf://{folder}:dev": 'the data set cannot be loaded .Unknown split "dev"',
        f"hf://{tmp_path}/none:train": "the data set cannot be loaded",
        f"hf://{folder}:a:b:c": "has too many colons; write hf://name:config:split",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            read(where)
        assert str(error.value).startswith(f"{where}: ") and "\n" not in str(error.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_datasets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        read("hf://nobody/nothing:train")
    assert str(error.value) == (
        "hf://nobody/nothing:train: the package `datasets` is not installed; pip install 'kobert-tuning[datasets]'"
    )


def test_shared_files_as_they_stand(shared: Path) -> None:
    data, own = shared / "data", shared / "cases" / "own-data"
    sts = values(data / "klue" / "klue-sts-v1.1_dev.json", "sentence1", "labels.label", "labels.binary-label")
    assert len(sts) == 519 and sts[0] == ("무엇보다도 호스트분들이 너무 친절하셨습니다.", 4.9, 1)
    nli = values(data / "klue" / "klue-nli-v1.1_dev.json", "premise", "hypothesis", "gold_label")
    assert len(nli) == 3000 and {label for *_, label in nli} == {"entailment", "neutral", "contradiction"}
    kor = values(data / "korsts" / "sts-*.tsv", "sentence1", "sentence2", "score")
    assert len(kor) == 5749 + 1500 and all(0 <= float(str(score)) <= 5 for *_, score in kor)
    hate = values(data / "hate-speech" / "train.tsv", "comments", "hate", "contain_gender_bias")
    assert len(hate) == 7896 and {row[1] for row in hate} == {"none", "offensive", "hate"}
    plain = values(own / "kor3.csv", "리뷰", "감정")
    for name in ("kor3-array.json", "kor3-bom.csv", "kor3-cp949.csv", "kor3.csv.gz", "kor3.xlsx", "kor3-hf:train"):
        assert values(own / name, "리뷰", "감정") == plain, name
    assert values(own / "kor3-semicolon.csv", "리뷰", "감정", delimiter=";") == plain
