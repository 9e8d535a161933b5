"""Scores of predicted numbers. SciPy's statistics are imported when they are first needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def pearson(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation; 0 where either is the same for all. Both of shape (examples,)."""
    from scipy.stats import pearsonr

    return float(pearsonr(predicted, labels).statistic) if _both_vary(predicted, labels) else 0.0


def spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where either is the same for all. Both of shape (examples,)."""
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, labels).statistic) if _both_vary(predicted, labels) else 0.0


def mean_squared_error(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the squared differences; both of shape (examples,)."""
    return float(np.mean((predicted - labels) ** 2))


def mean_absolute_error(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the differences without their signs; both of shape (examples,)."""
    return float(np.mean(np.abs(predicted - labels)))


def _both_vary(predicted: np.ndarray, labels: np.ndarray) -> bool:
    return len(labels) > 1 and bool(np.ptp(predicted) and np.ptp(labels))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "eval/pearson": pearson,
    "eval/spearman": spearman,
    "eval/mse": mean_squared_error,
    "eval/mae": mean_absolute_error,
    "eval/loss": mean_squared_error,
}
"""By the name under which a study may make them its objective: from predictions and labels, as float64."""
