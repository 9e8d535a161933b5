"""Scores of sets of labels. Those of scikit-learn are imported when they are first needed: that takes a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from kobert_core.tasks.labelled_texts.auc import average_precision, roc_auc


def f1(logits: np.ndarray, labels: np.ndarray, average: str) -> float:
    """F1 as scikit-learn's `f1_score` averages it over the labels; a label that no example has and none is given is
    worth 0.

    Args:
        logits: Shape (examples, labels); what is above 0 is given.
        labels: 0 and 1, shape (examples, labels).
        average: `macro`, `micro` or `weighted`.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(labels > 0, logits > 0, average=average, zero_division=0.0))


def exact_match(logits: np.ndarray, labels: np.ndarray) -> float:
    """Part of the examples that are given all their labels and no other; shapes as in `f1`."""
    return float(np.mean(((logits > 0) == (labels > 0)).all(axis=1)))


def binary_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over examples and labels in nats, in float64; shapes as in `f1`."""
    logits = logits.astype(np.float64)
    return float(np.mean(np.logaddexp(0, logits) - logits * labels))


def label_report(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, object]:
    """By its name, each label's `precision`, `recall`, `f1` and `support` (its examples); 0 where nothing is divided by
    nothing. Shapes as in `f1`."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(labels > 0, logits > 0, average=None, zero_division=0.0)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    keys = ("precision", "recall", "f1", "support")
    return {"labels": {name: dict(zip(keys, row, strict=True)) for name, row in zip(names, rows, strict=True)}}


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Of each label by itself, in float64: shape (examples, labels)."""
    from scipy.special import expit

    return np.asarray(expit(logits.astype(np.float64)))


def ranking(score: Callable[[np.ndarray, np.ndarray], float], logits: np.ndarray, labels: np.ndarray) -> float:
    """A score of `kobert_core.tasks.labelled_texts.auc`; shapes as in `f1`."""
    return score(labels > 0, logits)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "eval/f1": partial(f1, average="macro"),
    "eval/f1_micro": partial(f1, average="micro"),
    "eval/f1_weighted": partial(f1, average="weighted"),
    "eval/exact_match": exact_match,
    "eval/roc_auc": partial(ranking, roc_auc),
    "eval/average_precision": partial(ranking, average_precision),
    "eval/loss": binary_cross_entropy,
}
"""By the name under which a study may make them its objective: from logits and labels."""
