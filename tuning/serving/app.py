"""The routes of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from kobert_core.texts import printable
from tuning.serving.batcher import OverloadedError
from tuning.serving.guard import CLIENT_GONE, Guard, OnRequest
from tuning.serving.model import Answer, Model, Row
from tuning.serving.schema import InvalidRequest, RefusedRequest, Schema, schema_of
from tuning.serving.settings import ServerSettings

Answering = Callable[[Sequence[Row]], Awaitable[list[Answer]]]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

PREDICT, BATCH, HEALTH, READY, METRICS = "/predict", "/predict/batch", "/health", "/ready", "/metrics"
PATHS = (PREDICT, BATCH, HEALTH, READY, METRICS, "/docs", "/openapi.json")
ERRORS_SHOWN, NAME_SHOWN = 20, 40
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": RefusedRequest, "description": "The body is not JSON in UTF-8"},
    408: {"model": RefusedRequest, "description": "The body took too long to come"},
    413: {"model": RefusedRequest, "description": "The body is too large"},
    422: {"model": InvalidRequest, "description": "The body does not fit the schema, or a row cannot be used"},
    503: {"model": RefusedRequest, "description": "Too many rows wait; `Retry-After` says when to try again"},
}


def make_app(
    model: Model,
    answer: Answering,
    settings: ServerSettings,
    *,
    title: str,
    on_request: OnRequest = lambda path, method, status, seconds: None,
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """The app of a model: it answers rows, alone and many at once.

    Args:
        model: Says what rows are, and which cannot be used.
        answer: Gives an answer a row; OverloadedError says that there is no room.
        settings: Limits of a request.
        title: What the OpenAPI page is called.
        on_request: Hears of each request its path, method, status and seconds.
        lifespan: What goes on around all requests.
    """
    app = FastAPI(
        title=title, version=version("kobert-tuning"), lifespan=lifespan, redoc_url=None, redirect_slashes=False
    )
    app.add_middleware(
        Guard, max_body=settings.max_body, body_seconds=settings.body_seconds, paths=PATHS, on_request=on_request
    )
    app.add_exception_handler(RequestValidationError, _refuse)
    schema = schema_of(model, max_rows=settings.max_rows, max_characters=settings.max_characters)
    _add_predictions(app, model, answer, schema)
    return app


def _add_predictions(app: FastAPI, model: Model, answer: Answering, schema: Schema) -> None:
    async def answered(request: Request, rows: Sequence[Row], places: Sequence[tuple[str | int, ...]]) -> list[Answer]:
        _check(model, rows, places)
        try:
            return await _unless_client_goes(request, answer(rows))
        except OverloadedError as error:
            detail = "too many rows wait for the model"
            raise HTTPException(503, detail, {"Retry-After": str(error.retry_after)}) from error

    async def predict(request: Request, row: BaseModel) -> Response:
        (found,) = await answered(request, [row.model_dump(by_alias=True)], [("body",)])
        return JSONResponse(found)

    async def predict_batch(request: Request, rows: BaseModel) -> Response:
        given = rows.model_dump(by_alias=True)["rows"]
        places = [("body", "rows", number) for number in range(len(given))]
        return JSONResponse({"answers": await answered(request, given, places)})

    # FastAPI takes the schema of a request from here: the types are those of this model.
    predict.__annotations__["row"], predict_batch.__annotations__["rows"] = schema.row, schema.rows
    for path, route, name, answers, summary in (
        (PREDICT, predict, "predict", schema.answer, "Answer for a row"),
        (BATCH, predict_batch, "predict_batch", schema.answers, "Answer for many rows"),
    ):
        app.add_api_route(
            path,
            route,
            methods=["POST"],
            response_model=answers,
            responses=REFUSALS,
            operation_id=name,
            summary=summary,
        )


async def _unless_client_goes(request: Request, answering: Awaitable[list[Answer]]) -> list[Answer]:
    """The answers; they are cancelled if the client closes its connection, as it does when its own patience ends.

    Raises:
        HTTPException: the client has gone.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        answered_by.reschedule(asyncio.get_running_loop().time())

    watching = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(None) as answered_by:
            return await answering
    except TimeoutError as error:
        if not answered_by.expired():
            raise
        raise HTTPException(CLIENT_GONE, "the client has gone") from error
    finally:
        watching.cancel()


def _check(model: Model, rows: Sequence[Row], places: Sequence[tuple[str | int, ...]]) -> None:
    """Refuse a request with rows that cannot be used."""
    problems = zip(map(model.problem, rows), places, strict=True)
    errors = [{"type": "value_error", "loc": place, "msg": problem} for problem, place in problems if problem]
    if errors:
        raise RequestValidationError(errors)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own answer to what does not fit, without what was given: clients log errors."""
    assert isinstance(error, RequestValidationError)
    shown = [
        {"type": one["type"], "loc": [*map(_shown, one["loc"])], "msg": one["msg"]}
        for one in error.errors()[:ERRORS_SHOWN]
    ]
    return JSONResponse({"detail": shown}, 422)


def _shown(part: str | int) -> str | int:
    """A part of a place; names of keys are the client's."""
    return printable(part[:NAME_SHOWN]) if isinstance(part, str) else part


def add_health(app: FastAPI, *, is_alive: Callable[[], bool], is_full: Callable[[], bool]) -> None:
    """Add what an orchestrator asks: whether the server must be started again, and whether it takes requests now."""

    async def health() -> Response:
        return _status(is_alive(), "ok", "the model's thread has ended")

    async def ready() -> Response:
        return _status(is_alive() and not is_full(), "ready", "too many rows wait for the model")

    for path, route, summary in ((HEALTH, health, "Whether it lives"), (READY, ready, "Whether it takes requests")):
        app.add_api_route(path, route, summary=summary)


def _status(is_good: bool, good: str, bad: str) -> Response:
    return JSONResponse({"status": good}) if is_good else JSONResponse({"detail": bad}, 503)


def add_metrics(app: FastAPI, text: Callable[[], bytes], content_type: str) -> None:
    """Add what Prometheus asks."""

    async def metrics() -> Response:
        return Response(text(), media_type=content_type)

    app.add_api_route(METRICS, metrics, summary="Metrics, in Prometheus's format", response_class=Response)
