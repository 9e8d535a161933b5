"""What a study says of this task. Nothing here needs PyTorch: a mistake in a study file is found in no time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from kobert_core.config import DataConfig, ModelConfig, Objective, PositiveInt
from kobert_core.tasks.spec import TaskSpec
from kobert_core.tasks.token_classification.tags import Format, is_tag

INFER = "infer"
"""Instead of labels: those that the training file has."""


class TokenClassificationData(DataConfig):
    """Texts with named entities; `max_train_examples` and `max_dev_examples` count texts."""

    format: Format = "auto"
    """How the files are written; `auto` where their first lines leave no doubt."""
    labels: tuple[str, ...] = ()
    """Labels of the entities, such as `[PS, LC]`; their order is that of the tags. When not given, or `infer`: all
    labels of the training file, in order."""
    tag_names: tuple[str, ...] = ()
    """The tags that numbers stand for in records, from 0, such as `[O, B-PS, I-PS]`. A data set that has them as
    `ClassLabel` needs none."""
    text_column: str = "text"
    """Column of the text in records, and in tables to predict."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Longest window in tokens, special ones counted. A longer text has several windows."""
    stride: PositiveInt | None = None
    """From the start of a window to that of the next one, in tokens; half of what a window holds when not given."""

    @field_validator("labels", mode="before", json_schema_input_type=Literal["infer"] | list[str])
    @classmethod
    def _as_labels(cls, value: object) -> object:
        if value == INFER:
            return ()
        if isinstance(value, Iterable) and not isinstance(value, str | dict):
            return tuple(value)
        raise ValueError(f"give a list of labels, or `{INFER}`, not {value!r:.40}")

    @field_validator("tag_names")
    @classmethod
    def _are_tags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for tag in value:
            if not is_tag(tag):
                raise ValueError(f"{tag!r} is no tag: they are written O, B-PS, I-PS")
            if value.count(tag) > 1:
                raise ValueError(f"the tag {tag!r} is given twice")
        return value

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for label in value:
            if not label.strip() or label == "O":
                raise ValueError(f"{label!r} is no label of an entity")
            if value.count(label) > 1:
                raise ValueError(f"the label {label!r} is given twice")
        return value

    @model_validator(mode="after")
    def _windows_leave_nothing_out(self) -> TokenClassificationData:
        if self.stride is not None and self.stride > self.room:
            raise ValueError(
                "`stride <= max_length - 2` must hold, or tokens between windows are lost, "
                f"but got {self.stride} > {self.room}"
            )
        return self

    @property
    def room(self) -> int:
        """How many tokens of a text a window holds."""
        return self.max_length - 2

    @property
    def step(self) -> int:
        """From the start of a window to that of the next one, in tokens."""
        return self.stride or max(1, self.room // 2)


class TokenClassificationModel(ModelConfig):
    """A linear layer over the tokens."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of each target's mass that is spread over all tags."""
    class_weights: Literal["balanced"] | tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Weight in the loss of tokens outside of entities, then of those of each label in the order of `data.labels`;
    `balanced`: inverse to their frequency in the training examples."""


def infer_labels_of(data: dict[str, object]) -> None:
    """Put the labels of the training file in the place of `labels: infer`, or where none are given."""
    train = data.get("train")
    if data.get("labels", INFER) == INFER and isinstance(train, str | list):
        names = ("format", "tag_names", "text_column", "encoding", "delimiter", "header")
        try:
            how = TokenClassificationData.model_validate(
                {"train": train} | {name: data[name] for name in names if name in data}
            )
        except ValidationError:  # it will be said with all else that is wrong
            return
        if not how.train.is_here():
            return  # whoever reads it will say so, or infer them
        from kobert_core.tasks.token_classification.sentences import infer_labels

        data["labels"] = infer_labels(how.train, how.format, how.text_column, how.dialect, tag_names=how.tag_names)


SPEC = TaskSpec(
    name="tokens",
    Data=TokenClassificationData,
    Model=TokenClassificationModel,
    metrics=(
        "eval/f1",
        "eval/precision",
        "eval/recall",
        "eval/macro_f1",
        "eval/char_f1",
        "eval/accuracy",
        "eval/loss",
    ),
    objective=Objective(metric="eval/f1", mode="max"),
    pipeline_tag="token-classification",
    implementation="kobert_core.tasks.token_classification.task:TokenClassification",
    infer_data_settings=infer_labels_of,
)
