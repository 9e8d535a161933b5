"""A linear layer over an encoder's pooled output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import torch
from torch import nn
from torch.nn import functional as F

from kobert_core.data.batching import IGNORED, PackedInputs
from kobert_core.models.packed_encoder import encode, use_packed_attention

if TYPE_CHECKING:
    from transformers import BertModel


class ClassifierOutput(NamedTuple):
    """`loss` is a scalar, or None without labels; `logits` have shape (sequences, classes)."""

    loss: torch.Tensor | None
    logits: torch.Tensor


class KoBertClassifier(nn.Module):
    """Sequence classification: pooled output, dropout, a linear layer.

    The weights have the names of `transformers.BertForSequenceClassification`.
    """

    def __init__(
        self,
        bert: BertModel,
        *,
        num_labels: int,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        """A new head on an encoder; `class_weights` has shape (classes,)."""
        super().__init__()
        use_packed_attention(bert)
        self.bert = bert
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(bert.config.hidden_size, num_labels)
        self.classifier.weight.data.normal_(std=bert.config.initializer_range)
        self.classifier.bias.data.zero_()
        self.label_smoothing = label_smoothing
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        *,
        labels: torch.Tensor | None = None,
        reduction: str = "mean",
        **packed: Unpack[PackedInputs],
    ) -> ClassifierOutput:
        """Logits, and with `labels` of shape (sequences,) the cross-entropy too.

        Args:
            labels: Class indices; those that are `IGNORED` are not counted.
            reduction: `mean` (weighted, as PyTorch does it) or `sum`.
            packed: The sequences.
        """
        first = encode(self.bert, **packed, first_tokens_only=True)
        pooler: Any = self.bert.pooler
        pooled = pooler(first[:, None])
        logits = self.classifier(self.dropout(pooled))
        if labels is None:
            return ClassifierOutput(None, logits)
        loss = F.cross_entropy(
            logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits,
            labels,
            ignore_index=IGNORED,
            weight=self.class_weights,
            reduction=reduction,
            label_smoothing=self.label_smoothing,
        )
        return ClassifierOutput(loss, logits)
