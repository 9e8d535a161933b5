"""A linear layer over an encoder's tokens, and the boundary head on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Unpack

import torch
from torch import nn
from torch.nn import functional as F

from kobert_core.data.batching import IGNORED, PackedInputs, is_token
from kobert_core.models.heads import EncoderWithHead, mean_probabilities
from kobert_core.models.packed_encoder import encode
from kobert_core.packed.attention import in_rows, rows_of
from kobert_core.tasks.question_answering.windows import MAX_TRIM_END, MAX_TRIM_START

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AnswerOutput(NamedTuple):
    """`loss` is a scalar, or None without positions; the rest has one row a token.

    `start_logits` and `end_logits` have shape (sequences, width) and are -inf beyond the end of a sequence;
    `trim_start_logits` and `trim_end_logits` have shape (sequences, width, classes), None without a boundary head: how
    many characters to trim if the answer begins, or ends, with this token.
    """

    loss: torch.Tensor | None
    start_logits: torch.Tensor
    end_logits: torch.Tensor
    trim_start_logits: torch.Tensor | None
    trim_end_logits: torch.Tensor | None


class BoundaryHead(nn.Module):
    """How many characters to trim where an answer begins and ends, from the hidden states of these tokens."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.start = nn.Linear(hidden_size, MAX_TRIM_START + 1)
        self.end = nn.Linear(hidden_size, MAX_TRIM_END + 1)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of both, shape (tokens, classes), from hidden states of shape (tokens, size)."""
        return self.start(hidden), self.end(hidden)


class QuestionAnswerer(EncoderWithHead):
    """Extractive question answering: a linear layer over the tokens' hidden states, or what the encoder's family has.

    The weights have the names of transformers' `AutoModelForQuestionAnswering`, and `boundary.…` those of the boundary
    head.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        *,
        dropout: float = 0.0,
        boundary_head: bool = True,
        boundary_weight: float = 1.0,
    ) -> None:
        """New heads on an encoder without pooler; `boundary_weight` is that of the boundary head in the loss."""
        from transformers import AutoModelForQuestionAnswering

        with torch.device("meta"):
            own = {"boundary": BoundaryHead(encoder.config.hidden_size)} if boundary_head else {}
        super().__init__(encoder, AutoModelForQuestionAnswering, {"num_labels": 2}, own=own)
        self.dropout = nn.Dropout(dropout)
        if not boundary_head:
            self.boundary = None
        self.boundary_weight = boundary_weight

    def forward(
        self,
        *,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        trim_start: torch.Tensor | None = None,
        trim_end: torch.Tensor | None = None,
        reduction: str = "mean",
        **packed: Unpack[PackedInputs],
    ) -> AnswerOutput:
        """Logits, and with positions the loss too: as BERT's, the mean of the cross-entropies of start and end.

        The boundary head's loss is the mean of its two cross-entropies at the true tokens, times its weight.

        Args:
            start_positions, end_positions: tokens, counted in their sequence, shape (sequences,); those that are
                `IGNORED` are not counted.
            trim_start, trim_end: classes, shape (sequences,); negative ones are not counted.
            reduction: `mean` or `sum` over the sequences.
            packed: The sequences.
        """
        hidden = self.dropout(encode(self.encoder, **packed))
        position_ids, lengths = packed["position_ids"], packed["lengths"]
        place = (rows_of(packed["starts"], tokens=len(position_ids)), position_ids)
        shape = (len(lengths), packed.get("longest") or max(lengths))
        start_logits, end_logits = _scores_in_rows(
            self.family.answer(self, hidden), place, shape, fill=-torch.inf
        ).unbind(-1)
        trims: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        if self.boundary is not None:
            trim_start_logits, trim_end_logits = self.boundary(hidden)
            trims = _scores_in_rows(trim_start_logits, place, shape), _scores_in_rows(trim_end_logits, place, shape)
        if start_positions is None or end_positions is None:
            return AnswerOutput(None, start_logits, end_logits, *trims)
        loss = F.cross_entropy(start_logits, start_positions, ignore_index=IGNORED, reduction="none")
        loss = loss + F.cross_entropy(end_logits, end_positions, ignore_index=IGNORED, reduction="none")
        boundaries = (trims[0], start_positions, trim_start), (trims[1], end_positions, trim_end)
        for logits, positions, target in boundaries:
            if logits is not None and target is not None:
                at = logits[torch.arange(len(positions), device=positions.device), positions.clamp(min=0)]
                losses = F.cross_entropy(at, target, ignore_index=IGNORED, reduction="none")
                loss = loss + self.boundary_weight * losses
        loss = loss / 2
        return AnswerOutput(loss.sum() if reduction == "sum" else loss.mean(), start_logits, end_logits, *trims)

    def padded_outputs(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        start_logits, end_logits = self.family.answer(self, hidden).unbind(-1)
        outputs = {"start_logits": start_logits, "end_logits": end_logits}
        if self.boundary is not None:
            outputs["trim_start_logits"], outputs["trim_end_logits"] = self.boundary(hidden)
        return outputs

    @staticmethod
    def packed_output(outputs: Mapping[str, torch.Tensor], packed: PackedInputs) -> AnswerOutput:
        beyond = ~is_token(packed["lengths"]).to(outputs["start_logits"].device)
        start_logits, end_logits = (
            outputs[name].masked_fill(beyond, -torch.inf) for name in ("start_logits", "end_logits")
        )
        trims = (
            outputs[name].masked_fill(beyond[..., None], 0.0) if name in outputs else None
            for name in ("trim_start_logits", "trim_end_logits")
        )
        return AnswerOutput(None, start_logits, end_logits, *trims)

    def mean_output(self, outputs: Sequence[AnswerOutput]) -> AnswerOutput:
        """Of the start and the end the mean of the logits as they are: by these the windows of a question are compared,
        and a softmax over each window would lose that."""
        starts, ends, *trims = list(zip(*outputs, strict=True))[1:]
        return AnswerOutput(
            None,
            *(torch.stack([each.float() for each in logits]).mean(0) for logits in (starts, ends)),
            *(None if logits[0] is None else mean_probabilities(logits) for logits in trims),
        )


def _scores_in_rows(
    values: torch.Tensor, place: tuple[torch.Tensor, torch.Tensor], shape: tuple[int, int], fill: float = 0.0
) -> torch.Tensor:
    """Values of shape (tokens, n) as float32 or better in rows of shape (sequences, width, n)."""
    values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    return in_rows(values, place, shape, fill)
