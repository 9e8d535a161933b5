"""Layers of transformers' encoders over sequences that lie end to end: whole, and for the first token of each sequence.

A head on the first token needs no other of the last layer, and most of its work is saved. Modules and weights are those
of transformers; the numbers are those of its padded model, to rounding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kobert_core.packed.attention import Sequences, dropout_mask, groups_of_length


def run_by_interface(layer: Any, hidden: torch.Tensor, sequences: Sequences, **values: Any) -> torch.Tensor:
    """A layer whose attention goes through transformers' `AttentionInterface`."""
    states: torch.Tensor = layer(hidden, **sequences.for_all(), **values)
    return states


def run_first_tokens_like_bert(layer: Any, hidden: torch.Tensor, sequences: Sequences) -> torch.Tensor:
    """States of the first tokens, shape (1, sequences, size), from those of all tokens below."""
    attention, first = layer.attention.self, sequences.first_tokens(hidden)
    context = _attended(
        attention,
        attention.query(first),
        attention.key(hidden),
        attention.value(hidden),
        sequences,
        heads=attention.num_attention_heads,
        dropout=attention.dropout.p,
        scaling=attention.scaling,
    )
    output: torch.Tensor = layer.feed_forward_chunk(layer.attention.output(context, first))
    return output


def run_first_tokens_like_modernbert(
    layer: Any, hidden: torch.Tensor, sequences: Sequences, position_embeddings: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """The same of ModernBERT, whose positions turn queries and keys."""
    attention = layer.attn
    window = attention.sliding_window
    if window is not None and window < sequences.longest:  # kernels count the window from the end of a sequence
        return sequences.first_tokens(
            run_by_interface(layer, hidden, sequences, position_embeddings=position_embeddings)
        )
    normed = layer.attn_norm(hidden)
    size, weight, bias = hidden.shape[-1], attention.Wqkv.weight, attention.Wqkv.bias
    query = F.linear(sequences.first_tokens(normed), weight[:size], None if bias is None else bias[:size])
    key, value = F.linear(normed, weight[size:], None if bias is None else bias[size:]).chunk(2, dim=-1)
    cos, sin = position_embeddings
    context = _attended(
        attention,
        _turned(query, sequences.first_tokens(cos), sequences.first_tokens(sin)),
        _turned(key, cos, sin),
        value,
        sequences,
        heads=attention.config.num_attention_heads,
        dropout=attention.attention_dropout,
        scaling=attention.head_dim**-0.5,
    )
    states = sequences.first_tokens(hidden) + attention.out_drop(attention.Wo(context))
    output: torch.Tensor = states + layer.mlp(layer.mlp_norm(states))
    return output


def _turned(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al., 2021), of states of shape (1, tokens, heads * size), and of cosines and sines of
    shape (1, tokens, size)."""
    of_heads = states.float().unflatten(-1, (-1, cos.shape[-1]))
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    one, other = of_heads.chunk(2, dim=-1)
    turned = of_heads * cos + torch.cat((-other, one), dim=-1) * sin
    flat: torch.Tensor = turned.flatten(2).to(states.dtype)
    return flat


def _attended(
    attention: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sequences: Sequences,
    *,
    heads: int,
    dropout: float,
    scaling: float,
) -> torch.Tensor:
    """What the first tokens, which `query` is of, see of their sequences: shape (1, sequences, heads * size)."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    context, _ = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation](
        attention,
        *(part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)),
        None,
        dropout=dropout if attention.training else 0.0,
        scaling=scaling,
        **sequences.for_first_tokens(),
    )
    flat: torch.Tensor = context.flatten(2)
    return flat


def run_like_deberta(layer: Any, hidden: torch.Tensor, sequences: Sequences, relative: torch.Tensor) -> torch.Tensor:
    """A layer with disentangled attention (He et al., 2021). `relative`: the embeddings of distances, shape (2 * span,
    size), as the layer takes them."""
    values = (layer, hidden, hidden, sequences, relative)
    if layer.gradient_checkpointing and layer.training:  # which transformers does where a layer is called
        output: torch.Tensor = checkpoint(_run_like_deberta, *values, use_reentrant=False)
        return output
    return _run_like_deberta(*values)


def run_first_tokens_like_deberta(
    layer: Any, hidden: torch.Tensor, sequences: Sequences, relative: torch.Tensor
) -> torch.Tensor:
    """The same for the first token of each sequence."""
    return _run_like_deberta(layer, sequences.first_tokens(hidden), hidden, sequences, relative)


def _run_like_deberta(
    layer: Any, queries: torch.Tensor, hidden: torch.Tensor, sequences: Sequences, relative: torch.Tensor
) -> torch.Tensor:
    context = _disentangled(layer.attention.self, queries, hidden, sequences, relative)
    attended = layer.attention.output(context, queries)
    output: torch.Tensor = layer.output(layer.intermediate(attended), attended)
    return output


