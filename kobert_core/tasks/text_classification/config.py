"""What a study says of this task. Nothing here needs PyTorch: a mistake in a study file is found in no time."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from kobert_core.config import Objective
from kobert_core.tasks.labelled_texts.config import (
    INFER,
    ColumnName,
    NamedLabelsData,
    TextModel,
    infer_labels_of,
)
from kobert_core.tasks.spec import TaskSpec


class TextClassificationData(NamedLabelsData):
    """Texts, or pairs of them, each of one class."""

    label_column: ColumnName = "label"
    """Column of the label."""

    @property
    def label_columns_read(self) -> tuple[str, ...]:
        return (self.label_column,)


class NsmcData(TextClassificationData):
    """NAVER movie reviews, or texts in a file like theirs."""

    text_column: ColumnName = "document"
    """Column of the text."""
    labels: dict[str, str] = Field(default={"0": "negative", "1": "positive"}, min_length=2)
    """Name of the class for each label, as for `classification`."""


class TextClassificationModel(TextModel):
    """An output a class."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of each target's mass that is spread over all classes."""
    class_weights: Literal["balanced"] | tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Weight of each class in the loss; `balanced` is inverse to its frequency in the training examples."""


def infer_given(data: dict[str, object]) -> None:
    """Labels are inferred where the study says so."""
    infer_labels_of(data, NsmcData)


def infer_by_default(data: dict[str, object]) -> None:
    """Labels are inferred where the study gives none."""
    data.setdefault("labels", INFER)
    infer_labels_of(data, TextClassificationData)


CLASSIFICATION = TaskSpec(
    name="classification",
    Data=TextClassificationData,
    Model=TextClassificationModel,
    metrics=(
        "eval/accuracy",
        "eval/f1",
        "eval/f1_micro",
        "eval/f1_weighted",
        "eval/balanced_accuracy",
        "eval/roc_auc",
        "eval/average_precision",
        "eval/loss",
    ),
    objective=Objective(metric="eval/accuracy", mode="max"),
    pipeline_tag="text-classification",
    takes_soft_labels=True,
    implementation="kobert_core.tasks.text_classification.task:TextClassification",
    infer_data_settings=infer_by_default,
)
NSMC = replace(
    CLASSIFICATION,
    name="nsmc",
    Data=NsmcData,
    metrics=("eval/accuracy", "eval/f1", "eval/loss"),
    implementation="kobert_core.tasks.text_classification.task:Nsmc",
    infer_data_settings=infer_given,
)
