"""Scores of a classifier."""

from __future__ import annotations

import numpy as np


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Part of the examples whose largest logit is that of their label.

    Args:
        logits: Shape (examples, classes).
        labels: Class indices, shape (examples,).
    """
    return float(np.mean(logits.argmax(axis=1) == labels))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the classes, in float64: shape (examples, classes)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood in nats, in float64; shapes as in `accuracy`."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))
