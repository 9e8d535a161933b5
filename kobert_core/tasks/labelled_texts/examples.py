"""Labelled texts, or pairs of them, as arrays of token ids."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Self

import numpy as np

from kobert_core.data.batching import Batch, places_in, runs
from kobert_core.errors import InputError
from kobert_core.tasks.labelled_texts.config import Truncate
from kobert_core.tasks.labelled_texts.rows import Rows
from kobert_core.tokenization import Tokenizer
from kobert_core.tokenization.protocol import keep_longest_first

CODE_VERSION = 2
"""Part of the cache's key: raised when files would be read, or arrays come out, differently."""


class Texts:
    """The ids of many texts, end to end in one array without special tokens and untruncated, so that one memory map
    serves every `max_length` and every split."""

    def __init__(self, ids: np.ndarray, starts: np.ndarray, truncate: Truncate) -> None:
        """Views over the arrays of `tokenize`.

        Args:
            ids: int32, shape (pieces of all texts,).
            starts: int64, shape (texts + 1,): text i is `ids[starts[i]:starts[i + 1]]`.
            truncate: Which pieces of a text are kept where there is no room for all.
        """
        # A view of a memory map is looked up in half the time.
        self._ids, self._starts, self._truncate = np.asarray(ids), np.asarray(starts), truncate

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """The pieces of some texts, int64."""
        lengths: np.ndarray = self._starts[rows + 1] - self._starts[rows]
        return lengths

    def kept(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The pieces of some texts, end to end; of each as many as `counts` says."""
        at = runs(self._starts[rows], counts)
        if self._truncate != "head":
            first = np.zeros_like(counts) if self._truncate == "tail" else counts // 4
            left_out = self.lengths(rows) - counts
            at += np.repeat(left_out, counts) * (places_in(counts) >= np.repeat(first, counts))
        kept: np.ndarray = self._ids[at]
        return kept


class TextExamples:
    """Labelled texts, tokenized."""

    unit: ClassVar[str] = "examples"

    def __init__(
        self,
        ids: np.ndarray,
        starts: np.ndarray,
        labels: np.ndarray,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        truncate: Truncate = "head",
        pair_ids: np.ndarray | None = None,
        pair_starts: np.ndarray | None = None,
        soft_labels: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        """Views over the arrays of `tokenize`.

        Args:
            ids, starts: The texts, as in `Texts`.
            labels: Shape (texts, …): class indices, or what else is to be learned of each.
            tokenizer: Gives the special ids.
            max_length: Longest example in tokens, special ones counted.
            truncate: Which pieces are kept of what is longer.
            pair_ids, pair_starts: The second texts, where examples are pairs.
            soft_labels: float32, shape (texts, classes): what a teacher says of each, NaN where it says nothing.
            rows: Which texts are seen, in this order; all when not given.
        """
        self._soft_labels = soft_labels
        self._labels, self._tokenizer, self._max_length = labels, tokenizer, max_length
        self._texts = [Texts(ids, starts, truncate)]
        self._specials = 2
        if pair_ids is not None and pair_starts is not None:
            self._texts.append(Texts(pair_ids, pair_starts, truncate))
            self._specials += tokenizer.pair_separators
        self._room = max_length - self._specials
        if self._room < len(self._texts):
            raise InputError(f"`max_length: {max_length}` leaves no room for texts", where="data.max_length")
        self._take_rows(np.arange(len(labels)) if rows is None else np.asarray(rows))

    def _take_rows(self, rows: np.ndarray) -> None:
        """The examples are those of some rows, in this order."""
        self.rows = rows
        self.labels = np.asarray(self._labels[rows])
        lengths = [texts.lengths(rows) for texts in self._texts]
        if len(lengths) == 2:
            self._kept = [*keep_longest_first(lengths[0], lengths[1], self._room)]
        else:
            self._kept = [np.minimum(lengths[0], self._room)]
        self.whole_lengths = np.stack(lengths).sum(axis=0) + self._specials
        self.lengths = np.stack(self._kept).sum(axis=0) + self._specials

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cut(self) -> int:
        """How many examples are longer than the longest one."""
        return int((self.whole_lengths > self._max_length).sum())

    def __str__(self) -> str:
        return f"{len(self):,} examples"

    @property
    def items(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at `indices`, as the model takes them; targets are `labels`, and `soft_labels` where there are
        some."""
        rows, lengths = self.rows[indices], self.lengths[indices]
        begins = np.cumsum(lengths) - lengths
        ids = np.full(lengths.sum(), self._tokenizer.sep_id, dtype=np.int64)
        types = np.zeros_like(ids)
        ids[begins] = self._tokenizer.cls_id
        at = begins + 1
        for number, (texts, kept) in enumerate(zip(self._texts, self._kept, strict=True)):
            counts = kept[indices]
            ids[runs(at, counts)] = texts.kept(rows, counts)
            if number:
                types[runs(at, counts + 1)] = self._tokenizer.pair_type
            at = at + counts + self._tokenizer.pair_separators
        tokens = {"input_ids": ids, "token_type_ids": types, "position_ids": places_in(lengths)}
        targets = {"labels": self.labels[indices]}
        if self._soft_labels is not None:
            targets["soft_labels"] = self._soft_labels[rows]
        return Batch.of(lengths, tokens, targets)

    @property
    def clusters(self) -> np.ndarray:
        """Each row is an observation of its own."""
        return np.arange(len(self.rows))

    def rows_of(self, indices: np.ndarray) -> np.ndarray:
        """A row is one example."""
        return indices

    def take(self, indices: np.ndarray) -> Self:
        """The examples at `indices`, over the same memory."""
        taken = copy.copy(self)
        taken._take_rows(self.rows[indices])
        return taken


def tokenize_parts(parts: Iterable[Rows], tokenizer: Tokenizer) -> Iterator[dict[str, np.ndarray]]:
    """`tokenize` of a file that is read in parts; joined, they are what it gives for the whole."""
    return end_to_end(tokenize(rows.texts, rows.labels, tokenizer, rows.pairs) for rows in parts)


def end_to_end(parts: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of `tokenize` of one text after the other, so that they can be joined: where a text starts is counted
    from the first part's beginning."""
    begins: dict[str, int] = {}
    for arrays in parts:
        for name in [name for name in arrays if name.endswith("starts")]:
            begin = begins.get(name)
            starts = arrays[name] + (begin or 0)
            begins[name] = int(starts[-1])
            arrays[name] = starts if begin is None else starts[1:]
        yield arrays


def tokenize(
    texts: Sequence[str], labels: np.ndarray, tokenizer: Tokenizer, pairs: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays that `TextExamples` views: `ids`, `starts` and `labels`, of pairs `pair_ids` and `pair_starts` too."""
    ids, starts = tokenizer.encode_batch_flat(texts)
    arrays: dict[str, np.ndarray] = {"ids": ids, "starts": starts, "labels": labels}
    if pairs is not None:
        arrays["pair_ids"], arrays["pair_starts"] = tokenizer.encode_batch_flat(pairs)
    return arrays
