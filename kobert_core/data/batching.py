"""Which examples make an update, and which of them go through the model together."""

from __future__ import annotations

import math

import numpy as np

WINDOW = 64
"""Updates whose examples are sorted by length together: enough to save padding, little enough to stay random."""


class UpdateOrder:
    """The examples of every update, in an order that follows from (seed, epoch) alone.

    The examples of an update are drawn first and cut into micro-batches after: how they are cut never
    changes which they are. Examples of about the same length come into one update, to save padding.
    """

    def __init__(self, lengths: np.ndarray, *, examples_per_update: int, seed: int) -> None:
        """`lengths` are the tokens of each example, shape (examples,)."""
        self._lengths, self._size, self._seed = lengths, examples_per_update, seed
        self.updates_per_epoch = math.ceil(len(lengths) / examples_per_update)
        self._epoch: tuple[int, list[np.ndarray]] | None = None

    def update(self, number: int) -> np.ndarray:
        """Indices of the examples of update `number`, counted from 0 over all epochs; the last may be short."""
        epoch, position = divmod(number, self.updates_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._draw(epoch))
        return self._epoch[1][position]

    def _draw(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._lengths))
        window = WINDOW * self._size
        by_length = [
            part[np.argsort(self._lengths[part], kind="stable")]
            for part in (order[start : start + window] for start in range(0, len(order), window))
        ]
        order = np.concatenate(by_length)
        updates = [order[start : start + self._size] for start in range(0, len(order), self._size)]
        return [updates[index] for index in generator.permutation(len(updates))]


def micro_batches(
    indices: np.ndarray, lengths: np.ndarray, *, batch_size: int, rank: int = 0, workers: int = 1
) -> list[np.ndarray]:
    """The part of an update that one worker does: pieces of at most `batch_size` examples.

    All pieces of all workers together hold every example once. A worker's list is empty when the update has
    fewer examples than there are workers.
    """
    pieces = workers * math.ceil(len(indices) / (workers * batch_size))
    by_length = indices[np.argsort(lengths[indices], kind="stable")]
    return [piece for piece in np.array_split(by_length, pieces)[rank::workers] if len(piece)]


def batches_of_tokens(lengths: np.ndarray, *, tokens: int) -> list[np.ndarray]:
    """All examples, longest first, in batches of at most `tokens` padded tokens (or of one longer example)."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, tokens // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches
