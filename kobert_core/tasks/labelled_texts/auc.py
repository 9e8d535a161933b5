"""Scores of how a model ranks examples, for one label or the mean over several. scikit-learn is imported when it is
first needed: that takes a second."""

from __future__ import annotations

import numpy as np


def roc_auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Mean over the labels of the area under their ROC curve: how often what has a label is ranked above what has not.

    Args:
        truth: Whether an example has a label, bool of shape (examples, labels).
        scores: Shape (examples, labels).

    Returns:
        The mean of the labels that some examples have and some have not; 0.5 where there is none.
    """
    from sklearn.metrics import roc_auc_score

    if not np.isfinite(scores).all():  # of a run that diverged
        return float("nan")
    told = truth.any(axis=0) & ~truth.all(axis=0)
    return float(roc_auc_score(truth[:, told], scores[:, told], average="macro")) if told.any() else 0.5


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Mean over the labels of their average precision, as scikit-learn has it; shapes as in `roc_auc`.

    Returns:
        The mean of the labels that some examples have; 0 where there is none.
    """
    from sklearn.metrics import average_precision_score

    if not np.isfinite(scores).all():  # of a run that diverged
        return float("nan")
    told = truth.any(axis=0)
    return float(average_precision_score(truth[:, told], scores[:, told], average="macro")) if told.any() else 0.0
