"""The head of an encoder's own sequence classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import torch
from torch.nn import functional as F

from kobert_core.data.batching import IGNORED, PackedInputs
from kobert_core.families import family_of, pooling_values
from kobert_core.models.heads import EncoderWithHead
from kobert_core.models.packed_encoder import encode, rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ClassifierOutput(NamedTuple):
    """`loss` is a scalar, or None without labels; `logits` have shape (sequences, classes)."""

    loss: torch.Tensor | None
    logits: torch.Tensor


class TextClassifier(EncoderWithHead):
    """Sequence classification by the head that the encoder's family has for it: in BERT pooled output, dropout, a
    linear layer.

    The weights have the names of transformers' `AutoModelForSequenceClassification`.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        *,
        num_labels: int,
        dropout: float = 0.1,
        pooling: str = "auto",
        label_smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        """A new head on an encoder; `class_weights` has shape (classes,).

        Raises:
            InputError: transformers' head cannot pool so.
        """
        from transformers import AutoModelForSequenceClassification

        values: dict[str, Any] = {"num_labels": num_labels, family_of(encoder.config).head_dropout: dropout}
        values |= pooling_values(encoder.config, pooling)
        super().__init__(encoder, AutoModelForSequenceClassification, values)
        own_pooling = getattr(encoder.config, "classifier_pooling", "cls")
        self.takes_mean = values.get("classifier_pooling", own_pooling) == "mean"
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
        hidden = encode(self.encoder, **packed, first_tokens_only=not self.takes_mean)
        logits = self.family.classify(self, _means(hidden, packed["starts"]) if self.takes_mean else hidden)
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


def _means(hidden: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """The mean over each sequence, shape (sequences, size)."""
    sums = hidden.new_zeros((len(starts) - 1, hidden.shape[-1]))
    sums = sums.index_add(0, rows_of(starts, tokens=len(hidden)), hidden)
    return sums / starts.diff()[:, None]
