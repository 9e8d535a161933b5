"""The head of an encoder's own token classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Unpack

import torch
from torch import nn
from torch.nn import functional as F

from kobert_core.data.batching import IGNORED, PackedInputs, is_token
from kobert_core.families import family_of
from kobert_core.models.heads import EncoderWithHead, mean_probabilities
from kobert_core.models.packed_encoder import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TaggerOutput(NamedTuple):
    """`loss` is a scalar, or None without labels; `logits` have shape (tokens, tags)."""

    loss: torch.Tensor | None
    logits: torch.Tensor


class TokenClassifier(EncoderWithHead):
    """Token classification by the head that the encoder's family has for it: dropout, a linear layer.

    The weights have the names of transformers' `AutoModelForTokenClassification`.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        *,
        num_labels: int,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        """A new head on an encoder without pooler; `class_weights` are those of the tags, shape (tags,)."""
        from transformers import AutoModelForTokenClassification

        name = family_of(encoder.config).tag_dropout
        values = {"num_labels": num_labels} | ({} if name is None else {name: dropout})
        super().__init__(encoder, AutoModelForTokenClassification, values)
        self.dropout = nn.Dropout(dropout)
        self.label_smoothing = label_smoothing
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self, *, labels: torch.Tensor | None = None, reduction: str = "mean", **packed: Unpack[PackedInputs]
    ) -> TaggerOutput:
        """Logits, and with `labels` of shape (tokens,) the cross-entropy too.

        Args:
            labels: Numbers of tags; those that are `IGNORED` are not counted.
            reduction: `mean` over the tokens that count (weighted, as PyTorch does it), or `sum`.
            packed: The sequences.
        """
        logits = self.family.tag(self, encode(self.encoder, **packed))
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        if labels is None:
            return TaggerOutput(None, logits)
        loss = F.cross_entropy(
            logits,
            labels,
            ignore_index=IGNORED,
            weight=self.class_weights,
            reduction=reduction,
            label_smoothing=self.label_smoothing,
        )
        return TaggerOutput(loss, logits)

    def padded_outputs(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.family.tag(self, hidden)}

    @staticmethod
    def packed_output(outputs: Mapping[str, torch.Tensor], packed: PackedInputs) -> TaggerOutput:
        logits = outputs["logits"]
        return TaggerOutput(None, logits[is_token(packed["lengths"]).to(logits.device)])

    def mean_output(self, outputs: Sequence[TaggerOutput]) -> TaggerOutput:
        return TaggerOutput(None, mean_probabilities([output.logits for output in outputs]))
