"""Offsets of many texts at once, for texts whose characters each become one normalised character.

That is nearly every text there is. Then no text needs to be normalised a second time, which `piece_offsets` does
for the way back: the sources of the normalised characters are the text's positions, its folded blanks left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from kobert_core.code_points import code_points
from kobert_core.tokenization.offsets import PieceShapes
from kobert_core.tokenization.preprocessing import QUOTE_PAIRS, preprocess

_OTHER, _CHARACTER, _BLANK = 0, 1, 2

# Here is nothing that NFKC joins with its neighbour: no combining mark, no jamo, no half-width kana.
_SAFE_RANGES = (
    (0x20, 0x24F),
    (0x391, 0x3FF),
    (0x410, 0x44F),
    (0x2010, 0x27BF),
    (0x3000, 0x3029),
    (0x3041, 0x3096),
)
_SAFE_MORE = ((0x30A1, 0x30FA), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFF01, 0xFF5E))


class CharacterTable:
    """For each character of the plane 0: what it becomes, and whether it can be in an unknown piece."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, shapes: PieceShapes) -> None:
        self._processor, self._shapes = processor, shapes
        self._seen = np.zeros(0x10000, dtype=bool)
        self._kind = np.zeros(0x10000, dtype=np.uint8)
        self._may_be_unknown = np.zeros(0x10000, dtype=bool)
        self._safe = np.zeros(0x10000, dtype=bool)
        self._safe[[9, 10, 13]] = True
        for first, last in (*_SAFE_RANGES, *_SAFE_MORE):
            self._safe[first : last + 1] = True

    def offsets(
        self, texts: Sequence[str], ids: NDArray[np.int32], bounds: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Offsets of all pieces, shape (pieces, 2), and of which texts `piece_offsets` must find them instead.

        Args:
            texts: as the user gave them.
            ids: SentencePiece's ids of all, end to end.
            bounds: shape (texts + 1,); the ids of text i are `ids[bounds[i]:bounds[i + 1]]`.
        """
        codes, starts = code_points(texts)
        self._learn(codes)
        kinds = self._kind[np.minimum(codes, 0xFFFF)]
        kinds[codes > 0xFFFF] = _OTHER
        left = np.array([any(pair in text for pair in QUOTE_PAIRS) for text in texts], dtype=bool)
        left[np.searchsorted(starts, np.flatnonzero(kinds == _OTHER), side="right") - 1] = True

        # Of several blanks SentencePiece keeps one, and none at the start and at the end of a text.
        blank = kinds == _BLANK
        kept = ~blank
        kept[1:] |= ~blank[:-1]
        begins_with = starts[:-1][starts[:-1] < starts[1:]]
        kept[begins_with] = ~blank[begins_with]
        stripped = starts[:-1] + np.fromiter((len(text.rstrip()) for text in texts), dtype=np.int64, count=len(texts))
        kept[stripped[stripped < starts[1:]]] = False
        sources = np.flatnonzero(kept).astype(np.int32)
        firsts = np.searchsorted(sources, starts).astype(np.int32)  # each text's first one, and how many there are

        lengths = self._shapes.lengths[ids]
        self._measure_unknown(lengths, ids, bounds, codes[sources], firsts, left)
        ends = np.cumsum(lengths, dtype=np.int32)
        before = np.append(np.int32(0), ends)[bounds]  # the lengths of the texts before
        left |= np.diff(before) - 1 != np.diff(firsts)
        if left.all():
            return np.zeros((len(ids), 2), dtype=np.int32), left

        # From here on counted in `sources`; the blank before each text has none. Of texts that are left anything comes.
        sizes = np.diff(bounds)
        ends += np.repeat(firsts[:-1] - before[:-1] - 1, sizes)
        begins = ends - lengths + self._shapes.blanks[ids]
        spans = np.empty((len(ids), 2), dtype=np.int32)
        spans[:, 0] = sources.take(begins, mode="clip")
        spans[:, 1] = np.where(begins == ends, spans[:, 0], sources.take(ends - 1, mode="clip") + 1)
        return spans - np.repeat(starts[:-1].astype(np.int32), sizes)[:, None], left

    def _learn(self, codes: NDArray[np.uint32]) -> None:
        there = np.zeros(0x10000, dtype=bool)
        there[codes[codes < 0x10000]] = True
        new = np.flatnonzero(there & self._safe & ~self._seen)
        characters = [chr(code) for code in new]
        normalized = self._processor.normalize([preprocess(character) for character in characters])
        for code, character, result in zip(new, characters, normalized, strict=True):
            if character.isspace():
                self._kind[code] = _BLANK
            elif len(result) == 2:  # with the blank that SentencePiece puts before every text
                self._kind[code] = _CHARACTER
                self._may_be_unknown[code] = self._processor.piece_to_id(result[1]) == self._shapes.unk_id
        self._seen |= there

    def _measure_unknown(
        self,
        lengths: NDArray[np.int32],
        ids: NDArray[np.int32],
        bounds: NDArray[np.int64],
        characters: NDArray[np.uint32],
        firsts: NDArray[np.int32],
        left: NDArray[np.bool_],
    ) -> None:
        """Put the lengths of unknown pieces into `lengths`: each runs up to the next character that is a piece.

        A text is `left` when that is not so, since a piece may begin with a character that is no piece by itself:
        then all lengths together are not the text's.
        """
        unknown = np.flatnonzero(ids == self._shapes.unk_id)
        lengths[unknown] = 0
        of_text = np.searchsorted(bounds, unknown, side="right") - 1
        before = np.append(0, np.cumsum(lengths))
        begins = before[unknown] - before[bounds[of_text]] - 1 + firsts[of_text]
        may_be = self._may_be_unknown[np.minimum(characters, 0xFFFF)].tobytes()
        ends = firsts[of_text + 1]
        added, current = 0, -1
        for piece, text, begin, end in zip(*(a.tolist() for a in (unknown, of_text, begins, ends)), strict=True):
            added = added if text == current else 0
            current = text
            next_piece = may_be.find(b"\0", begin + added, end)
            lengths[piece] = (next_piece if next_piece >= 0 else end) - begin - added
            added += int(lengths[piece])
            left[text] |= lengths[piece] < 1
