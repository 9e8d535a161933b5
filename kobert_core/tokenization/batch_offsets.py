"""Offsets of many texts at once, for texts whose characters each become one normalised character.

That is nearly every text there is. Then no text needs to be normalised a second time, which `piece_offsets` does
for the way back: the sources of the normalised characters are the text's positions, its folded blanks left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sentencepiece
from numpy.typing import NDArray

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

    def offsets(self, texts: Sequence[str], batch: Sequence[list[int]]) -> list[NDArray[np.int32] | None]:
        """Offsets of shape (pieces, 2) of each text, or None where `piece_offsets` must find them.

        Args:
            texts: as the user gave them.
            batch: SentencePiece's ids of each.
        """
        self._learn("".join(texts))
        return [self._offsets(text, ids) for text, ids in zip(texts, batch, strict=True)]

    def _learn(self, text: str) -> None:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
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

    def _offsets(self, text: str, ids: list[int]) -> NDArray[np.int32] | None:
        if not ids or any(pair in text for pair in QUOTE_PAIRS):
            return None
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        if codes.max() > 0xFFFF:
            return None
        kinds = self._kind[codes]
        if not kinds.all():
            return None
        blank = kinds == _BLANK
        kept = ~blank
        kept[1:] |= ~blank[:-1]  # the first blank of several
        sources = np.flatnonzero(kept)
        if blank[sources[-1]]:
            sources = sources[:-1]
        pieces = np.array(ids)
        lengths = self._shapes.lengths[pieces]
        unknown = np.flatnonzero(pieces == self._shapes.unk_id)
        if len(unknown):
            may_be = self._may_be_unknown[codes[sources]]
            if not _measure_unknown(lengths, unknown, may_be):
                return None
        ends = np.cumsum(lengths) - 1  # without the blank before the text, which has no source
        if ends[-1] != len(sources):
            return None
        begins = ends - lengths + self._shapes.blanks[pieces]
        spans = np.empty((len(ids), 2), dtype=np.int32)
        spans[:, 0] = sources[begins]
        spans[:, 1] = np.where(begins == ends, spans[:, 0], sources[ends - 1] + 1)
        return spans


def _measure_unknown(lengths: NDArray[np.int64], unknown: NDArray[np.int64], may_be: NDArray[np.bool_]) -> bool:
    """Put the lengths of unknown pieces into `lengths`: each runs up to the next character that is a piece.

    False when that is not so, since a piece may begin with a character that is no piece by itself: then all
    lengths together are not the text's.
    """
    known = np.append(np.flatnonzero(~may_be), len(may_be))
    added, begin = 0, -1
    lengths[unknown] = 0
    befores = np.cumsum(lengths)[unknown] - 1
    for index, before in zip(unknown.tolist(), befores.tolist(), strict=True):
        begin = before + added
        length = int(known[np.searchsorted(known, begin)]) - begin
        if length < 1:
            return False
        lengths[index] = length
        added += length
    return True
