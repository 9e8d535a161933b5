"""What there is to see in texts before a model is trained on them. It takes texts and a tokenizer, and knows no task.

A table is a pandas DataFrame with a row for each text or pair; pandas is imported when the first one is made.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kobert_core.tokenization.protocol import Tokenizer

if TYPE_CHECKING:
    from pandas import DataFrame, Series

LIMITS = (32, 64, 128, 256, 512)
"""Lengths in tokens for which it is told how much is cut off."""
QUANTILES = (0.5, 0.9, 0.95, 0.99)
SAMPLES = 3
SAMPLE_LENGTH = 200
"""Characters that are shown of a text."""
UNKNOWN_SHOWN = 10
LONGEST_UNKNOWN = 20
PAIR_ENDS = "\x1e"
"""Stands between both texts of a pair where they are compared as one."""

_NO_WORD = re.compile(r"[\W_]+")
_REPEATED = re.compile(r"([^\W\d_])\1+")

Rows = Sequence[tuple[str, ...]]
"""Texts, each alone or in a pair."""


def near_form(text: str) -> str:
    """What texts have in common that differ in form only: NFKC and case folded, no blanks, punctuation or other signs,
    a letter that is repeated once (`ㅋㅋㅋ`, `좋아아아`). Digits are not folded: 10 is not 100.

    A text of signs alone is what NFKC and folding case make of it.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _REPEATED.sub(r"\1", _NO_WORD.sub("", folded)) or folded.strip()


def table_of(rows: Rows) -> DataFrame:
    """The rows with the columns `exact` and `near`: what is equal in two rows that have the same text, or nearly so."""
    import pandas as pd

    return pd.DataFrame(
        {
            "exact": [PAIR_ENDS.join(map(str.strip, texts)) for texts in rows],
            "near": [PAIR_ENDS.join(map(near_form, texts)) for texts in rows],
        },
        dtype=object,
    )


def table_of_lengths(rows: Rows, tokenizer: Tokenizer) -> DataFrame:
    """The rows with the columns `characters`, `pieces` with the special tokens of a whole example, and `unknown`: how
    many of its pieces the tokenizer does not know."""
    import pandas as pd

    parts = list(zip(*rows, strict=True))
    special = 2 + (tokenizer.pair_separators if len(parts) > 1 else 0)
    counts = np.zeros((3, len(rows)), dtype=np.int64)
    for texts in parts:
        ids, bounds = tokenizer.encode_batch_flat(texts)
        before = np.concatenate([[0], np.cumsum(ids == tokenizer.unk_id)])
        counts += np.array([list(map(len, texts)), np.diff(bounds), np.diff(before[bounds])])
    return pd.DataFrame({"characters": counts[0], "pieces": counts[1] + special, "unknown": counts[2]})


def describe_texts(rows: Rows, tokenizer: Tokenizer) -> dict[str, object]:
    """What there is to see in some texts or pairs: JSON values.

    Returns:
        `rows`; `duplicates`: how many rows repeat an earlier one, to the letter (`exact`) and in their `near_form`;
        lengths in `characters`, and in `pieces` with special tokens; `longer_than`: the share that is cut off at so
        many; `unknown`: the share of pieces that the tokenizer does not know (`rate`), of rows with such, and the most
        frequent `characters`; `samples`, with their pieces, unknown ones in `[UNK …]`.
    """
    same, table = table_of(rows), table_of_lengths(rows, tokenizer)
    special = 2 * len(rows) if len(rows[0]) == 1 else (2 + tokenizer.pair_separators) * len(rows)
    pieces = int(table["pieces"].sum()) - special
    unknown = table["unknown"]
    return {
        "rows": len(rows),
        "duplicates": {kind: int(same[kind].duplicated().sum()) for kind in ("exact", "near")},
        "characters": _quantiles(table["characters"]),
        "pieces": _quantiles(table["pieces"]),
        "longer_than": {str(limit): _share(table["pieces"] > limit) for limit in LIMITS},
        "unknown": {
            "rate": round(int(unknown.sum()) / max(1, pieces), 6),
            "rows": _share(unknown > 0),
            "characters": unknown_characters([rows[row] for row in np.flatnonzero(unknown).tolist()], tokenizer),
        },
        "samples": [
            _sample(rows[row], tokenizer)
            for row in np.unique(np.linspace(0, len(rows) - 1, SAMPLES).astype(int)).tolist()
        ],
    }


def unknown_characters(rows: Rows, tokenizer: Tokenizer) -> dict[str, int]:
    """The most frequent characters that the tokenizer does not know, and how often each makes an unknown piece.

    Where it knows each character of such a piece, which it does not know as a word, the piece stands for them.
    """
    texts = [text for row in rows for text in row]
    if not texts:
        return {}
    ids, bounds, offsets = tokenizer.encode_batch_with_offsets(texts)
    places = np.flatnonzero(ids == tokenizer.unk_id)
    of_text = np.searchsorted(bounds, places, side="right") - 1
    pieces = Counter(
        texts[number][start:end]
        for number, (start, end) in zip(of_text.tolist(), offsets[places].tolist(), strict=True)
    )
    characters = sorted({character for piece in pieces for character in piece if not character.isspace()})
    ids, bounds = tokenizer.encode_batch_flat(characters)
    strange = {
        character
        for character, start, end in zip(characters, bounds[:-1], bounds[1:], strict=True)
        if (ids[start:end] == tokenizer.unk_id).any()
    }
    counts: Counter[str] = Counter()
    for piece, count in pieces.items():
        for what in [character for character in piece if character in strange] or [piece[:LONGEST_UNKNOWN]]:
            counts[what] += count
    return dict(counts.most_common(UNKNOWN_SHOWN))


def leaked(train: Rows, other: Rows) -> dict[str, int]:
    """How many of the `other` rows also stand in `train`: to the letter (`exact`), and in their `near_form`."""
    known, found = table_of(train), table_of(other)
    return {"rows": len(other)} | {
        kind: int(found[kind].isin(set(known[kind])).sum()) if len(other) else 0 for kind in ("exact", "near")
    }


def _quantiles(lengths: Series) -> dict[str, float]:
    numbers = lengths.quantile(list(QUANTILES), interpolation="higher")
    shown = {f"p{round(100 * share)}": int(number) for share, number in zip(QUANTILES, numbers, strict=True)}
    return {"mean": round(float(lengths.mean()), 1), **shown, "max": int(lengths.max())}


def _share(which: Series) -> float:
    return round(float(which.mean()), 6)


def _sample(row: tuple[str, ...], tokenizer: Tokenizer) -> dict[str, object]:
    texts = [text if len(text) <= SAMPLE_LENGTH else f"{text[:SAMPLE_LENGTH]}…" for text in row]
    return {"text": " / ".join(texts), "pieces": [_pieces(text[:SAMPLE_LENGTH], tokenizer) for text in row]}


def _pieces(text: str, tokenizer: Tokenizer) -> str:
    """The pieces of a text, as far as its characters show them."""
    ids, _, offsets = tokenizer.encode_batch_with_offsets([text])
    pieces = zip(ids.tolist(), offsets.tolist(), strict=True)
    return " | ".join(
        f"[UNK {text[start:end]}]" if number == tokenizer.unk_id else text[start:end]
        for number, (start, end) in pieces
        if end > start or number == tokenizer.unk_id
    )
