"""What a study says of labelled texts, whatever their labels are. Nothing here needs PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from kobert_core.config import DataConfig, ModelConfig
from kobert_core.tasks.labelled_texts.cells import one_label
from kobert_core.tasks.labelled_texts.columns import DEFAULT_ID, Columns
from kobert_core.texts import distinct, folded

INFER = "infer"
"""Instead of labels: those that the training file has."""

PLAIN_HEAD = "pooled_head.safetensors"
"""File of the head's weights, where transformers has no such head."""
NO_CLASS_OF_TRANSFORMERS = (
    "no class of transformers has this `model.pooling`: an export answers through kobert-tune (predict, serve, ONNX, "
    "MLflow), while AutoModel loads its encoder alone"
)

Truncate = Literal["head", "tail", "head_tail"]

ColumnName = Annotated[
    str, BeforeValidator(lambda name: str(name) if type(name) is int else name, json_schema_input_type=int | str)
]
"""A file without a header has numbers for names, from 0."""


class LabelledTextsData(DataConfig):
    """A table with a text, or a pair of texts, in each row."""

    text_column: ColumnName = "text"
    """Column of the text."""
    pair_column: ColumnName | None = None
    """Column of the second text, where a row is a pair."""
    id_column: ColumnName | None = DEFAULT_ID
    """Column of the id, which must be unique; may be missing from the file."""
    max_length: Annotated[int, Field(ge=3)] = 128
    """Longest example in tokens, special ones counted; the rest of a text is cut off, of a pair from the longer one."""
    truncate: Truncate = "head"
    """Which part of a text that is too long is kept: its `head`, its `tail`, or `head_tail`: a quarter from its
    beginning, the rest from its end (Sun et al. 2019, How to Fine-Tune BERT for Text Classification)."""

    @property
    def label_columns_read(self) -> tuple[str, ...]:
        """The columns of the labels."""
        raise NotImplementedError

    @property
    def columns(self) -> Columns:
        """The names of the columns, as the reader takes them."""
        return Columns(text=self.text_column, pair=self.pair_column, labels=self.label_columns_read, id=self.id_column)


class TextModel(ModelConfig):
    """The head that transformers has for the encoder's family."""

    pooling: Literal["auto", "pooler", "cls", "mean"] = "auto"
    """What the head takes for a text: its first token through a dense layer (`pooler`), its first token (`cls`), or the
    mean of its tokens; `auto`: what the encoder's family has. Where transformers has no such head, it loads an export's
    encoder alone."""


_Written = str | bool | int | float
"""A label or name as it may stand in YAML."""


def text_of(value: object) -> str:
    """A label or name as it is written in YAML."""
    if not isinstance(value, str | int | float):
        raise ValueError(f"a label, or the name of one, must be a text, but got {value!r:.40}")
    return str(value).lower() if isinstance(value, bool) else str(value)


Label = Annotated[str, BeforeValidator(text_of, json_schema_input_type=_Written)]


class NamedLabelsData(LabelledTextsData):
    """Texts with labels out of a set."""

    labels: dict[str, str] = Field(min_length=2)
    """Name of each label as it stands in the file, in the order of the model's outputs. In a study file also a list of
    labels, which are their own names, or `infer`: all labels of the training file, in order."""

    def labels_of(self, values: Sequence[object]) -> list[str]:
        """The labels of a row as they stand there, from the values of its label columns."""
        return one_label(values)

    @field_validator(
        "labels",
        mode="before",
        json_schema_input_type=Literal["infer"]
        | Annotated[list[_Written], Field(min_length=2)]
        | Annotated[dict[str, _Written], Field(min_length=2)],
    )
    @classmethod
    def _as_text(cls, value: object) -> object:
        if isinstance(value, list):
            labels = [text_of(label) for label in value]
            if twice := next((label for label, count in Counter(labels).items() if count > 1), None):
                raise ValueError(f"the label {twice!r} is given twice")
            value = dict(zip(labels, labels, strict=True))
        if value == INFER:
            raise ValueError("labels can be inferred where a study file names `train` and its columns")
        if not isinstance(value, dict):
            raise ValueError(f"give a mapping of labels to names, a list of labels, or `{INFER}`, not {value!r:.40}")
        return {text_of(label): text_of(name) for label, name in value.items()}

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


def infer_labels_of(data: dict[str, object], section: type[NamedLabelsData]) -> None:
    """Put the labels of the training file in the place of `labels: infer`.

    Args:
        data: The `data` section of a study.
        section: What it is to become.
    """
    train = data.get("train")
    if data.get("labels") != INFER or not isinstance(train, str | list):
        return
    read_by = ("no_label", "encoding", "delimiter", "header")
    given = {
        name: value for name, value in data.items() if "_column" in name or "_separator" in name or name in read_by
    }
    try:
        read = section.model_validate({"train": train, **given, "labels": ["a label", "another"]})
    except ValidationError:
        return  # it will be said with all else that is wrong
    from kobert_core.tasks.labelled_texts.rows import infer_labels

    data["labels"] = infer_labels(read.train, read.columns, read.labels_of, read.dialect)
