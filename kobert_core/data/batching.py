"""Which examples make a step, and which of them go through the model together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, NotRequired, TypedDict, cast

import numpy as np
import torch
from torch.nn import functional as F

SORTED_TOGETHER = 64
"""Steps whose examples are sorted by length together: enough to save padding, little enough to stay random."""


INPUTS = ("input_ids", "token_type_ids")

IGNORED = -100
"""The target of what no loss counts, as in PyTorch's `cross_entropy`; where targets are no whole numbers it is NaN."""


class Shape(NamedTuple):
    """How much goes through the model at once."""

    tokens: int
    sequences: int


class PackedInputs(TypedDict):
    """What `packed_encoder.encode` takes of sequences that lie end to end."""

    input_ids: torch.Tensor
    """int64, shape (tokens,), as the next two."""
    token_type_ids: torch.Tensor
    position_ids: torch.Tensor
    starts: torch.Tensor
    """int32, shape (sequences + 1,): sequence i is `starts[i]` up to `starts[i + 1]`."""
    lengths: list[int]
    """The tokens of each sequence."""
    longest: NotRequired[int]
    """After `Batch.fill`: the most tokens of any sequence of the data."""


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model together. Their tokens lie end to end: there is no padding."""

    inputs: PackedInputs
    targets: dict[str, torch.Tensor]
    """What the loss takes besides: tensors of shape (examples, …)."""
    token_targets: dict[str, torch.Tensor] = field(default_factory=dict)
    """The same of shape (tokens,)."""

    @property
    def shape(self) -> Shape:
        """Its tokens, and its sequences."""
        return Shape(len(self.inputs["input_ids"]), len(self.inputs["lengths"]))

    @classmethod
    def of(
        cls,
        lengths: np.ndarray,
        tokens: Mapping[str, np.ndarray],
        targets: Mapping[str, np.ndarray],
        token_targets: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Batch:
        """A batch of examples that lie end to end.

        Args:
            lengths: The tokens of each example, shape (examples,).
            tokens: `input_ids`, `token_type_ids` and `position_ids`, of shape (tokens,).
            targets: Arrays of shape (examples, …).
            token_targets: Arrays of shape (tokens,).
        """
        starts = np.concatenate([[0], np.cumsum(lengths)])
        arrays = {name: torch.from_numpy(array.astype(np.int64, copy=False)) for name, array in tokens.items()}
        inputs = PackedInputs(
            input_ids=arrays["input_ids"],
            token_type_ids=arrays["token_type_ids"],
            position_ids=arrays["position_ids"],
            starts=torch.from_numpy(starts.astype(np.int32)),
            lengths=lengths.tolist(),
        )
        of_examples, of_tokens = (
            {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in part.items()}
            for part in (targets, token_targets)
        )
        return cls(inputs, of_examples, of_tokens)

    @classmethod
    def pack(cls, padded: Mapping[str, torch.Tensor]) -> Batch:
        """A batch from padded tensors as transformers takes them: `attention_mask` tells what is padding."""
        mask = padded["attention_mask"].bool()
        lengths = mask.sum(dim=1)
        inputs = PackedInputs(
            input_ids=padded["input_ids"][mask],
            token_type_ids=padded["token_type_ids"][mask],
            position_ids=torch.arange(mask.shape[1]).expand(mask.shape)[mask],
            starts=F.pad(lengths.cumsum(0), (1, 0)).int(),
            lengths=lengths.tolist(),
        )
        return cls(inputs, {name: padded[name] for name in padded if name not in (*INPUTS, "attention_mask")})

    def padded(self, pad_id: int = 0) -> dict[str, torch.Tensor]:
        """The batch as transformers takes it: what `pack` was given, of shape (examples, width), int64."""
        mask = is_token(self.inputs["lengths"])
        padded = {"attention_mask": mask.long()}
        parts = {name: (part, IGNORED) for name, part in self.token_targets.items()}
        parts |= {"input_ids": (self.inputs["input_ids"], pad_id), "token_type_ids": (self.inputs["token_type_ids"], 0)}
        for name, (part, fill) in parts.items():
            padded[name] = torch.full(mask.shape, fill, dtype=part.dtype).masked_scatter_(mask, part)
        return padded | self.targets

    def fill(self, longest: int) -> Batch:
        """The batch with sequences behind it that no loss counts, up to one of few shapes.

        Args:
            longest: The most tokens of any sequence of the data.
        """
        shape = filled_shape(self.shape, longest)
        more = Shape(shape.tokens - self.shape.tokens, shape.sequences - self.shape.sequences)
        lengths = [more.tokens // more.sequences + (n < more.tokens % more.sequences) for n in range(more.sequences)]
        ends = self.shape.tokens + torch.tensor(lengths).cumsum(0)
        inputs = PackedInputs(
            input_ids=F.pad(self.inputs["input_ids"], (0, more.tokens)),
            token_type_ids=F.pad(self.inputs["token_type_ids"], (0, more.tokens)),
            position_ids=F.pad(self.inputs["position_ids"], (0, more.tokens)),
            starts=torch.cat([self.inputs["starts"], ends.int()]),
            lengths=[*self.inputs["lengths"], *lengths],
            longest=longest,
        )
        targets = {name: _fill_up(target, more.sequences) for name, target in self.targets.items()}
        of_tokens = {name: _fill_up(target, more.tokens) for name, target in self.token_targets.items()}
        return Batch(inputs, targets, of_tokens)

    def to(self, device: torch.device) -> Batch:
        """The batch on the device. The copy to CUDA is from pinned memory, and nobody waits for it."""
        if device.type != "cuda":
            return self
        moved = {name: part.pin_memory().to(device, non_blocking=True) for name, part in self._tensors().items()}
        inputs = cast(PackedInputs, {name: moved.get(name, value) for name, value in self.inputs.items()})
        targets, of_tokens = ({name: moved[name] for name in part} for part in (self.targets, self.token_targets))
        return Batch(inputs, targets, of_tokens)

    def copy_to(self, other: Batch) -> None:
        """Put this batch where one of the same shape lies on a CUDA device, likewise."""
        places = other._tensors()
        for name, part in self._tensors().items():
            places[name].copy_(part.pin_memory(), non_blocking=True)

    def _tensors(self) -> dict[str, torch.Tensor]:
        inputs = {name: part for name, part in self.inputs.items() if isinstance(part, torch.Tensor)}
        return inputs | self.targets | self.token_targets


def is_token(lengths: Sequence[int]) -> torch.Tensor:
    """Where sequences of these lengths have tokens when they are padded, bool of shape (sequences, width)."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def _fill_up(target: torch.Tensor, more: int) -> torch.Tensor:
    """A target of more examples, which no loss counts."""
    uncounted = torch.nan if target.is_floating_point() else IGNORED
    return torch.cat([target, target.new_full((more, *target.shape[1:]), uncounted)])


