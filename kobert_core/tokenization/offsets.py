"""From pieces back to the user's characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sentencepiece
from numpy.typing import NDArray


class PieceShapes:
    """What offsets need to know of each piece: its length in characters, whether it begins with a blank."""

    def __init__(self, pieces: Sequence[str], unk_id: int) -> None:
        self.lengths = np.array([len(piece) for piece in pieces], dtype=np.int32)
        self.blanks = np.array([piece.startswith("▁") for piece in pieces], dtype=np.int32)
        self.unk_id = unk_id


def piece_offsets(
    processor: sentencepiece.SentencePieceProcessor,
    prepared: str,
    ids: NDArray[np.int32],
    starts: NDArray[np.int64] | None,
    shapes: PieceShapes,
) -> NDArray[np.int64]:
    """Half-open character positions, shape (n, 2), of each piece in the text before `preprocess`.

    SentencePiece's own offsets are not enough: a piece that ends inside of what one character became (`ﬁ`
    gives `f` and `i`) ends for it before that character. So the way goes over the normalised text, which the
    pieces fill without gap: piece -> normalised characters -> prepared characters -> the user's characters.

    Args:
        processor: gave `ids` for `prepared`.
        prepared: what SentencePiece was given.
        ids: SentencePiece's ids, shape (n,).
        starts: for each prepared character its position in the user's text, and the text's length; None when
            both are the same text.
        shapes: of the model's pieces.
    """
    if not len(ids):
        return np.zeros((0, 2), dtype=np.int64)
    lengths = shapes.lengths[ids]
    if (ids == shapes.unk_id).any():  # an unknown piece is as long as what it stands for
        lengths = np.array([len(piece) for piece in processor.encode(prepared, out_type=str)], dtype=np.int64)

    # One entry for each normalised character, and one for the end.
    sources = np.array(processor.normalize(prepared, with_offsets=True)[1], dtype=np.int64)
    if starts is not None:
        sources = starts[sources]

    ends = np.cumsum(lengths)
    begins = ends - lengths + shapes.blanks[ids]  # without the blank
    span_starts = sources[begins]
    # Up to where the next character comes from, which is beyond all of this one.
    following = np.searchsorted(sources, sources[ends - 1], side="right")
    span_ends = sources[np.minimum(following, len(sources) - 1)]
    span_ends = np.where(begins == ends, span_starts, span_ends)
    return np.stack([span_starts, np.maximum.accumulate(span_ends)], axis=1)
