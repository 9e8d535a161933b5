"""From the tags of tokens to those of what the file tags, and to entities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kobert_core.data.batching import runs
from kobert_core.tasks.token_classification.examples import (
    OUTSIDE,
    TokenExamples,
    begins,
    inside,
)

Outputs = dict[str, np.ndarray]
"""`tags`, integers, shape (windows, width): the likeliest tag of each token; `probabilities`, float, of the same shape:
how likely that is; `losses`, float, shape (windows,): added up over the tokens that count in a window."""


class Tagged(NamedTuple):
    """The units of some texts, end to end: words, or characters that are no blanks."""

    units: NDArray[np.int32]
    """Where each lies in the file's `codes`, shape (units, 2)."""
    text: NDArray[np.int64]
    """Of each unit its text, as a place among those of the examples."""
    tags: np.ndarray
    """The file's tag of each."""


class Entities(NamedTuple):
    """Entities in the order of the texts: arrays of shape (entities,)."""

    first: NDArray[np.int64]
    """The unit that it begins with."""
    last: NDArray[np.int64]
    label: NDArray[np.int64]

    def keys(self) -> set[tuple[int, int, int]]:
        """Something to compare them by."""
        return set(zip(*(part.tolist() for part in self), strict=True))


def tagged_units(examples: TokenExamples) -> Tagged:
    """What the file says of the texts of these examples."""
    bounds = examples.file["unit_starts"]
    sizes = (bounds[1:] - bounds[:-1])[examples.texts]
    units = examples.file["units"][runs(bounds[examples.texts], sizes)]
    return Tagged(units, np.repeat(np.arange(len(sizes)), sizes), examples.file["tags"][units[:, 0]])


def predicted(examples: TokenExamples, outputs: Outputs, tagged: Tagged) -> tuple[np.ndarray, np.ndarray]:
    """The tag that a model gives each unit, and how sure it is.

    A unit has the tag of the first token that lies in it. A token that lies in several gives `B-` to the first alone. A
    unit without a token (the tokenizer left it out) is within an entity where the next one is.
    """
    pieces = examples.pieces
    tags = np.zeros(len(pieces["pieces"]), dtype=np.int64)
    sure = np.ones(len(tags), dtype=np.float32)
    window, place = np.nonzero(_counted(examples, outputs["tags"].shape[1]))
    at = examples.begin[window] + place - 1
    tags[at], sure[at] = outputs["tags"][window, place], outputs["probabilities"][window, place]

    real = np.flatnonzero(pieces["offsets"][:, 0] < pieces["offsets"][:, 1])
    spans = pieces["offsets"][real]
    token = np.searchsorted(spans[:, 1], tagged.units[:, 0], side="right")
    has_token = token < len(real)
    token = np.minimum(token, max(len(real) - 1, 0))
    if not len(real):
        return np.full(len(tagged.tags), OUTSIDE), np.ones(len(tagged.tags), dtype=np.float32)
    has_token &= spans[token, 0] < tagged.units[:, 1]
    # Within one text a token's earlier units are next to each other.
    again = np.concatenate([[False], (token[1:] == token[:-1]) & has_token[:-1]]) & has_token
    given = tags[real[token]]
    given = np.where(has_token, np.where(again, inside(given), given), OUTSIDE)
    return _without_gaps(given, has_token, tagged.text), np.where(has_token, sure[real[token]], 1.0)


def _counted(examples: TokenExamples, width: int) -> NDArray[np.bool_]:
    """Which places of each window are tokens that count there, shape (windows, width)."""
    places = np.arange(width)
    counted = examples.windows.counted + 1
    return np.asarray((places >= counted[:, :1]) & (places < counted[:, 1:]))


def _without_gaps(tags: np.ndarray, has_token: np.ndarray, text: np.ndarray) -> np.ndarray:
    size = len(tags)
    following = np.where(has_token, np.arange(size), size)
    following = np.minimum.accumulate(following[::-1])[::-1]
    gaps = np.flatnonzero(~has_token & (following < size))
    gaps = gaps[text[gaps] == text[following[gaps]]]
    of_next = tags[following[gaps]]
    tags[gaps] = np.where(begins(of_next), OUTSIDE, of_next)
    return tags


def entities_of(tags: np.ndarray, text: np.ndarray) -> Entities:
    """The entities of units, by strict IOB2: one begins with `B-`, and an `I-` that continues none is none."""
    label = (tags + 1) // 2
    continues = np.zeros(len(tags), dtype=bool)
    is_inside = (tags != OUTSIDE) & ~begins(tags)
    continues[1:] = is_inside[1:] & (label[1:] == label[:-1]) & (text[1:] == text[:-1])
    first = np.flatnonzero(~continues)
    last = np.append(first[1:], len(tags)) - 1
    begun = begins(tags[first])
    return Entities(first[begun], last[begun], label[first[begun]] - 1)


def perfect_outputs(examples: TokenExamples) -> Outputs:
    """What a model without error would say."""
    width = int(examples.lengths.max(initial=1))
    tags = np.zeros((len(examples), width), dtype=np.int16)
    window, place = np.nonzero(_counted(examples, width))
    tags[window, place] = examples.pieces["targets"][examples.begin[window] + place - 1]
    return {
        "tags": tags,
        "probabilities": np.ones(tags.shape, dtype=np.float32),
        "losses": np.zeros(len(examples), dtype=np.float32),
    }
