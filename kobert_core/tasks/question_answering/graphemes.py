"""Graphemes: what a reader takes for one character, such as an NFD syllable or an emoji with its skin tone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import regex
from numpy.typing import NDArray

from kobert_core.code_points import code_points

Positions = NDArray[np.int64]

# A text without any of the others has a grapheme a character (Unicode UAX #29, rules GB4 to GB999).
_JOINING = regex.compile(r"[^\p{GCB=Other}\p{GCB=LV}\p{GCB=LVT}\p{GCB=Control}\p{GCB=LF}]")


def grapheme_starts(texts: Sequence[str]) -> Positions:
    """Where each extended grapheme cluster starts in the texts laid end to end, and their whole length at the end.

    No grapheme reaches from one text into the next.
    """
    codes, bounds = code_points(texts)
    joining = np.zeros(sys.maxunicode + 1, dtype=bool)
    joining[codes] = True
    joining[joining] = [bool(_JOINING.match(chr(code))) for code in np.flatnonzero(joining)]
    is_start = np.ones(len(codes) + 1, dtype=bool)
    for number in np.unique(np.searchsorted(bounds, np.flatnonzero(joining[codes]), side="right") - 1).tolist():
        begin, end = bounds[number : number + 2]
        is_start[begin:end] = False
        is_start[[begin + match.start() for match in regex.finditer(r"\X", texts[number])]] = True
    return np.flatnonzero(is_start)


def trim_start(starts: Positions, positions: Positions, graphemes: Positions) -> Positions:
    """Each position moved forward to where so many graphemes after its own one start; 0 leaves it.

    Args:
        starts: from `grapheme_starts`.
        positions, graphemes: shape (n,).
    """
    own = np.searchsorted(starts, positions, side="right") - 1
    moved = starts[np.minimum(own + graphemes, len(starts) - 1)]
    return np.where(graphemes > 0, moved, positions)


def trim_end(starts: Positions, positions: Positions, graphemes: Positions) -> Positions:
    """Each position, the end of a span, moved back over so many graphemes; 0 leaves it. Arguments as `trim_start`."""
    before = np.searchsorted(starts, positions, side="left")
    moved = starts[np.maximum(before - graphemes, 0)]
    return np.where(graphemes > 0, moved, positions)


def trims_needed(starts: Positions, outer: Positions, inner: Positions) -> tuple[Positions, Positions]:
    """How many graphemes `trim_start` and `trim_end` must take to lead from the outer spans to the inner ones.

    Args:
        starts: from `grapheme_starts`.
        outer, inner: half-open spans, shape (n, 2).

    Returns:
        Two arrays of shape (n,); -1 where no number of graphemes does it.
    """
    own = np.searchsorted(starts, outer[:, 0], side="right") - 1
    at_start = np.where(outer[:, 0] == inner[:, 0], 0, np.searchsorted(starts, inner[:, 0]) - own)
    before = np.searchsorted(starts, outer[:, 1], side="left")
    at_end = np.where(outer[:, 1] == inner[:, 1], 0, before - np.searchsorted(starts, inner[:, 1]))
    at_start, at_end = np.maximum(at_start, -1), np.maximum(at_end, -1)
    reached = trim_start(starts, outer[:, 0], at_start), trim_end(starts, outer[:, 1], at_end)
    return np.where(reached[0] == inner[:, 0], at_start, -1), np.where(reached[1] == inner[:, 1], at_end, -1)
