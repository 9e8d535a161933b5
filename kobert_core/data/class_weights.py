"""Weights of classes in the loss."""

from __future__ import annotations

import numpy as np


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Inverse to the frequency of each class, as scikit-learn's `balanced`; a class without examples counts as one
    example's.

    Args:
        counts: The examples of each class, shape (classes,).

    Returns:
        float32, of that shape.
    """
    weights: np.ndarray = counts.sum() / (len(counts) * np.maximum(counts, 1))
    return weights.astype(np.float32)