def _disentangled(
    attention: Any, queries: torch.Tensor, hidden: torch.Tensor, sequences: Sequences, relative: torch.Tensor
) -> torch.Tensor:
    """The context of each query, shape as of `queries`: either all tokens, or the first of each sequence.

    transformers multiplies with the embeddings of all distances, 512 and more, and picks those that there are. Here
    only those that there are take part.
    """
    heads, size = attention.num_attention_heads, attention.attention_head_size
    assert sequences.lengths is not None
    query_lengths = sequences.lengths if queries is hidden else [1] * len(sequences.lengths)
    groups = list(groups_of_length(query_lengths, sequences.lengths))

    def split(states: torch.Tensor, which: int) -> list[torch.Tensor]:
        """Shape (heads, sequences, length, size), group by group."""
        of_heads = states.squeeze(0).unflatten(-1, (heads, size)).transpose(0, 1)
        parts = of_heads.split([lengths[which] * count for lengths, count in groups], dim=1)
        return [part.unflatten(1, (count, -1)) for part, (_, count) in zip(parts, groups, strict=True)]

    terms = [term for term in ("c2p", "p2c") if term in attention.pos_att_type]
    scaling = (size * (1 + len(terms))) ** -0.5
    distances = _Distances(attention, relative, terms, sequences.longest) if attention.relative_attention else None
    asking, keys = split(attention.query_proj(queries) * scaling, 0), split(attention.key_proj(hidden), 1)
    values = split(attention.value_proj(hidden), 1)
    outputs = []
    for query, key, value in zip(asking, keys, values, strict=True):
        scores = query @ key.transpose(-1, -2)
        if distances is not None:
            scores = scores + distances.scores(query, key, scaling)
        weights = scores.softmax(-1)
        if attention.training and attention.dropout.p:
            weights = weights * dropout_mask(weights, attention.dropout.p)
        outputs.append((weights.to(value.dtype) @ value).flatten(1, 2))
    return torch.cat(outputs, dim=1).transpose(0, 1).flatten(1).unsqueeze(0)


class _Distances:
    """What the distances between tokens add to the scores of a layer's attention."""

    def __init__(self, attention: Any, relative: torch.Tensor, terms: list[str], longest: int) -> None:
        """`terms`: content to position, position to content, or both. `longest`: tokens of the longest sequence."""
        rows = _rows_of_distances(
            longest, attention.pos_ebd_size, attention.position_buckets, attention.max_relative_positions
        )
        lowest, highest = int(rows[0]), int(rows[-1])
        there, rows = attention.pos_dropout(relative[lowest : highest + 1]), rows - lowest

        def projected(own: str, shared: str) -> torch.Tensor:
            """Shape (heads, distances, size), the lowest distance first."""
            linear = getattr(attention, shared if attention.share_att_key else own)
            projections: torch.Tensor = linear(there)[rows].unflatten(-1, (attention.num_attention_heads, -1))
            return projections.transpose(0, 1)

        self._longest = longest
        # Rows of scores are queries, columns keys: with the column the distance falls.
        self._keys = projected("pos_key_proj", "key_proj").flip(1) if "c2p" in terms else None
        self._queries = projected("pos_query_proj", "query_proj") if "p2c" in terms else None

    def scores(self, query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
        """Shape (heads, sequences, queries, keys), of scaled queries and of keys, each (heads, sequences, …, size)."""
        length, added = key.shape[2], torch.zeros((), dtype=query.dtype)
        first_only = query.shape[2] < length
        near = slice(self._longest - length, self._longest + length - 1)
        if self._keys is not None:
            keys = self._keys[:, near]
            keys = keys[:, length - 1 :] if first_only else keys
            products = (query.flatten(1, 2) @ keys.transpose(-1, -2)).unflatten(1, query.shape[1:3])
            added = added + (products if first_only else _skewed(products))
        if self._queries is not None:
            queries = self._queries[:, near] * scaling
            if first_only:
                of_first = queries[:, :length].flip(1).unsqueeze(1)
                added = added + (key * of_first).sum(-1).unsqueeze(2)
            else:
                products = (key.flatten(1, 2) @ queries.transpose(-1, -2)).unflatten(1, key.shape[1:3])
                added = added + _skewed(products).transpose(-1, -2)
        return added


@cache
def _rows_of_distances(longest: int, span: int, buckets: int, farthest: int) -> torch.Tensor:
    """Of each distance, from the lowest on, the row of the embeddings; the same in all layers and batches."""
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    with torch.device("cpu"):  # numbers, also where a model is tried on the meta device
        distances = torch.arange(1 - longest, longest)
        if buckets > 0:
            distances = make_log_bucket_position(distances, buckets, farthest)
        return (distances.long() + span).clamp(0, 2 * span - 1)


def _skewed(products: torch.Tensor) -> torch.Tensor:
    """From shape (…, n, 2 n - 1) to (…, n, n): row i is shifted to the left by n - 1 - i (Dai et al., 2019)."""
    n = products.shape[-2]
    if n == 1:
        return products
    rows: torch.Tensor = products.flatten(-2)[..., n - 1 : n - 1 + n * (2 * n - 2)].unflatten(-1, (n, 2 * n - 2))
    return rows[..., :n]
