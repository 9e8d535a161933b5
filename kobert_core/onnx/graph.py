"""From a model to a graph that runs anywhere: transformers' own padded encoder, with the model's head on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kobert_core.errors import InputError
from kobert_core.models.heads import EncoderWithHead
from kobert_core.models.packed_encoder import use_packed_attention
from kobert_core.tasks.base import Examples

OPSET = 18
"""Of the operators: onnxruntime knows these from version 1.14 on."""
TOLERANCE = 1e-4
"""How far a logit may be from that of the model."""
PARITY_EXAMPLES = 64


class PaddedModel(nn.Module):
    """A model on padded sequences. Positions are counted from the first token on, whatever the ids are."""

    def __init__(self, model: EncoderWithHead) -> None:
        super().__init__()
        self.model = model
        config = model.encoder.config
        self.inputs = ["input_ids", "attention_mask"]
        if model.family.tells_types_apart(config):
            self.inputs.append("token_type_ids")
        self._first_position = config.pad_token_id + 1 if model.family.starts_after_padding else None

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """The outputs of the model's head by their names; all inputs are of shape (sequences, width)."""
        more: dict[str, torch.Tensor] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        if self._first_position is not None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device) + self._first_position
            more["position_ids"] = positions.expand(input_ids.shape)
        hidden = self.model.encoder(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state
        return self.model.padded_outputs(hidden, attention_mask)


@contextmanager
def padded(model: EncoderWithHead) -> Iterator[PaddedModel]:
    """The same model on padded sequences; while it is, it takes no packed ones."""
    if model.family.is_packed:
        model.encoder.set_attn_implementation("sdpa")
    try:
        yield PaddedModel(model)
    finally:
        use_packed_attention(model.encoder)
