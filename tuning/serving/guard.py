"""What stands before all routes: limits of a request's body, counting, and errors that show and log no text."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]
OnRequest = Callable[[str, str, int, float], object]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "other"
CLIENT_GONE = 499
"""As nginx counts requests whose client did not wait for the answer."""

log = logging.getLogger(__name__)


class Guard:
    """An ASGI middleware."""

    def __init__(
        self, app: Asgi, *, max_body: int, body_seconds: float, paths: Collection[str], on_request: OnRequest
    ) -> None:
        """Around an app.

        Args:
            app: Answers requests.
            max_body: The most bytes of a body.
            body_seconds: How long it may take to come.
            paths: Those that are counted by their names.
            on_request: Hears of each request its path, method, status and seconds.
        """
        self._app, self._max_body, self._body_seconds = app, max_body, body_seconds
        self._paths, self._on_request = paths, on_request

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), CLIENT_GONE

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, self._limited(scope, receive), counted)
        except Exception as error:
            log.error("a request failed: %s", where_it_failed(error))
            if status == CLIENT_GONE:
                await JSONResponse({"detail": "Internal Server Error"}, 500)(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else OTHER
            method = scope["method"] if scope["method"] in METHODS else OTHER
            self._on_request(path, method, status, time.perf_counter() - began)

    def _limited(self, scope: Message, receive: Receive) -> Receive:
        """The body of a request, which ends where it becomes too large or takes too long.

        FastAPI hands an HTTPException of its reading on.
        """
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        deadline = time.monotonic() + self._body_seconds
        size, is_whole = int(announced) if announced.isdigit() else 0, False
        read = 0

        async def limited() -> Message:
            nonlocal read, is_whole
            if is_whole:
                return await receive()
            if size > self._max_body:
                raise self._too_large()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the request took too long to come", {"Connection": "close"}) from None
            read += len(message.get("body", b""))
            if read > self._max_body:
                raise self._too_large()
            is_whole = not message.get("more_body", False)
            return message

        return limited

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than {self._max_body:,} bytes", {"Connection": "close"})


def where_it_failed(error: BaseException) -> str:
    """The kind of an error and its place in the code; not what it says, which may hold a text."""
    *_, frame = traceback.extract_tb(error.__traceback__) or [None]
    return type(error).__name__ + (f" at {frame.filename}:{frame.lineno}" if frame else "")
