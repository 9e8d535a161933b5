"""What a study says of this task. Nothing here needs PyTorch: a mistake in a study file is found in no time."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, field_validator

from kobert_core.config import DataConfig, ModelConfig, Objective
from kobert_core.tasks.spec import TaskSpec
from kobert_core.tasks.text_classification.columns import Columns
from kobert_core.texts import distinct, folded

INFER = "infer"
"""Instead of labels: those that the training file has."""


class TextClassificationData(DataConfig):
    """Labelled texts in a TSV, CSV, JSON Lines or Parquet file."""

    text_column: str = "document"
    """Column of the text."""
    label_column: str = "label"
    """Column of the label."""
    id_column: str | None = "id"
    """Column of the id, which must be unique; may be missing from the file."""
    labels: dict[str, str] = Field(default={"0": "negative", "1": "positive"}, min_length=2)
    """Name of the class for each label as it stands in the file; their order is the class index. In a study file also
    a list of labels, which are their own names, or `infer`: all labels of the training file, in order."""
    max_length: Annotated[int, Field(ge=3)] = 128
    """Longest example in tokens, `[CLS]` and `[SEP]` counted; the rest of a text is cut off."""

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        if isinstance(value, list):
            labels = [_text(label) for label in value]
            if twice := next((label for label, count in Counter(labels).items() if count > 1), None):
                raise ValueError(f"the label {twice!r} is given twice")
            value = dict(zip(labels, labels, strict=True))
        if value == INFER:
            raise ValueError("labels can be inferred where a study file names `train` and its columns")
        if not isinstance(value, dict):
            raise ValueError(f"give a mapping of labels to names, a list of labels, or `{INFER}`, not {value!r:.40}")
        return {_text(label): _text(name) for label, name in value.items()}

    @field_validator("labels")
    @classmethod
    def _names_differ(cls, value: dict[str, str]) -> dict[str, str]:
        names: dict[str, str] = {}
        for label, name in value.items():
            if not label.strip() or not name.strip():
                raise ValueError("a label, or the name of one, is empty")
            if (looks := folded(name)) in names:
                alike = f"{distinct(names[looks])} and {distinct(name)}"
                raise ValueError(f"each label needs a name of its own, but {alike} look the same")
            names[looks] = name
        return value

    @property
    def columns(self) -> Columns:
        """The names of the columns, as the reader takes them."""
        return Columns(text=self.text_column, label=self.label_column, id=self.id_column)


class TextClassificationModel(ModelConfig):
    """The head that transformers has for the encoder's family."""

    pooling: Literal["auto", "pooler", "cls", "mean"] = "auto"
    """What the head takes for a text: its first token through a dense layer (`pooler`), its first token (`cls`), or the
    mean of its tokens; `auto`: what the encoder's family has. Others than transformers has for it are refused."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of each target's mass that is spread over all classes."""
    class_weights: Literal["balanced"] | tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Weight of each class in the loss; `balanced` is inverse to its frequency in the training examples."""


def infer_labels_of(data: dict[str, object]) -> None:
    """Put the labels of the training file in the place of `labels: infer`."""
    train = data.get("train")
    if data.get("labels") == INFER and isinstance(train, str):
        given = {name: data[name] for name in ("text_column", "label_column", "id_column") if name in data}
        if all(isinstance(value, str | None) for value in given.values()):
            from kobert_core.tasks.text_classification.rows import infer_labels

            columns = TextClassificationData.model_validate({"train": train, **given}).columns
            data["labels"] = infer_labels(train, columns)


def _text(value: object) -> str:
    """A label or name as it is written in YAML."""
    if not isinstance(value, str | int | float):
        raise ValueError(f"a label, or the name of one, must be a text, but got {value!r:.40}")
    return str(value).lower() if isinstance(value, bool) else str(value)


SPEC = TaskSpec(
    name="nsmc",
    Data=TextClassificationData,
    Model=TextClassificationModel,
    metrics=("eval/accuracy", "eval/f1", "eval/loss"),
    objective=Objective(metric="eval/accuracy", mode="max"),
    pipeline_tag="text-classification",
    implementation="kobert_core.tasks.text_classification.task:TextClassification",
    infer_data_settings=infer_labels_of,
)
