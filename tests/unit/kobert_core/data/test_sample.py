"""The reviews that the package carries for `make sweep`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kobert_core.tasks.labelled_texts.columns import Columns
from kobert_core.tasks.labelled_texts.rows import Rows, read_rows
from kobert_core.tasks.text_classification.targets import ClassIndices

SAMPLE = Path(__file__).resolve().parents[4] / "search_spaces" / "sample"
SIZES = {"train": 480, "test": 160}


@pytest.fixture(scope="module")
def sample() -> dict[str, Rows]:
    labels = {"0": "negative", "1": "positive"}
    return {
        name: read_rows(
            SAMPLE / f"{name}.tsv",
            columns=Columns(text="document"),
            targets=ClassIndices(labels, "label"),
            max_bad_fraction=0.0,
        )
        for name in SIZES
    }


@pytest.mark.parametrize("name", SIZES)
def test_size_and_balance(sample: dict[str, Rows], name: str) -> None:
    assert len(sample[name]) == SIZES[name]
    assert sample[name].labels.sum() == SIZES[name] // 2
    assert sample[name].bad == []


def test_no_review_and_no_id_is_there_twice(sample: dict[str, Rows]) -> None:
    texts = [" ".join(text.split()) for rows in sample.values() for text in rows.texts]
    ids = [row_id for rows in sample.values() for row_id in rows.ids]
    assert len(set(texts)) == len(texts) == sum(SIZES.values())
    assert len(set(ids)) == len(ids)


def test_classes_are_mixed_in_the_files(sample: dict[str, Rows]) -> None:
    # A head of the file must do as a quick sample.
    for rows in sample.values():
        assert 0.3 < rows.labels[:80].mean() < 0.7


def test_words_alone_do_not_tell_the_class(sample: dict[str, Rows]) -> None:
    rows = sample["train"]
    for word in ("최고", "최악", "지루", "재미없"):
        classes = {label for text, label in zip(rows.texts, rows.labels.tolist(), strict=True) if word in text}
        assert classes == {0, 1}, word
