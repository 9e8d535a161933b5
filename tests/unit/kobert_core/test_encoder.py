"""Without padding, the encoder computes what transformers computes with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from kobert_core.data.batching import Batch
from kobert_core.models.packed_encoder import encode, use_packed_attention
from kobert_core.packed.attention import Bounds, Weighting, _by_jagged, _by_length

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 60}
LENGTHS = [[5], [7, 7, 7], [3, 9, 9, 4, 9, 12], [1, 1, 2], [30, 2]]


def bert_of(**values: Any) -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES, **values)).double()


def padded_batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, 60, mask.shape).masked_fill(~mask, 0)
    types = (torch.arange(max(lengths)) > 2).long().expand(mask.shape).masked_fill(~mask, 0)
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask.long()}


def gradients(bert: BertModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    bert.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in bert.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("first_tokens_only", [False, True])
def test_hidden_states_and_gradients_are_those_of_the_padded_model(lengths: list[int], first_tokens_only: bool) -> None:
    ours, theirs = (bert_of(attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0) for _ in range(2))
    use_packed_attention(ours)
    padded = padded_batch(lengths)
    hidden = encode(ours, **Batch.pack(padded).inputs, first_tokens_only=first_tokens_only)
    reference = theirs(**padded)
    expected = reference.last_hidden_state[padded["attention_mask"].bool()]
    if first_tokens_only:
        expected = reference.last_hidden_state[:, 0]
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-12)
    towards = torch.randn_like(expected)
    own = gradients(ours, (hidden * towards).sum())
    others = gradients(theirs, (expected * towards).sum())
    assert own.keys() == others.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, others[name], rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("one_query_each", [False, True])
def test_the_attention_of_cuda_is_that_of_the_cpu(lengths: list[int], one_query_each: bool) -> None:
    """Nested tensors run on a CPU too, more slowly."""
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    query_lengths = [1] * len(lengths) if one_query_each else lengths
    query_starts = torch.tensor([0, *np.cumsum(query_lengths)], dtype=torch.int32)

    def projected(tokens: int) -> torch.Tensor:
        return torch.randn(1, tokens, 3, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()

    query, key, value = projected(sum(query_lengths)), projected(sum(lengths)), projected(sum(lengths))
    expected = _by_length(query, key, value, query_lengths, lengths, Weighting())
    got = _by_jagged(query, key, value, Bounds(query_starts, starts, 40, 40), Weighting())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    towards = torch.randn_like(expected)
    for own, other in zip(
        torch.autograd.grad((got * towards).sum(), (query, key, value)),
        torch.autograd.grad((expected * towards).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


def test_dropout_of_attention_leaves_its_mean_as_it_is() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 12, 8).double()
    parts = query, key, value, [4, 4, 4], [4, 4, 4]
    expected = _by_length(*parts, Weighting())
    drawn = [_by_length(*parts, Weighting(dropout=0.3)) for _ in range(4000)]
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(torch.stack(drawn).mean(0), expected, rtol=0, atol=0.06)


def test_an_encoder_of_one_layer_has_first_tokens_too() -> None:
    torch.manual_seed(0)
    bert = BertModel(BertConfig(**SIZES | {"num_hidden_layers": 1})).double().eval()
    use_packed_attention(bert)
    padded = padded_batch([4, 6])
    expected = encode(bert, **Batch.pack(padded).inputs)[[0, 4]]
    got = encode(bert, **Batch.pack(padded).inputs, first_tokens_only=True)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_under_autocast_the_states_are_those_of_float32_to_the_precision_of_bf16() -> None:
    bert = BertModel(BertConfig(**SIZES)).eval()
    use_packed_attention(bert)
    inputs = Batch.pack(padded_batch([3, 9, 9, 4])).inputs
    expected = encode(bert, **inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = encode(bert, **inputs)
    assert not torch.equal(got.float(), expected)
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.1)
    bert.train()
    with torch.autocast("cpu", torch.bfloat16):
        encode(bert, **inputs, first_tokens_only=True).float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in bert.parameters() if p.grad is not None)
