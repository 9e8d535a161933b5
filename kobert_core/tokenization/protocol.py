"""What tasks and encoders need of a tokenizer, whatever kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Tokenizer(Protocol):
    """A tokenizer with the special tokens of BERT, by whatever name. It never changes, and can be pickled.

    `tests/unit/kobert_core/tokenization/test_every_tokenizer.py` asks the same of each.
    """

    @property
    def unk_id(self) -> int:
        """The id of what the vocabulary does not know."""
        ...

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        ...

    @property
    def cls_id(self) -> int:
        """The id before every text or pair."""
        ...

    @property
    def sep_id(self) -> int:
        """The id after every text, and after both of a pair."""
        ...

    @property
    def pair_separators(self) -> int:
        """How many `sep_id` lie between both of a pair: 1 in BERT, 2 in RoBERTa."""
        ...

    @property
    def pair_type(self) -> int:
        """The token type of the second of a pair: 1 in BERT, 0 where token types tell nothing."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest of all that ids and offsets depend on: the key of cached features."""
        ...

    def __len__(self) -> int:
        """The number of tokens, the special ones included."""
        ...

    def encode_batch_flat(self, texts: Sequence[str], /) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of many texts in one array, without special tokens.

        Returns:
            ids of shape (total,), and bounds of shape (len(texts) + 1,): the ids of text i are
            `ids[bounds[i]:bounds[i + 1]]`.
        """
        ...

    def encode_batch_with_offsets(
        self, texts: Sequence[str], /
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """`encode_batch_flat`, and where each token lies in its text as the user gave it.

        Returns:
            ids and bounds, and offsets of shape (total, 2): half-open character positions, of which neither the
            starts nor the ends of a text descend.
        """
        ...

    def encode_pair(self, text: str, pair: str, max_length: int | None = None) -> tuple[list[int], list[int]]:
        """`[CLS] text [SEP] pair [SEP]` with all separators, and the token types: 0 up to the pair, then `pair_type`.

        Beyond `max_length` ids, tokens are cut from the end of the longer one, as `longest_first` of transformers does.
        """
        ...

    def save_pretrained(self, folder: str | PathLike[str], /) -> object:
        """Write the files that `transformers.AutoTokenizer` loads, without custom code."""
        ...


def keep_longest_first(
    first: NDArray[np.int64] | int, second: NDArray[np.int64] | int, room: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many tokens of either text of a pair are kept, as `longest_first` of the `tokenizers` library does it.

    Args:
        first, second: The tokens of one pair, or arrays of those of many.
        room: Tokens that a pair may have.
    """
    first, second = np.asarray(first), np.asarray(second)
    shorter = np.minimum(np.minimum(first, second), room // 2)
    # Equal lengths and an odd room: the pair keeps one more.
    kept = np.where(first > second, room - shorter, shorter)
    fits = first + second <= room
    return np.where(fits, first, kept), np.where(fits, second, room - kept)
