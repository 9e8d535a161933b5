"""The head of an encoder's own sequence classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack

import torch
from torch import nn
from torch.nn import functional as F

from kobert_core.config import DistillConfig
from kobert_core.data.batching import IGNORED, PackedInputs
from kobert_core.families import family_of, pooling_values, takes_plain_head
from kobert_core.models.distillation import class_losses, label_losses
from kobert_core.models.heads import EncoderWithHead, mean_probabilities
from kobert_core.models.packed_encoder import encode
from kobert_core.packed.attention import rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What a sequence classifier learns, by transformers' names."""


class LossSettings(TypedDict, total=False):
    """What a loss may take besides."""

    label_smoothing: float
    class_weights: torch.Tensor | None


class ClassifierOutput(NamedTuple):
    """`loss` is a scalar, or None without labels; `logits` have shape (sequences, classes)."""

    loss: torch.Tensor | None
    logits: torch.Tensor


class PooledHead(nn.Module):
    """Dropout and a linear layer, on the state that stands for a text."""

    def __init__(self, hidden_size: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(hidden_size, num_labels)

    def forward(self, of_texts: torch.Tensor) -> torch.Tensor:
        """Logits, shape (sequences, labels), from states of shape (sequences, size)."""
        logits: torch.Tensor = self.linear(self.dropout(of_texts))
        return logits


class TextClassifier(EncoderWithHead):
    """Sequence classification by the head that the encoder's family has for it: in BERT pooled output, dropout, a
    linear layer.

    The weights have the names of transformers' `AutoModelForSequenceClassification`; where that cannot pool as the
    study says, those of the head are `pooled_head.…`.
    """

    pooled_head: PooledHead

    def __init__(
        self,
        encoder: PreTrainedModel,
        *,
        num_labels: int,
        problem_type: ProblemType = "single_label_classification",
        dropout: float = 0.1,
        pooling: str = "auto",
        label_smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
        distill: DistillConfig | None = None,
    ) -> None:
        """A new head on an encoder.

        Args:
            encoder: As `EncoderWithHead` takes it.
            num_labels: Classes, labels, or 1 for a number.
            problem_type: Decides the loss: cross-entropy, the mean binary cross-entropy of the labels, or the squared
                error.
            dropout: Before the head.
            pooling: As `TextModel.pooling` has it.
            label_smoothing: Of the cross-entropy.
            class_weights: Shape (classes,): the weight of each class in the cross-entropy, or of what has a label in
                the binary one.
            distill: How much the loss goes by soft labels.

        Raises:
            InputError: no head can pool so.
        """
        from transformers import AutoModelForSequenceClassification

        values: dict[str, Any] = {"num_labels": num_labels, family_of(encoder.config).head_dropout: dropout}
        values |= pooling_values(encoder.config, pooling)
        own: dict[str, nn.Module] = {}
        if takes_plain_head(encoder.config, pooling):
            with torch.device("meta"):
                own["pooled_head"] = PooledHead(encoder.config.hidden_size, num_labels, dropout)
        super().__init__(encoder, AutoModelForSequenceClassification, values, own=own, replaced=bool(own))
        self.problem_type = problem_type
        its_own = getattr(encoder.config, "classifier_pooling", "cls")
        self.takes_mean = (its_own if pooling == "auto" else pooling) == "mean"
        self.has_plain_head = bool(own)
        self.label_smoothing = label_smoothing
        self.distill = distill
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        *,
        labels: torch.Tensor | None = None,
        soft_labels: torch.Tensor | None = None,
        reduction: str = "mean",
        **packed: Unpack[PackedInputs],
    ) -> ClassifierOutput:
        """Logits, and with `labels` the loss too.

        Args:
            labels: Class indices of shape (sequences,), of which those that are `IGNORED` are not counted; 0 and 1 of
                shape (sequences, labels), or numbers of shape (sequences,): NaN is not counted.
            soft_labels: What a teacher says, shape (sequences, classes): probabilities, or numbers. A row of NaN where
                it says nothing.
            reduction: `mean` (weighted, as PyTorch does it) or `sum`.
            packed: The sequences.
        """
        hidden = encode(self.encoder, **packed, first_tokens_only=not self.takes_mean)
        logits = self._classify(_means(hidden, packed["starts"]) if self.takes_mean else hidden)
        if labels is None:
            return ClassifierOutput(None, logits)
        half = logits.dtype in (torch.bfloat16, torch.float16)
        exact = logits.float() if half else logits
        if soft_labels is None:
            return ClassifierOutput(self._loss(exact, labels, reduction), logits)
        return ClassifierOutput(self._distilled(exact, labels, soft_labels, reduction), logits)

    def padded_outputs(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        of_text = hidden[:, 0]
        if self.takes_mean:
            weights = attention_mask[..., None].to(hidden.dtype)
            of_text = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return {"logits": self._classify(of_text)}

    def _classify(self, of_texts: torch.Tensor) -> torch.Tensor:
        """Logits of the states that stand for the sequences."""
        if not self.has_plain_head:
            return self.family.classify(self, of_texts)
        logits: torch.Tensor = self.pooled_head(of_texts)
        return logits

    @staticmethod
    def packed_output(outputs: Mapping[str, torch.Tensor], packed: PackedInputs) -> ClassifierOutput:
        return ClassifierOutput(None, outputs["logits"])

    def mean_output(self, outputs: Sequence[ClassifierOutput]) -> ClassifierOutput:
        """The mean of the probabilities, as a logit; of numbers the mean."""
        logits = [output.logits.float() for output in outputs]
        if self.problem_type == "single_label_classification":
            return ClassifierOutput(None, mean_probabilities(logits))
        of_all = torch.stack(logits)
        if self.problem_type == "regression":
            return ClassifierOutput(None, of_all.mean(0))
        return ClassifierOutput(None, F.logsigmoid(of_all).logsumexp(0) - F.logsigmoid(-of_all).logsumexp(0))

    def _distilled(
        self, logits: torch.Tensor, labels: torch.Tensor, soft_labels: torch.Tensor, reduction: str
    ) -> torch.Tensor:
        """An example that has both goes by its label and by its soft label, any other by what it has."""
        assert self.distill is not None
        is_labelled = labels != IGNORED if labels.dtype == torch.int64 else ~labels.view(len(labels), -1)[:, 0].isnan()
        is_taught = ~soft_labels[:, 0].isnan()
        both = is_labelled & is_taught
        weight = torch.where(both, self.distill.weight, is_taught.to(logits.dtype))
        taught = self._soft_losses(logits, torch.where(is_taught[:, None], soft_labels, 0.5), self.distill.temperature)
        losses = (1 - weight) * self._losses(logits, labels) + weight * taught
        return losses.sum() if reduction == "sum" else losses.sum() / (is_labelled | is_taught).sum()

    def _soft_losses(self, logits: torch.Tensor, soft_labels: torch.Tensor, temperature: float) -> torch.Tensor:
        """Shape (sequences,)."""
        if self.problem_type == "single_label_classification":
            return class_losses(logits, soft_labels, temperature)
        if self.problem_type == "multi_label_classification":
            return label_losses(logits, soft_labels, temperature)
        return F.mse_loss(logits, soft_labels, reduction="none").mean(dim=1)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
        if self.problem_type == "single_label_classification":
            return self._cross_entropy(logits, labels, reduction)
        losses = self._losses(logits, labels)
        if reduction == "sum":
            return losses.sum()
        return losses.sum() / (~labels.view_as(logits)[:, 0].isnan()).sum()

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of each sequence by its labels, 0 where it has none; shape (sequences,)."""
        if self.problem_type == "single_label_classification":
            return self._cross_entropy(logits, labels, "none")
        targets = labels.to(logits.dtype).view_as(logits)
        is_counted = ~targets.isnan()
        targets = targets.nan_to_num()
        if self.problem_type == "regression":
            losses = F.mse_loss(logits, targets, reduction="none")
        else:
            losses = F.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=self.class_weights, reduction="none"
            )
        return (losses * is_counted).mean(dim=1)

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
        return F.cross_entropy(
            logits,
            labels,
            ignore_index=IGNORED,
            weight=self.class_weights,
            reduction=reduction,
            label_smoothing=self.label_smoothing,
        )


def _means(hidden: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """The mean over each sequence, shape (sequences, size)."""
    sums = hidden.new_zeros((len(starts) - 1, hidden.shape[-1]))
    sums = sums.index_add(0, rows_of(starts, tokens=len(hidden)), hidden)
    return sums / starts.diff()[:, None]
