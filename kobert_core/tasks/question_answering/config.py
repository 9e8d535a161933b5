"""What a study says of this task. Nothing here needs PyTorch: a mistake in a study file is found in no time."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from kobert_core.config import DataConfig, ModelConfig, Objective, PositiveInt
from kobert_core.tasks.spec import TaskSpec


class Lengths(NamedTuple):
    """The sizes of windows, in pieces."""

    max_seq_length: int = 384
    """Longest window, `[CLS] question [SEP] context [SEP]`."""
    doc_stride: int = 128
    """From the start of a window's part of the context to that of the next one."""
    max_query_length: int = 64
    """Longest question; the rest of it is cut off."""


class QuestionAnsweringData(DataConfig):
    """Questions on contexts in JSON files in the format of SQuAD; a dev split is carved by article.

    `max_train_examples` and `max_dev_examples` count questions.
    """

    max_seq_length: Annotated[int, Field(ge=8)] = 384
    """Longest window in tokens: `[CLS] question [SEP] context [SEP]`."""
    doc_stride: PositiveInt = 128
    """From the start of a window's part of the context to that of the next one, in tokens."""
    max_query_length: PositiveInt = 64
    """Longest question in tokens; the rest of it is cut off."""

    @model_validator(mode="after")
    def _windows_leave_nothing_out(self) -> QuestionAnsweringData:
        room = self.max_seq_length - self.max_query_length - 3
        if self.doc_stride > room:
            raise ValueError(
                "`doc_stride <= max_seq_length - max_query_length - 3` must hold, or tokens between windows are lost, "
                f"but got {self.doc_stride} > {room}"
            )
        return self

    @property
    def lengths(self) -> Lengths:
        """The sizes of the windows."""
        return Lengths(self.max_seq_length, self.doc_stride, self.max_query_length)


class QuestionAnsweringModel(ModelConfig):
    """A linear layer over the tokens, the boundary head on top, and how answers are read from both."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the heads; BERT has none there."""
    boundary_head: bool = True
    """Predict too how many characters of the first and last piece are no part of the answer."""
    boundary_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the boundary head's loss."""
    n_best: PositiveInt = 20
    """So many starts and so many ends of a window are combined."""
    max_answer_length: PositiveInt = 30
    """Longest answer in pieces."""
    trim: bool = True
    """Cut off the characters that the boundary head says."""
    null_threshold: float | None = None
    """No answer is given where its score is above the best answer's by more than this. When not given: chosen for
    F1 on the dev split if that has questions without answers; otherwise every question is answered."""


QA = TaskSpec(
    name="qa",
    Data=QuestionAnsweringData,
    Model=QuestionAnsweringModel,
    metrics=("eval/f1", "eval/exact_match", "eval/loss"),
    objective=Objective(metric="eval/f1", mode="max"),
    pipeline_tag="question-answering",
    predictions_by_id=True,
    implementation="kobert_core.tasks.question_answering.task:QuestionAnswering",
)
KORQUAD = replace(QA, name="korquad", implementation="kobert_core.tasks.question_answering.task:Korquad")
