"""DataFrames become files by the hash of their content, and what is wrong with one is told of the frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kobert_core.errors import InputError
from tuning import Study
from tuning.api.frames import is_frame, store_frame

TEXTS = ["정말 좋았다", "별로였다", "다시 보고 싶다", "지루했다"] * 10
FRAME = pd.DataFrame({"리뷰": TEXTS, "평가": ["좋음", "나쁨"] * 20}, index=range(100, 140))


def study(folder: Path, data: Any, **more: Any) -> Study:
    section = {"train": data, "text_column": "리뷰", "label_column": "평가", **more}
    model = {"init": "random", "tokenizer_vocab_size": 60}
    return Study(task="classification", data=section, model=model, storage=folder)


def test_the_same_content_is_one_file_and_other_content_another(tmp_path: Path) -> None:
    first = store_frame(FRAME, tmp_path, name="data")
    written = first.stat().st_mtime_ns
    assert store_frame(FRAME.reset_index(drop=True).copy(), tmp_path, name="dev") == first
    assert first.stat().st_mtime_ns == written
    changed = [FRAME.assign(평가="좋음"), FRAME.iloc[::-1], FRAME.rename(columns={"평가": "label"}), FRAME.iloc[:-1]]
    assert len({first, *(store_frame(each, tmp_path, name="data") for each in changed)}) == 5
    pd.testing.assert_frame_equal(pd.read_parquet(first), FRAME.reset_index(drop=True), check_dtype=False)
    assert not list(tmp_path.glob(".*"))


def test_a_study_reads_frames_with_korean_columns(tmp_path: Path) -> None:
    made = study(tmp_path, FRAME)
    assert made.config.data.labels == {"나쁨": "나쁨", "좋음": "좋음"}  # type: ignore[attr-defined]
    assert sorted(made.data.columns) == ["id", "label", "text"] and len(made.data) + len(made.dev) == 40
    assert "data" in made._repr_html_()


def test_a_data_set_is_written_with_the_names_of_its_classes(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"리뷰": Value("string"), "평가": ClassLabel(names=["나쁨", "좋음"])})
    given = Dataset.from_dict({"리뷰": TEXTS, "평가": [1, 0] * 20}, features=features)
    assert is_frame(given) and is_frame(FRAME) and not is_frame([1]) and not is_frame("a.csv")
    assert store_frame(given, tmp_path, name="data") == store_frame(FRAME, tmp_path, name="data")


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (FRAME.iloc[:0], "the frame `data`: has no rows"),
        (pd.concat([FRAME, FRAME], axis=1), "the frame `data`: the column '리뷰' is there 2 times"),
        (FRAME.assign(평가=[1, "좋음"] * 20), "the column '평가' cannot be written: it has int (row 1), str (row 2)"),
        (
            FRAME.rename(columns={"리뷰": "text"}),
            "the frame `data`: no text column '리뷰'; the columns are 'text', '평가'",
        ),
        (
            pd.concat({"a": FRAME}, axis=1),
            "the frame `data`: its columns have several levels; give each column one name",
        ),
    ],
)
def test_what_is_wrong_with_a_frame_is_told_of_the_frame(tmp_path: Path, frame: pd.DataFrame, said: str) -> None:
    with pytest.raises(InputError) as error:
        _ = study(tmp_path, frame).data
    assert said in str(error.value) and ".parquet" not in str(error.value)


def test_rows_that_cannot_be_used_are_named_by_their_numbers(tmp_path: Path) -> None:
    frame = FRAME.copy()
    frame.iloc[[2, 5], 0] = [None, "  "]
    with pytest.raises(InputError) as error:
        _ = study(tmp_path, frame).data
    assert "the frame `data`: 2 of 40 rows are bad" in str(error.value)
    assert "row 3: missing text; row 6: empty text" in str(error.value)
    assert len(study(tmp_path, frame, max_bad_fraction=0.1).data) == 34


def test_overrides_may_be_frames_and_wrong_ones_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(tmp_path, FRAME)
    monkeypatch.chdir(tmp_path)
    from tuning.study import dump_study

    dump_study(made.config, tmp_path / "study.yaml")
    half = Study.load("study.yaml", {"data.train": FRAME.iloc[:20], "budget.trials": 2})
    assert len(half.data) + len(half.dev) == 20 and half.config.budget.trials == 2
    with pytest.raises(InputError, match=r"unknown key `budget.trails`; did you mean `trials`"):
        Study.load("study.yaml", {"budget.trails": 2})
    section = {"train": FRAME, "text_column": "리뷰", "label_column": "평가"}
    with pytest.raises(InputError, match=r"unknown key `trian`; did you mean `train`"):
        Study(task="classification", data=section, trian={"epochs": 2}, storage=tmp_path)
    with pytest.raises(InputError, match="this study has no test file"):
        _ = made.test
