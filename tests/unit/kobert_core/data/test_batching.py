"""Steps and micro-batches: every example once, however it is cut."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kobert_core.data.batching import StepOrder, batches_of_tokens, micro_batches


@given(examples=st.integers(1, 400), per_step=st.integers(1, 64), seed=st.integers(0, 10), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_example_once(examples: int, per_step: int, seed: int, epoch: int) -> None:
    lengths = np.random.default_rng(seed).integers(3, 50, size=examples)
    order = StepOrder(lengths, examples_per_step=per_step, seed=seed)
    begin = epoch * order.steps_per_epoch
    steps = [order.examples_of(begin + i) for i in range(order.steps_per_epoch)]
    assert sorted(np.concatenate(steps)) == list(range(examples))
    assert sum(len(step) != per_step for step in steps) <= 1


@given(
    size=st.integers(1, 100),
    batch_size=st.integers(1, 40),
    workers=st.integers(1, 5),
    max_tokens=st.none() | st.integers(1, 900),
)
def test_all_pieces_of_all_workers_hold_every_example_once(
    size: int, batch_size: int, workers: int, max_tokens: int | None
) -> None:
    indices = np.random.default_rng(size).permutation(size)
    lengths = np.random.default_rng(0).integers(3, 50, size=size)
    pieces = [
        micro_batches(indices, lengths, batch_size=batch_size, max_tokens=max_tokens, rank=rank, workers=workers)
        for rank in range(workers)
    ]
    flat = [piece for mine in pieces for piece in mine]
    assert sorted(np.concatenate(flat)) == list(range(size))
    assert all(0 < len(piece) <= batch_size for piece in flat)
    assert all(len(piece) == 1 or max_tokens is None or lengths[piece].sum() <= max_tokens for piece in flat)
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=200), tokens=st.integers(1, 2000))
def test_evaluation_batches_hold_every_example_once_within_their_budget(lengths: list[int], tokens: int) -> None:
    sizes = np.array(lengths)
    batches = batches_of_tokens(sizes, tokens=tokens)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sizes[batch].sum() <= tokens for batch in batches)
    for batch, following in itertools.pairwise(batches):
        assert sizes[batch].sum() + sizes[following[0]] > tokens, "none is cut short"
        assert sizes[batch].min() >= sizes[following].max()
