"""Which of several candidates is the best, with few runs: sequential halving (Karnin, Koren and Somekh, "Almost optimal
exploration in multi-armed bandits", 2013).

Each round has about as many runs as there are candidates at first. After it the better half, rounded up, goes on: so
the runs go where they decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def rounds(candidates: int) -> Iterator[tuple[int, int]]:
    """Of each round: how many runs each candidate has in it, and how many candidates are left after it."""
    left = candidates
    while left > 1:
        runs, left = max(1, candidates // left), (left + 1) // 2
        yield runs, left


def better(scores: Mapping[int, Sequence[float]], keep: int, *, mode: str) -> list[int]:
    """The candidates with the best means, best first; of equal ones those that are named first."""
    sign = -1 if mode == "max" else 1
    return sorted(scores, key=lambda candidate: sign * sum(scores[candidate]) / len(scores[candidate]))[:keep]
