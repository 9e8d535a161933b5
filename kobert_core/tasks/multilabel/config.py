"""What a study says of this task. Nothing here needs PyTorch: a mistake in a study file is found in no time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kobert_core.config import Objective
from kobert_core.tasks.labelled_texts.config import (
    INFER,
    ColumnName,
    Label,
    NamedLabelsData,
    TextModel,
    infer_labels_of,
)
from kobert_core.tasks.labelled_texts.labels import label_set
from kobert_core.tasks.spec import TaskSpec


class MultilabelData(NamedLabelsData):
    """Texts, or pairs of them, each with any number of labels."""

    label_column: ColumnName | Annotated[tuple[ColumnName, ...], Field(min_length=1)] = "labels"
    """Column of the labels, or several columns: a list, as JSON and Parquet have it, or a text with `label_separator`
    between labels."""
    label_separator: Annotated[str, Field(min_length=1)] = ","
    """Stands between the labels of a text file; blanks around a label do not count."""
    no_label: Label | None = None
    """What stands there for no label, such as `none`."""
    label_columns: tuple[ColumnName, ...] | None = None
    """In the place of `label_column`: a column for each label, with 1 or true where a row has it. Names of `labels`
    are then those of the columns."""

    @model_validator(mode="after")
    def _columns_are_the_labels(self) -> MultilabelData:
        if self.label_columns is not None and tuple(self.labels) != self.label_columns:
            raise ValueError("with `label_columns`, `labels` must name these in the same order, or be left out")
        return self

    @model_validator(mode="after")
    def _no_label_is_none(self) -> MultilabelData:
        if self.no_label in self.labels:
            raise ValueError(f"`no_label` is {self.no_label!r}, which is one of `labels`")
        return self

    @property
    def label_columns_read(self) -> tuple[str, ...]:
        if self.label_columns is not None:
            return self.label_columns
        return (self.label_column,) if isinstance(self.label_column, str) else self.label_column

    def labels_of(self, values: Sequence[object]) -> list[str]:
        return label_set(values, self.label_separator, self.no_label)


class MultilabelModel(TextModel):
    """An output a label; their mean binary cross-entropy is the loss."""

    class_weights: Literal["balanced"] | tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """How much more it weighs in the loss that an example has a label than that another has not, a number a label;
    `balanced`: as often as the training examples have it not for each time that they have it."""


def infer_by_default(data: dict[str, object]) -> None:
    """Labels are those of `label_columns`, or inferred where the study gives none."""
    columns = data.get("label_columns")
    data.setdefault("labels", list(columns) if isinstance(columns, list) else INFER)
    infer_labels_of(data, MultilabelData)


SPEC = TaskSpec(
    name="multilabel",
    Data=MultilabelData,
    Model=MultilabelModel,
    metrics=(
        "eval/f1",
        "eval/f1_micro",
        "eval/f1_weighted",
        "eval/exact_match",
        "eval/roc_auc",
        "eval/average_precision",
        "eval/loss",
    ),
    objective=Objective(metric="eval/f1", mode="max"),
    pipeline_tag="text-classification",
    takes_soft_labels=True,
    implementation="kobert_core.tasks.multilabel.task:Multilabel",
    infer_data_settings=infer_by_default,
)
