"""The scores of the official KorQuAD 1.0 script, on every question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kobert_core.tasks.question_answering.official_metrics import score, score_each


@pytest.fixture(scope="module")
def dataset(shared: Path) -> dict:
    return json.loads((shared / "data/korquad/KorQuAD_v1.0_dev.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict:
    return json.loads((shared / "golden/korquad_official_scores.json").read_text(encoding="utf-8"))


def test_every_question_has_the_official_scores_to_the_last_bit(dataset: dict, golden: dict) -> None:
    ours = score_each(dataset, golden["predictions"])
    assert len(ours) == 5774
    assert {key: list(value) for key, value in ours.items()} == golden["per_question_em_f1"]


def test_the_totals_are_official_to_the_last_bit(dataset: dict, golden: dict) -> None:
    assert score(dataset, golden["predictions"]) == golden["official"]


def test_a_missing_prediction_counts_nothing(dataset: dict, golden: dict) -> None:
    answered = dict(list(golden["predictions"].items())[::2])
    each = score_each(dataset, answered)
    assert all(scores == (0.0, 0.0) for key, scores in each.items() if key not in answered)
    assert all(list(each[key]) == golden["per_question_em_f1"][key] for key in answered)
