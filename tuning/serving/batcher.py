"""Rows of requests that come at about the same time go through the model together."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from tuning.serving.model import Answer, Row

log = logging.getLogger(__name__)

SMOOTHING = 0.2
"""Weight of the newest batch in the mean of rows a second."""


class OverloadedError(Exception):
    """There is no room for more rows."""

    def __init__(self, retry_after: int) -> None:
        """`retry_after`: seconds after which there may be some."""
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


class Part(NamedTuple):
    """Rows of one request that are answered together."""

    rows: Sequence[Row]
    answers: asyncio.Future[list[Answer]]


class Batcher:
    """Gathers rows, and has one thread answer them: the event loop never waits for the model.

    A batch begins as soon as the model is free. It waits only for rows that are expected, as many as were there when
    the batch before it ended, answered or waiting: so a lone client never waits, and many at a time fill the batches.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[Row]], list[Answer]],
        *,
        rows: int,
        wait: float,
        room: int,
        on_batch: Callable[[int, float], object] = lambda rows, seconds: None,
    ) -> None:
        """Starts the thread.

        Args:
            predict: Gives an answer a row.
            rows: The most rows of a batch.
            wait: The most seconds that a batch waits for expected rows.
            room: The most rows that wait.
            on_batch: Hears of each batch its rows and the seconds that it took, in the thread.
        """
        self._predict, self._rows, self._wait, self._room, self._on_batch = predict, rows, wait, room, on_batch
        self._parts: deque[Part] = deque()
        self._waiting, self._expected, self._wanted = 0, 1, 1
        self._rows_a_second = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait for the model."""
        return self._waiting

    @property
    def is_alive(self) -> bool:
        """Whether rows will be answered."""
        return self._thread.is_alive()

    @property
    def is_full(self) -> bool:
        """Whether there is no room for one row more."""
        return self._waiting >= self._room

    async def answer(self, rows: Sequence[Row]) -> list[Answer]:
        """An answer a row, in their order. If it is cancelled, rows that wait still are withdrawn.

        Raises:
            OverloadedError: too many rows wait already.
        """
        parts = self._put(rows)
        try:
            results = await asyncio.gather(*(part.answers for part in parts), return_exceptions=True)
        except asyncio.CancelledError:
            self._make_room()
            raise
        for result in results:  # of a failure that nobody looks at, asyncio would log what it says
            if isinstance(result, BaseException):
                raise result
        return [answer for result in results for answer in cast(list[Answer], result)]

    def close(self) -> None:
        """Answer what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, rows: Sequence[Row]) -> list[Part]:
        loop = asyncio.get_running_loop()
        pieces = (rows[start : start + self._rows] for start in range(0, len(rows), self._rows))
        parts = [Part(piece, loop.create_future()) for piece in pieces]
        with self._changed:
            if self._waiting + len(rows) > self._room:
                raise OverloadedError(math.ceil(self._waiting / self._rows_a_second) if self._rows_a_second else 1)
            self._parts.extend(parts)
            self._waiting += len(rows)
            if self._waiting >= self._wanted:
                self._changed.notify()
        return parts

    def _make_room(self) -> None:
        """Forget what waits and nobody waits for."""
        with self._changed:
            self._parts = deque(part for part in self._parts if not part.answers.cancelled())
            self._waiting = sum(len(part.rows) for part in self._parts)

    def _work(self) -> None:
        while parts := self._take():
            if asked := [part for part in parts if not part.answers.cancelled()]:
                began = time.perf_counter()
                results = self._results(asked)
                # Before the clients hear of it: those that ask again at once are expected, not more than there are.
                self._record(sum(len(part.rows) for part in asked), time.perf_counter() - began)
                _settle(asked, results)

    def _take(self) -> list[Part]:
        """The parts of the next batch; none when the batcher is closed and nothing waits."""
        with self._changed:
            self._await(1, None)
            self._await(min(self._expected, self._rows), self._wait)
            while not self._parts and not self._closed:  # those that had come went again
                self._await(1, None)
            taken, rows = list[Part](), 0
            while self._parts and rows + len(self._parts[0].rows) <= self._rows:
                part = self._parts.popleft()
                taken.append(part)
                rows += len(part.rows)
            self._waiting -= rows
            return taken

    def _await(self, rows: int, seconds: float | None) -> None:
        self._wanted = rows
        self._changed.wait_for(lambda: self._waiting >= rows or self._closed, seconds)
        self._wanted = 1

    def _record(self, rows: int, seconds: float) -> None:
        self._on_batch(rows, seconds)
        with self._changed:
            self._expected = max(1, rows + self._waiting)
            newest = rows / max(seconds, 1e-6)
            self._rows_a_second += (newest - self._rows_a_second) * (SMOOTHING if self._rows_a_second else 1.0)

    def _results(self, parts: Sequence[Part]) -> list[list[Answer] | Exception]:
        """Answers of parts together; where that fails, of each alone, so that no request spoils another."""
        try:
            answers = iter(self._predict([row for part in parts for row in part.rows]))
        except Exception as error:  # the model's, or of a device without memory
            return [error] if len(parts) == 1 else [result for part in parts for result in self._results([part])]
        return [list(itertools.islice(answers, len(part.rows))) for part in parts]


def _settle(parts: Sequence[Part], results: Sequence[list[Answer] | Exception]) -> None:
    """Hand results to the event loop, all at once: it is woken once a batch."""

    def settle() -> None:
        for part, result in zip(parts, results, strict=True):
            if part.answers.done():
                continue
            if isinstance(result, Exception):
                part.answers.set_exception(result)
            else:
                part.answers.set_result(result)

    try:
        parts[0].answers.get_loop().call_soon_threadsafe(settle)
    except RuntimeError:
        log.warning("the server ended before %d request(s) were answered", len(parts))
