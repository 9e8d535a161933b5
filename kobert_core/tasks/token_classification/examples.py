"""Texts with entities as arrays, and windows over their tokens.

The truth lies in characters: each has its tag, and a token has that of its first character. So no entity is lost in an
unknown piece, and scores are over the whole text, whatever the tokens. A text that is too long for one window has
several, which overlap; each of its tokens counts in one of them, where it has the most context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kobert_core.code_points import code_points
from kobert_core.data.batching import IGNORED, Batch, places_in, runs
from kobert_core.tasks.token_classification.sentences import Sentences
from kobert_core.tokenization import Tokenizer

Arrays = dict[str, np.ndarray]

CODE_VERSION = 2
"""Part of the cache's keys: raised when any of the arrays would come out differently."""

OUTSIDE = 0
"""The tag `O`. Label number n has the tags 2n + 1, `B-`, and 2n + 2, `I-`."""


def tag_names(labels: Sequence[str]) -> list[str]:
    """The tags in the order of their numbers."""
    return ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]


def begins(tags: np.ndarray) -> NDArray[np.bool_]:
    """Which of these are `B-`."""
    return np.asarray(tags % 2 == 1)


def inside(tags: np.ndarray) -> np.ndarray:
    """Each tag as it is on what follows in the same entity: `I-` for `B-`."""
    return tags + begins(tags)


def text_arrays(found: Sentences, labels: Sequence[str]) -> Arrays:
    """All that is needed of a file, and of no tokenizer.

    Returns:
        `codes`, uint32: all texts as code points, end to end; text i is `codes[starts[i]:starts[i + 1]]`;
        `tags`, int16: of each of these characters, `I-` on blanks within an entity;
        `units`, int32, shape (units, 2): where each of what the file tags lies in `codes`: words, or the characters
        that are no blanks; those of text i are `units[unit_starts[i]:unit_starts[i + 1]]`;
        `ids`, str, shape (texts,); `bad_lines`, int64, or str where there are several files, and `bad_reasons`, str,
        shape (bad,).
    """
    number_of = {label: number for number, label in enumerate(labels)}
    codes, starts = code_points([sentence.text for sentence in found.usable])
    tags = np.zeros(len(codes), dtype=np.int16)
    units: list[NDArray[np.int32]] = []
    for sentence, start in zip(found.usable, starts[:-1].tolist(), strict=True):
        for span in sentence.spans:
            number = 2 * number_of[span.label] + 1
            tags[start + span.start : start + span.end] = number + 1
            tags[start + span.start] = number
        words = sentence.words
        if words is None:
            words = [(at, at + 1) for at, character in enumerate(sentence.text) if not character.isspace()]
        units.append(np.array(words, dtype=np.int32).reshape(-1, 2) + np.int32(start))
    return {
        "codes": codes,
        "starts": starts,
        "tags": tags,
        "units": np.concatenate(units),
        "unit_starts": np.cumsum([0, *map(len, units)], dtype=np.int64),
        "ids": np.array([sentence.id for sentence in found.usable], dtype=np.str_),
        "bad_lines": np.array([one.line for one in found.bad]) if found.bad else np.zeros(0, dtype=np.int64),
        "bad_reasons": np.array([one.reason for one in found.bad], dtype=np.str_),
    }


def piece_arrays(file: Arrays, texts: Sequence[str], tokenizer: Tokenizer) -> Arrays:
    """The tokens of every text, without special ones.

    Returns:
        `pieces`, int32: ids of all texts, end to end; those of text i are
        `pieces[piece_starts[i]:piece_starts[i + 1]]`;
        `offsets`, int32, shape (pieces, 2): half-open spans in `codes`, never descending;
        `targets`, int16: the tag of each one's first character, `B-` if it is the first token of its entity. A token
        without characters, such as a blank, is in the entity that it stands within.
    """
    pieces, piece_starts, offsets = tokenizer.encode_batch_with_offsets(texts)
    offsets = offsets + np.repeat(file["starts"][:-1], np.diff(piece_starts))[:, None].astype(np.int32)
    real = offsets[:, 0] < offsets[:, 1]
    tags = np.append(file["tags"], np.int16(OUTSIDE))[offsets[:, 0]]
    entity = np.cumsum(begins(file["tags"]))[offsets[real, 0]] * (tags[real] != OUTSIDE)
    is_first = (entity != np.concatenate([[0], entity[:-1]])) & (entity != 0)
    targets = np.where(begins(tags), np.int16(OUTSIDE), tags)
    targets[real] = inside(tags[real]) - is_first
    return {"pieces": pieces, "piece_starts": piece_starts, "offsets": offsets, "targets": targets}


