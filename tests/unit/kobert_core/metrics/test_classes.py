"""Scores of a classifier equal what is counted by hand."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest

from kobert_core.tasks.text_classification.metrics import accuracy, class_report, f1

NAMES = ["부정", "중립", "긍정", "없음"]


def counted(labels: list[int], predicted: list[int], name: int) -> tuple[float, float, float, int]:
    """Precision, recall, F1 and support of a class, one example after the other."""
    pairs = Counter(zip(labels, predicted, strict=True))
    hits = pairs[name, name]
    taken = sum(count for (_, guess), count in pairs.items() if guess == name)
    there = sum(count for (label, _), count in pairs.items() if label == name)
    precision, recall = (hits / all_of_them if all_of_them else 0.0 for all_of_them in (taken, there))
    return precision, recall, 2 * hits / (taken + there) if taken + there else 0.0, there


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_f1_and_the_report_are_what_is_counted_by_hand(classes: int, seed: int) -> None:
    """Of the four classes only the first few occur: those that do not are no part of the mean."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(60, 4))
    logits[:, classes:] = -9
    labels = generator.integers(0, classes, 60)
    predicted = logits.argmax(axis=1).tolist()
    by_hand = [counted(labels.tolist(), predicted, name) for name in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f1(logits, labels, "macro") == pytest.approx(
            sum(row[2] for row in by_hand[:classes]) / classes, abs=1e-12
        )
        report = class_report(logits, labels, NAMES)
    assert list(report["classes"]) == NAMES
    for row, scores in zip(by_hand, report["classes"].values(), strict=True):
        assert [scores[key] for key in ("precision", "recall", "f1", "support")] == pytest.approx(row, abs=1e-12)
    assert sum(map(sum, report["confusion_matrix"])) == 60
    assert sum(report["confusion_matrix"][at][at] for at in range(4)) == round(accuracy(logits, labels) * 60)
    assert report["confusion_matrix"][0][1] == sum((labels == 0) & (np.array(predicted) == 1))
