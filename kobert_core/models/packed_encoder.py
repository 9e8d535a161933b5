"""An encoder over sequences that lie end to end: no padding goes through it.

Modules, weights and the dispatch of attention are those of transformers; the numbers are those of its padded model, to
rounding. Every part of an encoder but attention looks at one token at a time, so that the tokens of all sequences are
rows of one matrix; attention stays within each sequence. A family whose attention is its own is padded instead, within
its batch, where there is no way without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kobert_core.families import family_of, layers_of
from kobert_core.packed.attention import PACKED, Sequences, in_rows, packed_attention, rows_of
from kobert_core.packed.layers import run_by_interface

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def use_packed_attention(encoder: PreTrainedModel) -> None:
    """Make the encoder attend by `packed_attention`, as `encode` needs it, where its family can."""
    from transformers import AttentionInterface

    if family_of(encoder.config).is_packed:
        AttentionInterface.register(PACKED, packed_attention)
        encoder.set_attn_implementation(PACKED)


def encode(
    encoder: PreTrainedModel,
    input_ids: torch.Tensor,
    token_type_ids: torch.Tensor,
    position_ids: torch.Tensor,
    starts: torch.Tensor,
    lengths: Sequence[int],
    longest: int | None = None,
    *,
    first_tokens_only: bool = False,
) -> torch.Tensor:
    """The hidden states of the last layer, shape (tokens, hidden size).

    Args:
        encoder: Its attention was chosen by `use_packed_attention`.
        input_ids, token_type_ids, position_ids: int64, shape (tokens,): all sequences, end to end.
        starts: int32, shape (sequences + 1,): sequence i is `starts[i]` up to `starts[i + 1]`.
        lengths: The same as numbers, so that nobody waits for the device to learn them.
        longest: On CUDA, a bound of the lengths. Only this, and how many sequences and tokens there are, decides which
            kernels run: a CUDA graph of them serves all batches of that shape. The longest of `lengths` when not given.
        first_tokens_only: Give the first token of each sequence alone, shape (sequences, hidden size). A head on it
            needs no other, and most of the last layer's work is saved.
    """
    family = family_of(encoder.config)
    longest = longest or max(lengths)
    if not family.tells_types_apart(encoder.config):
        token_type_ids = torch.zeros_like(token_type_ids)
    if not family.runs_packed(encoder, starts):
        padded = _encode_padded(encoder, input_ids, token_type_ids, position_ids, starts, longest)
        return padded[:, 0] if first_tokens_only else padded[rows_of(starts, tokens=len(input_ids)), position_ids]
    # On CUDA without numbers: a compiled layer would be compiled for each of them.
    sequences = Sequences(starts, None if starts.is_cuda else lengths, longest)
    hidden: torch.Tensor = family.embed(encoder, input_ids[None], token_type_ids[None], position_ids[None])
    values = family.layer_values(encoder, hidden, position_ids[None]) if family.layer_values else lambda layer: {}
    run_layer = family.run_layer or run_by_interface
    *lower, top = layers_of(encoder)
    for layer in lower:
        hidden = run_layer(layer, hidden, sequences, **values(layer))
    if not first_tokens_only:
        hidden = run_layer(top, hidden, sequences, **values(top))
    elif family.run_first_tokens is None:
        hidden = sequences.first_tokens(run_layer(top, hidden, sequences, **values(top)))
    else:
        hidden = family.run_first_tokens(top, hidden, sequences, **values(top))
    if family.last_norm is not None:
        hidden = encoder.get_submodule(family.last_norm)(hidden)
    return hidden.squeeze(0)


def _encode_padded(
    encoder: Any,
    input_ids: torch.Tensor,
    token_type_ids: torch.Tensor,
    position_ids: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
) -> torch.Tensor:
    """The hidden states of the last layer, shape (sequences, `longest`, hidden size)."""
    place = (rows_of(starts, tokens=len(input_ids)), position_ids)
    shape = (len(starts) - 1, longest)
    ids = in_rows(input_ids, place, shape, fill=encoder.config.pad_token_id)
    types = in_rows(token_type_ids, place, shape)
    mask = in_rows(torch.ones_like(input_ids), place, shape)
    hidden: torch.Tensor = encoder(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state
    return hidden