class Windows(NamedTuple):
    """Parts of the tokens of texts, one after the other: arrays of shape (windows,)."""

    text: NDArray[np.int64]
    first: NDArray[np.int64]
    """Its first token, counted in its text."""
    size: NDArray[np.int64]
    counted: NDArray[np.int64]
    """Shape (windows, 2): from which of its tokens up to which one it counts. Each token of a text counts once."""


def windows_of(sizes: NDArray[np.int64], *, room: int, step: int) -> Windows:
    """The windows of texts of these sizes in tokens, which hold `room` tokens each and begin `step` apart."""
    windows = 1 + -(-np.maximum(sizes - room, 0) // step)
    ends = np.cumsum(windows)
    text = np.repeat(np.arange(len(sizes)), windows)
    number = np.arange(len(text)) - (ends - windows)[text]
    first = number * step
    size = np.minimum(room, sizes[text] - first)
    is_first, is_last = number == 0, number == windows[text] - 1
    shared = np.maximum(room - step, 0)  # with the next window, and with the one before
    upto = np.where(is_last, size, size - shared + shared // 2)
    return Windows(text, first, size, np.stack([np.where(is_first, 0, shared // 2), upto], axis=1))


class TokenExamples:
    """Windows over the arrays of one file; an example is a window, and a text has all of its windows here."""

    unit: ClassVar[str] = "windows"

    def __init__(
        self,
        file: Arrays,
        pieces: Arrays,
        tokenizer: Tokenizer,
        *,
        room: int,
        step: int,
        texts: np.ndarray | None = None,
    ) -> None:
        """Views over the arrays of `text_arrays` and `piece_arrays`.

        Args:
            file, pieces: Their arrays.
            tokenizer: Gives the special ids.
            room: How many tokens of a text a window holds.
            step: From the start of a window to that of the next one.
            texts: Which texts are seen, in this order; all when not given.
        """
        self.file, self.pieces, self._tokenizer = file, pieces, tokenizer
        self._room, self._step = room, step
        self.texts = np.arange(len(file["ids"])) if texts is None else np.asarray(texts)
        starts = pieces["piece_starts"]
        windows = windows_of((starts[1:] - starts[:-1])[self.texts], room=room, step=step)
        self.windows = windows
        self.window_text = windows.text
        """Of each window its text, as a place in `texts`."""
        self.begin = starts[self.texts][windows.text] + windows.first
        """Of each window its first token's place in `pieces`."""
        self.lengths = windows.size + 2
        self.counted = windows.counted[:, 1] - windows.counted[:, 0]
        """Of each window how many tokens count in it."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __str__(self) -> str:
        return f"{len(self.texts):,} texts in {len(self):,} windows"

    @property
    def items(self) -> int:
        """The number of texts."""
        return len(self.texts)

    @property
    def clusters(self) -> np.ndarray:
        """Each text is an observation of its own."""
        return np.arange(len(self.texts))

    def rows_of(self, texts: np.ndarray) -> np.ndarray:
        """The windows of the texts at these positions."""
        starts = np.searchsorted(self.window_text, texts)
        return runs(starts, np.searchsorted(self.window_text, texts, side="right") - starts)

    def take(self, texts: np.ndarray) -> TokenExamples:
        """The texts at these positions, with their windows, over the same memory."""
        return TokenExamples(
            self.file, self.pieces, self._tokenizer, room=self._room, step=self._step, texts=self.texts[texts]
        )

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows at `indices`, as the model takes them; the target of each token is in `labels`."""
        lengths = self.lengths[indices]
        rows, places = np.repeat(np.arange(len(indices)), lengths), places_in(lengths)
        is_piece = (places > 0) & (places < lengths[rows] - 1)
        ids = np.full(len(rows), self._tokenizer.sep_id, dtype=np.int64)
        ids[places == 0] = self._tokenizer.cls_id
        at = self.begin[indices][rows] + places - 1
        ids[is_piece] = self.pieces["pieces"][at[is_piece]]
        counted = self.windows.counted[indices][rows] + 1
        counts = is_piece & (places >= counted[:, 0]) & (places < counted[:, 1])
        labels = np.full(len(rows), IGNORED, dtype=np.int64)
        labels[counts] = self.pieces["targets"][at[counts]]
        tokens = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "position_ids": places}
        return Batch.of(lengths, tokens, {}, {"labels": labels})
