"""Labelled texts as arrays of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from kobert_core.data.batching import Batch, places_in
from kobert_core.tasks.text_classification.rows import Rows
from kobert_core.tokenization import Tokenizer

CODE_VERSION = 2
"""Part of the cache's key: raised when files would be read, or arrays come out, differently."""


class TextExamples:
    """Labelled texts, tokenized.

    All ids lie end to end in one array without special tokens and untruncated, so that one memory map
    serves every `max_length` and every split.
    """

    unit: ClassVar[str] = "examples"

    def __init__(
        self,
        ids: np.ndarray,
        starts: np.ndarray,
        labels: np.ndarray,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        rows: np.ndarray | None = None,
    ) -> None:
        """Views over the arrays of `tokenize`.

        Args:
            ids: int32, shape (pieces of all texts,).
            starts: int64, shape (texts + 1,): text i is `ids[starts[i]:starts[i + 1]]`.
            labels: int64, shape (texts,); class indices.
            tokenizer: Gives the special ids.
            max_length: Longest example in tokens, `[CLS]` and `[SEP]` counted.
            rows: Which texts are seen, in this order; all when not given.
        """
        self._ids, self._starts, self._labels = ids, starts, labels
        self._tokenizer, self._max_length = tokenizer, max_length
        self.rows = np.arange(len(labels)) if rows is None else np.asarray(rows)
        self.labels = np.asarray(labels[self.rows])
        self.lengths = np.minimum(starts[self.rows + 1] - starts[self.rows] + 2, max_length)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cut(self) -> int:
        """How many texts are longer than the longest example."""
        return int((self._starts[self.rows + 1] - self._starts[self.rows] + 2 > self._max_length).sum())

    def __str__(self) -> str:
        return f"{len(self):,} examples"

    @property
    def items(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at `indices`, as the model takes them; the target is `labels`."""
        lengths = self.lengths[indices]
        places, ends = places_in(lengths), np.cumsum(lengths)
        ids = np.empty(len(places), dtype=np.int64)
        is_piece = np.ones(len(places), dtype=bool)
        is_piece[ends - lengths] = is_piece[ends - 1] = False
        at = np.repeat(self._starts[self.rows[indices]] - 1, lengths) + places
        ids[is_piece] = self._ids[at[is_piece]]
        ids[ends - lengths], ids[ends - 1] = self._tokenizer.cls_id, self._tokenizer.sep_id
        tokens = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "position_ids": places}
        return Batch.of(lengths, tokens, {"labels": self.labels[indices]})

    def take(self, indices: np.ndarray) -> TextExamples:
        """The examples at `indices`, over the same memory."""
        return TextExamples(
            self._ids,
            self._starts,
            self._labels,
            self._tokenizer,
            max_length=self._max_length,
            rows=self.rows[indices],
        )


def tokenize_parts(parts: Iterable[Rows], tokenizer: Tokenizer) -> Iterator[dict[str, np.ndarray]]:
    """`tokenize` of a file that is read in parts; joined, they are what it gives for the whole."""
    begin = 0
    for number, rows in enumerate(parts):
        arrays = tokenize(rows.texts, rows.labels, tokenizer)
        starts = arrays["starts"] + begin
        begin = starts[-1]
        yield arrays | {"starts": starts[1:] if number else starts}


def tokenize(texts: Sequence[str], labels: np.ndarray, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """The arrays that `TextExamples` views: `ids`, `starts` and `labels`."""
    ids, starts = tokenizer.encode_batch_flat(texts)
    return {"ids": ids, "starts": starts, "labels": np.asarray(labels, dtype=np.int64)}
