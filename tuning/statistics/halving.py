"""Which of several candidates is the best, with few runs: sequential halving (Karnin, Koren and Somekh, "Almost optimal
exploration in multi-armed bandits", 2013).

Each round has about as many runs as there are candidates at first. After it the better half, rounded up, goes on: so
the runs go where they decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Round(NamedTuple):
    """One round."""

    candidates: int
    runs: int
    """Of each candidate."""
    keep: int
    """Candidates that are left after it."""


def rounds(candidates: int) -> Iterator[Round]:
    """The rounds until one candidate is left; none, if there is one to begin with."""
    left = candidates
    while left > 1:
        yield Round(left, max(1, candidates // left), (left + 1) // 2)
        left = (left + 1) // 2


def total_runs(candidates: int) -> int:
    """The runs of all rounds together."""
    return sum(each.candidates * each.runs for each in rounds(candidates))


def better(scores: Mapping[int, Sequence[float]], keep: int, *, mode: str) -> list[int]:
    """The candidates with the best means, best first; of equal ones those that are named first."""
    sign = -1 if mode == "max" else 1
    return sorted(scores, key=lambda candidate: sign * sum(scores[candidate]) / len(scores[candidate]))[:keep]
