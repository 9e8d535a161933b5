"""Which class a value of the label column stands for, in every kind of file, and what labels a file has."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from kobert_core.errors import InputError
from kobert_core.tasks.labelled_texts.columns import Columns
from kobert_core.tasks.labelled_texts.labels import MANY_VALUES, MAX_INFERRED, Classes
from kobert_core.tasks.labelled_texts.rows import Rows, infer_labels, read_rows
from kobert_core.tasks.text_classification.config import NsmcData
from kobert_core.tasks.text_classification.targets import ClassIndices

DEFAULTS = Columns(text="document")
FORMATS = ["tsv", "csv", "jsonl", "parquet"]


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def write(path: Path, labels: list[Any], *, text: str = "document", label: str = "label") -> Path:
    """A file with one row a label, in the format that the suffix names."""
    records = [{text: f"{number}번", label: value} for number, value in enumerate(labels)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([(text, label), *(record.values() for record in records)])
    return path


def read(path: Path, labels: dict[str, str] | list[str], **columns: str) -> Rows:
    named = NsmcData.model_validate({"train": path, "labels": labels}).labels
    texts = Columns(text=columns.get("text", "document"), labels=(columns.get("label", "label"),), id=None)
    return read_rows(path, columns=texts, targets=ClassIndices(named, texts.labels[0]), max_bad_fraction=1.0)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (["0", "1", "2"], [0.0, 1.0, 2.0]),
        (["0", "1", "2"], [0, 1, 2]),
        (["0.0", "1.0", "2.0"], ["0", "1", "2.00"]),
        (["0", "1"], [False, True]),
        (["false", "true"], [False, True]),
        (["False", "True"], ["0", "1.0"]),
        (["부정", "긍정"], [decomposed("부정"), " 긍정\u3000"]),
        ([decomposed("부정"), "긍정 "], ["부정", "긍정"]),
    ],
    ids=str,
)
def test_a_value_that_looks_like_one_label_is_that_label(
    tmp_path: Path, suffix: str, labels: list[str], values: list[Any]
) -> None:
    rows = read(write(tmp_path / f"a.{suffix}", values), labels)
    assert rows.labels.tolist() == list(range(len(values))) and rows.bad == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_where_labels_look_alike_only_what_is_written_counts(tmp_path: Path, suffix: str) -> None:
    labels = {"긍정": "a", decomposed("긍정"): "b", "1": "c", "1.0": "d", "true": "e"}
    rows = read(write(tmp_path / f"a.{suffix}", [*labels, " 긍정", "1.00", "TRUE", "01"]), labels)
    assert rows.labels.tolist() == [0, 1, 2, 3, 4]
    assert [bad.reason.partition(" is none of ")[0] for bad in rows.bad] == [
        "label ' 긍정'",
        "label '1.00'",
        "label 'TRUE'",  # with five classes it is no answer of a yes or no
        "label '01'",
    ]
    assert "긍정, '긍정' in decomposed form, 1, 1.0, true (`data.labels`)".replace(
        "'긍정'", repr(decomposed("긍정"))
    ) in (rows.bad[0].reason)


def test_what_differs_is_shown(tmp_path: Path) -> None:
    value = decomposed("중립")
    rows = read(write(tmp_path / "a.csv", ["부정", value]), {"부정": "a", "중립": "b", "중립 ": "c"})
    assert rows.bad[0].reason == f"label {value!r} in decomposed form is none of 부정, 중립, '중립 ' (`data.labels`)"


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_are_found_by_what_they_look_like(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", ["0", "1"], text=decomposed("리뷰"), label=" 감정")
    assert read(path, ["0", "1"], text="리뷰", label="감정").labels.tolist() == [0, 1]
    rows = read_rows(path, columns=Columns(text="리뷰", id=None), targets=None)
    assert rows.texts == ["0번", "1번"]


def test_of_columns_that_look_alike_the_very_name_counts_or_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("document, label,label \n좋다,0,1\n", "utf-8")
    assert read(path, ["0", "1"], label=" label").labels.tolist() == [0]
    with pytest.raises(InputError, match="the label column 'label' is there 2 times: ' label', 'label '"):
        read(path, ["0", "1"], label="label")


def test_a_refusal_shows_what_the_column_has(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["2.0", "0.0", "0.0", "10.0"])
    known = "the label column 'label' has '0.0' (2), '2.0' (1), '10.0' (1): a study reads them with "
    with pytest.raises(InputError) as error:
        read_rows(path, columns=DEFAULTS, targets=ClassIndices(["부정", "긍정"], "label"))
    assert str(error.value).endswith(f'{known}`data.labels: ["0", "2", "10"]`, or with `data.labels: infer`')
    with pytest.raises(InputError, match=r"also has '10.0' \(1\): `data.labels` must name them, too$"):
        read_rows(path, columns=DEFAULTS, targets=ClassIndices("02", "label"))
    write(path, list(range(100)))
    with pytest.raises(InputError, match=r"'19' \(1\), …: check `data.label_column` and `data.labels`$"):
        read_rows(path, columns=DEFAULTS, targets=ClassIndices(["부정", "긍정"], "label"))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 9, 1], ["1", "9", "10"]),
        ([1.0, 0.0, 2.0], ["0", "1", "2"]),
        ([True, False], ["false", "true"]),
        (["부정", "긍정", decomposed("중립"), " 긍정"], ["긍정", "부정", "중립"]),
        (["-1", "1", "0", "모름"], ["-1", "0", "1", "모름"]),
    ],
    ids=str,
)
def test_labels_are_inferred_in_order(tmp_path: Path, suffix: str, values: list[Any], labels: list[str]) -> None:
    path = write(tmp_path / f"a.{suffix}", values)
    found = infer_labels(path, DEFAULTS)
    wanted = labels if suffix in ("jsonl", "parquet") or values[0] is not True else ["False", "True"]
    assert found == wanted
    assert read(path, found).bad == []


def test_of_rows_that_cannot_be_used_no_label_is_inferred(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("document,label\n좋다,1\n나쁘다,0\n,합계\n그냥,\n뭐,1,2\n", "utf-8")
    assert infer_labels(path, DEFAULTS) == ["0", "1"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([f"사람{number}" for number in range(MANY_VALUES + 1)], "has 21 values in 21 rows .*, as an id has"),
        ([f"사람{number}" for number in range(MAX_INFERRED + 1)] * 3, "has more than 1,000 values"),
        (["0.5", "1.5", "2.0"] * 2, "has fractions .'0.5', '1.5', '2', ….*no classes"),
        (["긍정"] * 3, "has '긍정' alone, and classes are at least two"),
        ([""] * 3, "has no values, and classes are at least two"),
    ],
)
def test_what_are_no_classes_is_not_inferred(tmp_path: Path, values: list[str], message: str) -> None:
    with pytest.raises(InputError, match=f"the label column 'label' {message}.*write `data.labels` down"):
        infer_labels(write(tmp_path / "a.csv", values), DEFAULTS)


def test_a_value_is_looked_at_once() -> None:
    classes = Classes(["0", "1"])
    assert [classes.index(value) for value in ["1.0", "1.0", "x", "x", " ", ""]] == [1, 1, None, None, None, None]
    assert (
        classes.advice(2, 2, "label") == "the label column 'label' also has 'x' (2): `data.labels` must name them, too"
    )
    assert classes.advice(2, 4, "label") is None, "most rows are bad for another reason"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "좋다", "1": decomposed("좋다")}, "'좋다' and .* in decomposed form look the same"),
        ({"0": "좋다", "1": "좋다\n"}, r"'좋다' and '좋다\\n' look the same"),
        ({"0": "아주 좋다", "1": "아주\t좋다"}, "look the same"),
        ({"0": "", "1": "좋다"}, "is empty"),
        (["0", " "], "is empty"),
        (["0", 1, True, "1"], "the label '1' is given twice"),
        (["0", None], "must be a text, but got None"),
        (["0", ["1"]], "must be a text"),
        ({"0": None, "1": "좋다"}, "must be a text"),
        ("inferr", "a mapping of labels to names, a list of labels, or `infer`, not 'inferr'"),
        (["0"], "at least 2"),
    ],
)
def test_labels_that_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NsmcData.model_validate({"train": "a.csv", "labels": labels})
