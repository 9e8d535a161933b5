"""What would spoil every trial of a study, and can be known before one starts; and what its dev split can tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from kobert_core.data.description import unknown_characters
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples

EXPLAINED = 2000
"""Texts whose unknown characters are counted."""
SHOWN = 5
CERTAINTY = 1.96
"""Standard deviations of a normal distribution, around its mean, that hold 95% of it."""


def spoilers(tasks: Sequence[Task[Examples]], test: Source | None) -> Iterator[InputError]:
    """What makes the numbers of a study worthless, with the key of the study that takes it as it is.

    A dev split that is too small is none of these: nearly all first looks and trial runs have one. `resolution` tells
    what it can show.

    Args:
        tasks: A task with each encoder of the study; they read the same files.
        test: The test file, if it counts.
    """
    task = tasks[0]
    data, limits = task.data, task.data.limits
    for fold in task.folds():
        in_fold = f" in fold {fold.fold + 1}" if data.folds else ""
        for split, count in fold.few_labels().items():
            yield InputError(
                f"all rows of {split}{in_fold} have one label: nothing tells models apart there"
                if count == 1
                else f"the rows of {split}{in_fold} have {count} labels between them, not {limits.labels}",
                where=data.dev if split == "dev" and data.dev else data.train,
                fix=f"check which column is read, or take `data.min_labels: {count}`",
            )
    for split, leak in task.leaks(test).items():
        if leak.share > limits.leak:
            yield InputError(
                f"{leak}: what is measured on them is no measure of new texts",
                where={"dev": data.dev, "test": test}[split] or data.train,
                fix=f"take them out, or set `data.max_leak: {_rounded_up(leak.share)}`",
            )
    for each in tasks:
        rate = each.unknown_rate()
        if rate > limits.unknown_rate:
            yield InputError(
                f"{rate:.2%} of the pieces of the training texts are unknown to the tokenizer{_name_of(each)}"
                f"{_most_unknown(each)}",
                where=data.train,
                fix=f"take another encoder, or set `data.max_unknown_rate: {_rounded_up(rate)}`",
            )


def resolution(task: Task[Examples], metric: str) -> str | None:
    """The smallest difference between two models that their scores on dev can show.

    Assumes that both models are right on half of the rows, or on as many as the trivial answer if that is more. Of
    better models, smaller differences show.

    Returns:
        In words; None where the metric is no share of what is right.
    """
    if metric not in task.shares:
        return None
    chance, rows = task.chance(task.dev, metric), sum(fold.dev.items for fold in task.folds())
    share = max(0.5, chance.value / task.shares[metric] if chance else 0.0)
    points = 100 * smallest_difference(share, rows)
    held_out = f"in {task.data.folds} folds" if task.data.folds else "of dev"
    return f"{points:.1f} points of {metric} between two models on {rows:,} {held_out}, with 95% confidence"


def smallest_difference(share: float, rows: int) -> float:
    """The difference of two models' shares of right answers that is exceeded by chance in 5% of all cases.

    By its normal approximation, and as if each model had rows of its own.

    Args:
        share: What both truly are.
        rows: So many each of them answers.
    """
    return CERTAINTY * math.sqrt(2 * share * (1 - share) / rows)


def _most_unknown(task: Task[Examples]) -> str:
    """The characters of some training texts that are unknown most often, in words."""
    counts = Counter[str]()
    for rows in task.texts_of_splits(None)["train"].values():
        counts.update(unknown_characters(rows[:EXPLAINED], task.tokenizer))
    return f", most often {' '.join(what for what, _ in counts.most_common(SHOWN))}" if counts else ""


def _name_of(task: Task[Examples]) -> str:
    source = task.model.tokenizer or task.model.backbone
    return f" of {source}" if source else ""


def _rounded_up(share: float) -> float:
    return math.ceil(100 * share) / 100
