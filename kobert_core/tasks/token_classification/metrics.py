"""Scores of entities. Those of scikit-learn are imported when they are first needed: that takes a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kobert_core.tasks.token_classification.decoding import Entities


class Counts(NamedTuple):
    """How many entities of each label there are, were predicted, and were both: int64, shape (labels,)."""

    gold: NDArray[np.int64]
    predicted: NDArray[np.int64]
    right: NDArray[np.int64]


def count(gold: Entities, predicted: Entities, labels: int) -> Counts:
    """An entity is right if it has the same units and the same label: seqeval's `mode="strict"` with `IOB2`."""
    both = gold.keys() & predicted.keys()
    right = np.array([label for _, _, label in both], dtype=np.int64)
    return Counts(*(np.bincount(each, minlength=labels) for each in (gold.label, predicted.label, right)))


def precision_recall_f1(gold: float, predicted: float, right: float) -> tuple[float, float, float]:
    """0 where nothing is divided by nothing, as seqeval has it."""
    precision, recall = (float(right / of) if of else 0.0 for of in (predicted, gold))
    total = gold + predicted
    return precision, recall, float(2 * right / total) if total else 0.0


def entities_f1(wanted: Sequence[object], given: Sequence[object]) -> float:
    """F1 of the entities of one text, each once; 1 where there are none and none were found."""
    both = sum(entity in wanted for entity in given)
    return 2 * both / (len(wanted) + len(given)) if wanted or given else 1.0


def entity_scores(counts: Counts) -> dict[str, float]:
    """Micro averages, and the mean of the F1 of all labels that are there or were predicted."""
    precision, recall, f1 = precision_recall_f1(*(float(each.sum()) for each in counts))
    each = [precision_recall_f1(*row)[2] for row in zip(*counts, strict=True) if row[0] or row[1]]
    return {"f1": f1, "precision": precision, "recall": recall, "macro_f1": float(np.mean(each)) if each else 0.0}


def label_report(counts: Counts, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each label its `precision`, `recall`, `f1` and `support`, its entities."""
    keys = ("precision", "recall", "f1", "support")
    return {
        label: dict(zip(keys, (*precision_recall_f1(*row), int(row[0])), strict=True))
        for label, row in zip(labels, zip(*counts, strict=True), strict=True)
    }


def char_f1(gold: np.ndarray, predicted: np.ndarray, tags: int) -> float:
    """The mean over all tags of their F1 over characters, as KLUE's baseline has it (`klue_ner_char_macro_f1`): blanks
    are left out, `O` is a tag as well, and one that is nowhere counts 1.

    Args:
        gold, predicted: The tag of each character.
        tags: How many tags there are.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, labels=np.arange(tags), average="macro", zero_division=1.0))
