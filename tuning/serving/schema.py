"""What requests and answers of a model look like, as pydantic models, from which the OpenAPI page is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, create_model

from tuning.serving.model import Model

EXAMPLES = {
    "text": "정말 재미있게 봤어요",
    "pair": "지루할 틈이 없었다",
    "context": "민수는 어제 부산에서 사과 세 개를 샀다.",
    "question": "민수는 어디에서 사과를 샀는가?",
}


class Entity(BaseModel):
    """A part of the text."""

    start: int = Field(description="Where it begins, in characters.")
    end: int = Field(description="Where it ends: the first character behind it.")
    label: str
    text: str = Field(description="What stands there.")
    score: float = Field(description="The mean probability of its tags.")


class ErrorDetail(BaseModel):
    """What is wrong with a request."""

    type: str = Field(examples=["missing"])
    loc: list[str | int] = Field(examples=[["body", "text"]])
    msg: str = Field(examples=["Field required"])


class InvalidRequest(BaseModel):
    """A request that does not fit the schema, or a row that cannot be used."""

    detail: list[ErrorDetail]


class RefusedRequest(BaseModel):
    """A request that was refused as a whole."""

    detail: str


LISTS: dict[str, Any] = {"entities": list[Entity], "labels": list[str]}
"""Types of what may be empty in an answer: one answer alone does not tell them."""


class Schema(NamedTuple):
    """The types of one model."""

    row: type[BaseModel]
    rows: type[BaseModel]
    answer: type[BaseModel]
    answers: type[BaseModel]


def example_row(model: Model) -> dict[str, str]:
    """A row of the kind that the model takes."""
    return {column: EXAMPLES.get(column, "안녕하세요") for column in model.columns}


def schema_of(model: Model, *, max_rows: int, max_characters: int) -> Schema:
    """The types of requests and answers; an example of both is what the model answers now."""
    row = example_row(model)
    (answer,) = model.predict([row])
    text = Annotated[str, Field(min_length=1, max_length=max_characters)]
    row_type = _model("Row", {column: text for column in model.columns}, row)
    answer_type = _model("Answer", {name: LISTS.get(name, type(value)) for name, value in answer.items()}, answer)
    some = Annotated[list[row_type], Field(min_length=1, max_length=max_rows)]  # type: ignore[valid-type]
    return Schema(
        row=row_type,
        rows=_model("Rows", {"rows": some}, {"rows": [row]}),
        answer=answer_type,
        answers=_model("Answers", {"answers": list[answer_type]}, {"answers": [answer]}),  # type: ignore[valid-type]
    )


def _model(name: str, fields: Mapping[str, Any], example: Mapping[str, Any]) -> type[BaseModel]:
    """A model whose fields may have any names, such as those of labels."""
    config = ConfigDict(extra="forbid", json_schema_extra={"examples": [dict(example)]})
    given: dict[str, Any] = {
        f"field_{number}": (kind, Field(alias=field, title=field))
        for number, (field, kind) in enumerate(fields.items())
    }
    made: type[BaseModel] = create_model(name, __config__=config, **given)
    return made
