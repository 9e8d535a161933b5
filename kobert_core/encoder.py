"""A BERT encoder over sequences that lie end to end: no padding goes through it.

Modules, weights and the dispatch of attention are those of `transformers.BertModel`; the numbers are those of the
padded model, to rounding. Every part of BERT but attention looks at one token at a time, so that the tokens of all
sequences are rows of one matrix. Attention stays within each sequence: by FlashAttention's variable lengths where that
is installed, else sequence length by sequence length, which needs no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import nn
    from transformers import BertModel

PACKED = "packed_sdpa"
"""Name of `packed_attention` among the attention implementations of transformers."""


def use_packed_attention(bert: BertModel, *, flash: bool = False) -> None:
    """Make `encode` take FlashAttention if it may (`flash`) and it is installed, else `packed_attention`."""
    from transformers import AttentionInterface
    from transformers.utils import is_flash_attn_2_available

    AttentionInterface.register(PACKED, packed_attention)
    bert.set_attn_implementation("flash_attention_2" if flash and is_flash_attn_2_available() else PACKED)


def encode(
    bert: BertModel,
    input_ids: torch.Tensor,
    token_type_ids: torch.Tensor,
    position_ids: torch.Tensor,
    starts: torch.Tensor,
    lengths: Sequence[int],
    *,
    first_tokens_only: bool = False,
) -> torch.Tensor:
    """The hidden states of the last layer, shape (tokens, hidden size).

    Args:
        bert: Its attention was chosen by `use_packed_attention`.
        input_ids, token_type_ids, position_ids: int64, shape (tokens,): all sequences, end to end.
        starts: int32, shape (sequences + 1,): sequence i is `starts[i]` up to `starts[i + 1]`.
        lengths: The same as numbers, so that nobody waits for the device to learn them.
        first_tokens_only: Give the first token of each sequence alone, shape (sequences, hidden size). A head on it
            needs no other, and most of the last layer's work is saved.
    """
    within: dict[str, Any] = {"cu_seq_lens_k": starts, "max_length_k": max(lengths), "key_lengths": lengths}
    whole = within | {"cu_seq_lens_q": starts, "max_length_q": max(lengths), "query_lengths": lengths}
    hidden = bert.embeddings(input_ids[None], token_type_ids[None], position_ids[None])
    *lower, top = bert.encoder.layer
    for layer in lower:
        hidden = layer(hidden, **whole)
    if not first_tokens_only:
        return top(hidden, **whole)[0]
    ones = torch.arange(len(starts), dtype=starts.dtype, device=starts.device)
    single = within | {"cu_seq_lens_q": ones, "max_length_q": 1, "query_lengths": [1] * len(lengths)}
    return _for_queries(top, hidden[:, starts[:-1].long()], hidden, **single)[0]


def _for_queries(layer: Any, queries: torch.Tensor, hidden: torch.Tensor, **lengths: Any) -> torch.Tensor:
    """What `layer(hidden)` gives for some of its tokens, which alone go through all but the keys and values."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attention = layer.attention.self

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    context, _ = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation](
        attention,
        heads(attention.query(queries)),
        heads(attention.key(hidden)),
        heads(attention.value(hidden)),
        None,
        dropout=attention.dropout.p if attention.training else 0.0,
        scaling=attention.scaling,
        **lengths,
    )
    output: torch.Tensor = layer.feed_forward_chunk(layer.attention.output(context.flatten(2), queries))
    return output


@torch.compiler.disable
def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each sequence, in the form that transformers' `AttentionInterface` takes.

    Neighbours of the same length go together. In batches that are ordered by length these are few groups.

    Args:
        module: The layer that attends; not used.
        query: shape (1, heads, tokens, size).
        key, value: the same, where there may be more tokens.
        attention_mask: Always None: there is no padding.
        query_lengths: Tokens of each sequence in `query`: all of one length where those in `key` are.
        key_lengths: Tokens of each sequence in `key` and `value`.
        dropout: Probability, on the attention weights.
        scaling: Of the dot products.

    Returns:
        Shape (1, tokens, heads, size), as of `query`; and None for the weights, which are not kept.
    """
    groups = [(*sizes, len(list(same))) for sizes, same in groupby(zip(query_lengths, key_lengths, strict=True))]
    queries = query[0].split([length * count for length, _, count in groups], dim=1)
    keys, values = (part[0].split([length * count for _, length, count in groups], dim=1) for part in (key, value))
    outputs = []
    for (*_sizes, count), *parts in zip(groups, queries, keys, values, strict=True):
        q, k, v = (part.unflatten(1, (count, -1)).transpose(0, 1) for part in parts)  # sequences, heads, length, size
        attended = _attend(q, k, v, dropout=dropout, scaling=scaling)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None], None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, dropout: float, scaling: float | None
) -> torch.Tensor:
    if dropout == 0.0 or query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
    # The CPU has no fused kernel with dropout, and PyTorch's own way around takes two thirds longer than this one.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = ((query * scale) @ key.transpose(-1, -2)).softmax(-1)
    return (weights * _dropout_mask(weights, dropout)) @ value


def _dropout_mask(like: torch.Tensor, dropout: float) -> torch.Tensor:
    """0 where something is dropped, elsewhere what keeps the mean, in the shape and dtype of `like`.

    The probability is rounded to 16 bits: four numbers come from one draw, where `bernoulli_` makes one draw for each.
    """
    count = like.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = min(round(dropout * 2**16), 2**16 - 1)
    kept = draws.view(torch.int16)[:count].view_as(like) >= dropped - 2**15
    return kept.to(like.dtype).mul_(2**16 / (2**16 - dropped))
