"""Scores of a classifier. Those of scikit-learn and SciPy are imported when they are first needed: that takes a
second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from kobert_core.tasks.labelled_texts.auc import average_precision, roc_auc


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Part of the examples whose largest logit is that of their label.

    Args:
        logits: Shape (examples, classes).
        labels: Class indices, shape (examples,).
    """
    return float(np.mean(logits.argmax(axis=1) == labels))


def f1(logits: np.ndarray, labels: np.ndarray, average: str) -> float:
    """F1 as scikit-learn's `f1_score` averages it over the classes: a class counts if some example is of it, or is
    taken for it. Shapes as in `accuracy`."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, logits.argmax(axis=1), average=average, zero_division=0.0))


def balanced_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that there are of the part of their examples that is recognised."""
    from sklearn.metrics import recall_score

    there = np.unique(labels)
    return float(recall_score(labels, logits.argmax(axis=1), labels=there, average="macro", zero_division=0.0))


def ranking(score: Callable[[np.ndarray, np.ndarray], float], logits: np.ndarray, labels: np.ndarray) -> float:
    """A score of `kobert_core.tasks.labelled_texts.auc`: of two classes that of the second one, otherwise the mean
    of each class against all others."""
    truth, scores = labels[:, None] == np.arange(logits.shape[1]), probabilities(logits)
    return score(truth[:, 1:], scores[:, 1:]) if logits.shape[1] == 2 else score(truth, scores)


def class_report(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, object]:
    """Scores of each class, and which one is taken for which.

    Args:
        logits, labels: Shapes as in `accuracy`.
        names: Of the classes.

    Returns:
        `classes`: by its name, each one's `precision`, `recall`, `f1` and `support` (its examples); 0 where nothing
        is divided by nothing. `confusion_matrix`: a list a class, with how many of its examples were taken for each.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted, numbers = logits.argmax(axis=1), np.arange(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0.0)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    keys = ("precision", "recall", "f1", "support")
    return {
        "classes": {name: dict(zip(keys, row, strict=True)) for name, row in zip(names, rows, strict=True)},
        "confusion_matrix": confusion_matrix(labels, predicted, labels=numbers).tolist(),
    }


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the classes, in float64: shape (examples, classes)."""
    from scipy.special import softmax

    return np.asarray(softmax(logits.astype(np.float64), axis=1))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood in nats, in float64; shapes as in `accuracy`."""
    from scipy.special import log_softmax

    chosen = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return float(np.mean(np.abs(chosen)))  # not -0.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "eval/accuracy": accuracy,
    "eval/f1": partial(f1, average="macro"),
    "eval/f1_micro": partial(f1, average="micro"),
    "eval/f1_weighted": partial(f1, average="weighted"),
    "eval/balanced_accuracy": balanced_accuracy,
    "eval/roc_auc": partial(ranking, roc_auc),
    "eval/average_precision": partial(ranking, average_precision),
    "eval/loss": cross_entropy,
}
"""By the name under which a study may make them its objective: from logits and labels."""
