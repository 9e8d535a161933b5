"""What a model says of labels, as columns of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

PROBABILITY = "probability_"


def probability_columns(names: Sequence[str], probabilities: np.ndarray) -> dict[str, object]:
    """A column a label, with its probability."""
    return {f"{PROBABILITY}{name}": round(float(value), 6) for name, value in zip(names, probabilities, strict=True)}


def probabilities_of(answer: Mapping[str, object], names: Sequence[str]) -> list[float]:
    """The probabilities in these columns, in the order of the labels."""
    return [cast(float, answer[f"{PROBABILITY}{name}"]) for name in names]


def likeliest_of(
    answer: Mapping[str, object], labels: Sequence[object], names: Sequence[str], top_k: int
) -> dict[str, object]:
    """The answer with a list `top` of the likeliest labels, the likeliest first, in the place of these columns."""
    probable = probabilities_of(answer, names)
    order = np.argsort(-np.array(probable), kind="stable")[:top_k].tolist()
    top = [{"label": labels[at], "name": names[at], "probability": probable[at]} for at in order]
    return {name: value for name, value in answer.items() if not name.startswith(PROBABILITY)} | {"top": top}
