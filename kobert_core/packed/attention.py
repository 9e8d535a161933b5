"""Attention within sequences that lie end to end, in the form that transformers' `AttentionInterface` takes.

On CUDA one kernel knows where each sequence starts; on the CPU it goes sequence length by sequence length. Neither
needs a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import nn

PACKED = "packed_sdpa"
"""Name of `packed_attention` among the attention implementations of transformers."""


class Sequences(NamedTuple):
    """Where sequences that lie end to end begin and end."""

    starts: torch.Tensor
    """Sequence i is `starts[i]` up to `starts[i + 1]`: int32, shape (sequences + 1,)."""
    lengths: Sequence[int] | None
    """The same as numbers, on the CPU."""
    longest: int
    """A bound of the lengths."""

    def for_all(self) -> dict[str, Any]:
        """What `packed_attention` takes when every token asks."""
        return self._within() | {
            "cu_seq_lens_q": self.starts,
            "max_length_q": self.longest,
            "query_lengths": self.lengths,
        }

    def for_first_tokens(self) -> dict[str, Any]:
        """The same when the first token of each sequence asks, alone."""
        ones = torch.arange(len(self.starts), dtype=self.starts.dtype, device=self.starts.device)
        lengths = None if self.lengths is None else [1] * len(self.lengths)
        return self._within() | {"cu_seq_lens_q": ones, "max_length_q": 1, "query_lengths": lengths}

    def _within(self) -> dict[str, Any]:
        return {"cu_seq_lens_k": self.starts, "max_length_k": self.longest, "key_lengths": self.lengths}

    def first_tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of values of all tokens, shape (1, tokens, …), those of the first of each sequence."""
        return hidden.index_select(1, self.starts[:-1])


def groups_of_length(*lengths: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Neighbours of the same lengths and how many they are: in batches that are ordered by length these are few."""
    for same, group in groupby(zip(*lengths, strict=True)):
        yield same, len(list(group))


def rows_of(starts: torch.Tensor, *, tokens: int) -> torch.Tensor:
    """The number of each token's sequence, shape (tokens,)."""
    numbers = torch.arange(len(starts) - 1, device=starts.device)
    return torch.repeat_interleave(numbers, starts.diff(), output_size=tokens)


def in_rows(
    values: torch.Tensor, place: tuple[torch.Tensor, torch.Tensor], shape: tuple[int, int], fill: float = 0
) -> torch.Tensor:
    """Values of shape (tokens, …) in rows of `shape` (sequences, width), each at its `place`: row and column."""
    return values.new_full((*shape, *values.shape[1:]), fill).index_put(place, values)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int,
    max_length_k: int,
    query_lengths: Sequence[int] | None,
    key_lengths: Sequence[int] | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each sequence, in the form that transformers' `AttentionInterface` takes.

    Args:
        module: The layer that attends; not used.
        query: shape (1, heads, tokens, size).
        key, value: the same, where there may be more tokens.
        attention_mask: Always None: there is no padding.
        cu_seq_lens_q: Where each sequence starts in `query`, and at last its end: int32, shape (sequences + 1,).
        cu_seq_lens_k: The same of `key` and `value`.
        max_length_q, max_length_k: Bounds of the lengths.
        query_lengths: Tokens of each sequence in `query`: all of one length where those in `key` are. Not asked for on
            CUDA.
        key_lengths: Tokens of each sequence in `key` and `value`.
        dropout: Probability, on the attention weights.
        scaling: Of the dot products.
        sliding_window: Attend to tokens that are less than this far away, if given.

    Returns:
        Shape (1, tokens, heads, size), as of `query`; and None for the weights, which are not kept.
    """
    window = None if sliding_window is None or sliding_window >= max_length_k else sliding_window - 1
    how = Weighting(dropout, scaling, window)
    if not query.is_cuda:
        assert query_lengths is not None and key_lengths is not None
        return _by_length(query, key, value, query_lengths, key_lengths, how).unsqueeze(0), None
    by_bounds = _by_flash if _has_flash(query) else _by_jagged if window is None else _by_padding
    bounds = Bounds(cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
    return by_bounds(query, key, value, bounds, how).unsqueeze(0), None


class Weighting(NamedTuple):
    """How the dot products of queries and keys become weights of the values."""

    dropout: float = 0.0
    """Probability, on the weights."""
    scaling: float | None = None
    """Of the dot products; the inverse root of the heads' size when not given."""
    window: int | None = None
    """The distance of the farthest token that is attended to; all of a sequence when not given."""


class Bounds(NamedTuple):
    """Where each sequence starts, as `packed_attention` takes it, and how long one may be."""

    query_starts: torch.Tensor
    key_starts: torch.Tensor
    longest_query: int
    longest_key: int


def _has_flash(query: torch.Tensor) -> bool:
    """Whether PyTorch's own FlashAttention takes these heads on this device."""
    return (
        query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and _is_ampere_or_newer(query.device)
        and hasattr(torch.ops.aten, "_flash_attention_forward")
    )


@cache
def _is_ampere_or_newer(device: torch.device) -> bool:
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def _by_flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: Bounds,
    how: Weighting,
) -> torch.Tensor:
    """The kernel that `_by_jagged` comes to in half precision, without what leads there: that takes Python longer than
    all the rest of a layer. `torch.nn.attention.varlen` has the same without dropout.

    Returns:
        Shape (tokens, heads, size), as of `query`.
    """
    rows = [part.squeeze(0).transpose(0, 1) for part in (query, key, value)]
    is_causal = return_debug_mask = False
    attend = torch.ops.aten._flash_attention_forward
    attended: torch.Tensor
    sides: dict[str, Any] = {}
    if how.window is not None:
        sides = {"window_size_left": how.window, "window_size_right": how.window}
    attended, *_ = attend(*rows, *bounds, how.dropout, is_causal, return_debug_mask, scale=how.scaling, **sides)
    return attended


