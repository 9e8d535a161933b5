"""What each part of the examples adds to a score: the jackknife's pseudo-values."""

from __future__ import annotations

import numpy as np

from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples

GROUPS = 50
"""Parts that examples are cut into at most: each costs a score of all others."""


def pseudo_values(task: Task, examples: Examples, outputs: dict[str, np.ndarray], metric: str) -> np.ndarray:
    """The pseudo-values of a metric, one a part of the examples.

    Their mean is the metric, and the variance of that mean is how the metric varies from sample to sample, also where
    it is no mean over rows (Tukey 1958; for parts of unequal size, Busing, Meijer and van der Leeden 1999).

    What belongs together (`Examples.clusters`, such as the questions on an article) is in one part. The parts depend on
    the examples alone, so that the values of two models on the same examples are paired.

    Args:
        task: Scores the examples.
        examples: At least two clusters.
        outputs: Of a model for the examples, as `kobert_core.evaluation.predict` gives them.
        metric: One that the task reports, such as `eval/accuracy`.

    Returns:
        Float array of shape (parts,): as many as clusters, `GROUPS` at most.
    """
    parts = _parts(examples.clusters)
    number = int(parts.max()) + 1
    share = np.bincount(parts) / len(parts)
    each = task.item_scores(examples, outputs, metric)
    if each is not None:  # a mean: nothing has to be scored again
        total = each.mean()
        without = (total - np.bincount(parts, weights=each) / len(parts)) / (1 - share)
    else:
        total = task.score(examples, outputs)[metric]
        without = np.array([_score_without(task, examples, outputs, metric, parts == part) for part in range(number)])
    deviations = number * (1 - share) * (total - without)
    values: np.ndarray = total + deviations - deviations.mean()
    return values


def _score_without(
    task: Task, examples: Examples, outputs: dict[str, np.ndarray], metric: str, left_out: np.ndarray
) -> float:
    items = np.flatnonzero(~left_out)
    rows = examples.rows_of(items)
    return task.score(examples.take(items), {name: output[rows] for name, output in outputs.items()})[metric]


def _parts(clusters: np.ndarray) -> np.ndarray:
    """Of each item its part: its cluster, or where there are many an equal share of them, by chance."""
    _, cluster = np.unique(clusters, return_inverse=True)
    number = int(cluster.max()) + 1
    if number < 2:
        raise ValueError("one cluster has no parts: at least two must be there.")
    shuffled = np.random.Generator(np.random.PCG64(0)).permutation(number)
    parts: np.ndarray = (shuffled % GROUPS if number > GROUPS else np.arange(number))[cluster]
    return parts
