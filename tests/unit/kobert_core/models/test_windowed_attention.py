"""Attention to a window within each sequence: what CUDA does without a kernel for it, against the CPU's way."""

from __future__ import annotations

import pytest
import torch

from kobert_core.packed.attention import Bounds, Weighting, _by_length, _by_padding

LENGTHS = [3, 9, 9, 14]


@pytest.mark.parametrize("window", [1, 4, 20])
def test_both_ways_give_the_same(window: int) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, sum(LENGTHS), 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    bounds = Bounds(starts, starts, max(LENGTHS), max(LENGTHS))
    how = Weighting(window=window)
    padded = _by_padding(query, key, value, bounds, how)
    by_length = _by_length(query, key, value, LENGTHS, LENGTHS, how)
    torch.testing.assert_close(padded, by_length, rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(out.square().sum(), (query, key, value)) for out in (padded, by_length))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
