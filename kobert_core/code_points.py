"""Texts as one array of code points, so that all of their characters are looked at together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def code_points(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """All texts end to end.

    Returns:
        code points of shape (characters,), and starts of shape (len(texts) + 1,): the characters of text i are
        `codes[starts[i]:starts[i + 1]]`.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return codes, np.cumsum([0, *map(len, texts)], dtype=np.int64)


def strings(codes: NDArray[np.uint32], starts: NDArray[np.int64]) -> list[str]:
    """The texts that lie end to end in `codes`."""
    joined = codes.tobytes().decode("utf-32-le", "surrogatepass")
    return [joined[start:end] for start, end in itertools.pairwise(starts.tolist())]
