"""What requests and answers of a model look like, as pydantic models, from which the OpenAPI page is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, create_model

from tuning.serving.model import Model


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


class Schema(NamedTuple):
    """The types of one model."""

    row: type[BaseModel]
    rows: type[BaseModel]
    answer: type[BaseModel]
    answers: type[BaseModel]


def schema_of(model: Model, *, max_rows: int, max_characters: int) -> Schema:
    """The types of requests and answers; an example of both is what the model answers now."""
    row = model.example
    (answer,) = model.predict([row])
    text = Annotated[str, Field(min_length=1, max_length=max_characters)]
    row_type = _model("Row", {column: text for column in model.columns}, row)
    answer_type = _model("Answer", model.answer_types, answer)
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