def _by_jagged(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: Bounds,
    how: Weighting,
) -> torch.Tensor:
    """Attention of nested tensors, to whole sequences, for all dtypes and devices.

    Returns:
        Shape (tokens, heads, size), as of `query`.
    """
    queries = _jagged(query, bounds.query_starts, bounds.longest_query)
    keys, values = (_jagged(part, bounds.key_starts, bounds.longest_key) for part in (key, value))
    attended = F.scaled_dot_product_attention(queries, keys, values, dropout_p=how.dropout, scale=how.scaling)
    rows: torch.Tensor = attended.transpose(1, 2).values()
    return rows


def _by_padding(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: Bounds,
    how: Weighting,
) -> torch.Tensor:
    """Attention to a window of all dtypes and devices: nested tensors take no mask. All tokens ask.

    Returns:
        Shape (tokens, heads, size), as of `query`.
    """
    starts, longest, tokens = bounds.key_starts, bounds.longest_key, query.shape[2]
    rows = rows_of(starts, tokens=tokens)
    place = (rows, torch.arange(tokens, device=starts.device) - starts[rows])

    def padded(part: torch.Tensor) -> torch.Tensor:
        return in_rows(part.squeeze(0).transpose(0, 1), place, (len(starts) - 1, longest)).transpose(1, 2)

    places = torch.arange(longest, device=starts.device)
    is_there = places < starts.diff()[:, None]
    allowed = is_there[:, None, :] & _within(places, how.window) | ~is_there[:, :, None]  # padding may ask for anything
    rows_of_each = padded(query), padded(key), padded(value)
    attended = F.scaled_dot_product_attention(
        *rows_of_each, attn_mask=allowed[:, None], dropout_p=how.dropout, scale=how.scaling
    )
    return attended.transpose(1, 2)[place]


def _within(places: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which places see which, shape (places, places)."""
    distance = (places[:, None] - places).abs()
    return distance >= 0 if window is None else distance <= window


def _jagged(part: torch.Tensor, starts: torch.Tensor, longest: int) -> torch.Tensor:
    """Shape (1, heads, tokens, size) as a nested tensor of shape (sequences, heads, length, size), without a copy.

    Its kernels are told the least and the most that a length may be, or they would wait for the device to say so; and
    they refuse a bound above the number of tokens.
    """
    rows = part.squeeze(0).transpose(0, 1)
    longest = min(longest, len(rows))
    return torch.nested.nested_tensor_from_jagged(rows, starts, min_seqlen=1, max_seqlen=longest).transpose(1, 2)


def _by_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    how: Weighting,
) -> torch.Tensor:
    """Neighbours of the same length go together.

    Returns:
        Shape (tokens, heads, size), as of `query`.
    """
    groups = list(groups_of_length(query_lengths, key_lengths))
    queries = query.squeeze(0).split([length * count for (length, _), count in groups], dim=1)
    keys, values = (
        part.squeeze(0).split([length * count for (_, length), count in groups], dim=1) for part in (key, value)
    )
    outputs = []
    for (_, count), *parts in zip(groups, queries, keys, values, strict=True):
        q, k, v = (part.unflatten(1, (count, -1)).transpose(0, 1) for part in parts)  # sequences, heads, length, size
        attended = _attend(q, k, v, how)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    how: Weighting,
) -> torch.Tensor:
    length = key.shape[-2]
    is_whole = how.window is None or length <= how.window + 1
    allowed = None if is_whole else _within(torch.arange(length), how.window)
    if how.dropout == 0.0:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=how.scaling)
    # The CPU has no fused kernel with dropout, and PyTorch's own way around takes two thirds longer than this one.
    scale = query.shape[-1] ** -0.5 if how.scaling is None else how.scaling
    weights = (query * scale) @ key.transpose(-1, -2)
    if allowed is not None:
        weights = weights.masked_fill(~allowed, -torch.inf)
    weights = weights.softmax(-1)
    return (weights * dropout_mask(weights, how.dropout)) @ value


def dropout_mask(like: torch.Tensor, dropout: float) -> torch.Tensor:
    """0 where something is dropped, elsewhere what keeps the mean, in the shape and dtype of `like`.

    The probability is rounded to 16 bits: four numbers come from one draw, where `bernoulli_` makes one draw for each.
    """
    count = like.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = min(round(dropout * 2**16), 2**16 - 1)
    kept = draws.view(torch.int16)[:count].view_as(like) >= dropped - 2**15
    return kept.to(like.dtype).mul_(2**16 / (2**16 - dropped))
