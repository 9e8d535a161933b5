"""What SKT's Python tokenizer does to a text before SentencePiece sees it.

Its steps, in order: white space becomes a blank, ```` `` ```` and `''` become `"`, NFKD, combining marks
drop. Two more are left out since they change nothing: SentencePiece strips and folds blanks itself, and the
re-splitting of pieces such as `1,` never applies (no piece of KoBERT's ends in a digit and a comma).
Source: `KoBERTTokenizer` in SKTBrain/KoBERT, `XLNetTokenizer.preprocess_text` in transformers 4.46.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

QUOTE_PAIRS = ("``", "''")
_APOSTROPHES = re.compile("''")
_CONJOINING = re.compile("[\u1100-\u11ff]")

# Text of these characters alone (and without `''`) has the same pieces whether it is preprocessed or not.
# ASCII, the signs and the ideographs do not change; Hangul is taken apart, and SentencePiece puts it together
# again. Not here: "[" (may begin a special token's name), "`" (may be a quote), and the jamo ㄳ to ㄿ below,
# which NFKD turns into finals that close the syllable before them (하ㄳ becomes 핛): SentencePiece does not.
_PLAIN = "\t\n\r" + "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in "[`")
_PLAIN_RANGES = (
    ("가", "힣"),
    ("ㄱ", "ㅣ"),
    ("‘", "’"),
    ("“", "”"),
    ("\u2500", "\u27bf"),  # lines, shapes, ★ ♥ ♪ and other signs
    ("\u4e00", "\u9fff"),  # ideographs
)
_FINALS = "ㄳㄵㄶㄺㄻㄼㄽㄾㄿ"


def _plain_table() -> NDArray[np.bool_]:
    table = np.zeros(0x10000, dtype=bool)
    table[[ord(character) for character in _PLAIN]] = True
    for first, last in _PLAIN_RANGES:
        table[ord(first) : ord(last) + 1] = True
    table[[ord(character) for character in _FINALS]] = False
    return table


_CHANGES = ~_plain_table()


def not_plain(texts: Sequence[str]) -> list[int]:
    """The indices, ascending, of the texts that must be preprocessed.

    All texts are looked at together, as one array: a tenth of what a regular expression a text takes.
    """
    positions = _not_plain_positions("\n".join(texts))
    if not positions:
        return []
    ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)) + 1)
    indices: list[int] = np.unique(np.searchsorted(ends, positions, side="right")).tolist()
    return indices


def preprocess(text: str) -> str:
    """A text for SentencePiece that has the same pieces as what the original's steps give."""
    return preprocess_with_positions(text)[0]


def preprocess_with_positions(text: str) -> tuple[str, NDArray[np.int64] | None]:
    """`preprocess`, and for each of its characters where it comes from.

    Returns:
        The preprocessed text of n characters, and positions in `text` of shape (n + 1,), never descending,
        the last one `len(text)`; None when nothing was changed. What vanishes (a combining mark) or melts (a
        pair of quotes) belongs to the character before it: a character reaches up to the next greater
        position.
    """
    changing = _not_plain_positions(text)
    if not changing:
        return text, None
    prepared, positions = _replace(text, changing)
    if _CONJOINING.search(prepared):  # may join the Hangul beside it, so all Hangul must be taken apart
        return _replace(text, range(len(text)))
    return prepared, positions


def _not_plain_positions(text: str) -> list[int]:
    codes = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2")
    if len(codes) > len(text):  # characters above the plane 0 take two units
        wide = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        codes = np.minimum(wide, 0xFFFF).astype(np.uint16)
    found: list[int] = np.flatnonzero(_CHANGES[codes]).tolist()
    quotes = [match.start() for match in _APOSTROPHES.finditer(text)] if "''" in text else []
    return sorted(found + quotes) if quotes else found


def _replace(text: str, changing: Iterable[int]) -> tuple[str, NDArray[np.int64]]:
    """Replace the characters, or the pairs of quotes, that begin at these ascending positions."""
    parts: list[str] = []
    counts = np.ones(len(text) + 1, dtype=np.int64)
    done = 0
    for position in changing:
        if position < done:  # the second of a pair
            continue
        is_pair = text[position : position + 2] in QUOTE_PAIRS
        replacement = '"' if is_pair else _replacement(text[position])
        parts += (text[done:position], replacement)
        done = position + 1 + is_pair
        counts[position:done] = 0
        counts[position] = len(replacement)
    parts.append(text[done:])
    return "".join(parts), np.repeat(np.arange(len(text) + 1), counts)


@lru_cache(maxsize=65536)
def _replacement(character: str) -> str:
    """NFKD character by character equals NFKD of the text, once the marks that it reorders are gone."""
    if character.isspace():
        return " "
    if "\ud800" <= character <= "\udfff":  # half of a pair: SentencePiece takes valid UTF-8 only
        return "\ufffd"
    return "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