def places_in(lengths: np.ndarray) -> np.ndarray:
    """The place of each token in its example, int64, shape (tokens,)."""
    return runs(np.zeros_like(lengths), lengths)


def runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers from each start on, so many of each, one run after the other: int64, shape (sum of the lengths,)."""
    ends = np.cumsum(lengths, dtype=np.int64)
    numbers: np.ndarray = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return numbers


def filled_shape(shape: Shape, longest: int) -> Shape:
    """The next of few shapes, 256 tokens or a sixteenth apart, with room for sequences of 1 to `longest` tokens.

    A usual batch size and a little less have the same: a step is cut into pieces that differ by one example.
    """
    sequences = _round_up(shape.sequences + 4, least=8)
    while True:
        tokens = _round_up(shape.tokens + sequences - shape.sequences, least=256)
        if tokens - shape.tokens <= (sequences - shape.sequences) * longest:
            return Shape(tokens, sequences)
        sequences = _round_up(sequences + 1, least=8)


def _round_up(count: int, *, least: int) -> int:
    """To a multiple of `least`, or of the power of two that makes 16 steps to twice as much, where that is more."""
    step = max(least, 1 << max(0, count.bit_length() - 5))
    return -(-count // step) * step


class StepOrder:
    """The examples of every step, in an order that follows from (seed, epoch) alone.

    The examples of a step are drawn first and cut into micro-batches after: how they are cut never
    changes which they are. Examples of about the same length come into one step, to save padding.
    """

    def __init__(self, lengths: np.ndarray, *, examples_per_step: int, seed: int) -> None:
        """`lengths` are the tokens of each example, shape (examples,)."""
        self._lengths, self._size, self._seed = lengths, examples_per_step, seed
        self.steps_per_epoch = math.ceil(len(lengths) / examples_per_step)
        self._epoch: tuple[int, list[np.ndarray]] | None = None

    def examples_of(self, step: int) -> np.ndarray:
        """Indices of the examples of a step, counted from 0 over all epochs; the last may be short."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._draw(epoch))
        return self._epoch[1][position]

    def _draw(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._lengths))
        together = SORTED_TOGETHER * self._size
        by_length = [
            part[np.argsort(self._lengths[part], kind="stable")]
            for part in (order[start : start + together] for start in range(0, len(order), together))
        ]
        order = np.concatenate(by_length)
        steps = [order[start : start + self._size] for start in range(0, len(order), self._size)]
        return [steps[index] for index in generator.permutation(len(steps))]


def micro_batches(
    indices: np.ndarray,
    lengths: np.ndarray,
    *,
    batch_size: int,
    max_tokens: int | None = None,
    rank: int = 0,
    workers: int = 1,
) -> list[np.ndarray]:
    """The part of a step that one worker does: pieces of at most `batch_size` examples and `max_tokens` tokens.

    All pieces of all workers together hold every example once. A worker's list is empty when the step has
    fewer examples than there are workers. A single example may have more than `max_tokens`.
    """
    by_length = indices[np.argsort(lengths[indices], kind="stable")]
    rounds = math.ceil(len(indices) / (workers * batch_size))
    if max_tokens is not None:  # fewer cannot be enough
        tokens = int(np.minimum(lengths[indices], max_tokens).sum())
        rounds = max(rounds, math.ceil(tokens / (workers * max_tokens)))
    pieces = np.array_split(by_length, workers * rounds)
    while max_tokens is not None and any(len(piece) > 1 and lengths[piece].sum() > max_tokens for piece in pieces):
        rounds += 1
        pieces = np.array_split(by_length, workers * rounds)
    return [piece for piece in pieces[rank::workers] if len(piece)]


def batches_of_tokens(lengths: np.ndarray, *, tokens: int) -> list[np.ndarray]:
    """All examples, longest first, in batches of at most `tokens` tokens (or of one longer example)."""
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches, start = [], 0
    while start < len(order):
        before = ends[start] - lengths[order[start]]
        stop = max(start + 1, int(np.searchsorted(ends, before + tokens, side="right")))
        batches.append(order[start:stop])
        start = stop
    return batches
