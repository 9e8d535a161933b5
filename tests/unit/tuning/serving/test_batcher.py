"""The batcher: what goes together, who waits, and what happens when the model fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from tuning.serving.batcher import Batcher, OverloadedError
from tuning.serving.model import Answer, Row


def rows_of(name: str, count: int) -> list[Row]:
    return [{"text": f"{name}-{number}"} for number in range(count)]


class Echo:
    """Answers with the text, when it is let."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self._seconds = seconds

    def __call__(self, rows: Sequence[Row]) -> list[Answer]:
        assert self.go.wait(10)
        time.sleep(self._seconds)
        self.batches.append(len(rows))
        if any(row["text"] == "bad-0" for row in rows):
            raise ValueError("a text")
        return [{"said": row["text"]} for row in rows]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def batcher(model: Echo, **options: Any) -> Batcher:
    return Batcher(model, **{"rows": 8, "wait": 0.05, "room": 100} | options)


async def asked(gathers: Batcher, *rows: list[Row]) -> list[asyncio.Task[list[Answer]]]:
    """Requests that the batcher has."""
    tasks = [asyncio.create_task(gathers.answer(those)) for those in rows]
    await asyncio.sleep(0)
    return tasks


async def until_taken(gathers: Batcher) -> None:
    while gathers.waiting:
        await asyncio.sleep(0.001)


def test_each_request_gets_its_own_answers_whatever_goes_together() -> None:
    model = Echo()
    gathers = batcher(model)

    async def test() -> None:
        sizes = [1, 3, 8, 20, 2, 1, 9]
        model.go.clear()
        requests = await asked(gathers, *(rows_of(str(size), size) for size in sizes))
        model.go.set()
        for size, answers in zip(sizes, await asyncio.gather(*requests), strict=True):
            assert [one["said"] for one in answers] == [row["text"] for row in rows_of(str(size), size)]

    run(test)
    gathers.close()
    assert sum(model.batches) == 44 and max(model.batches) == 8 and len(model.batches) <= 10
    assert not gathers.is_alive and gathers.waiting == 0


def test_a_lone_client_never_waits_for_others() -> None:
    gathers = batcher(Echo(), wait=100.0)

    async def test() -> None:
        for number in range(20):
            async with asyncio.timeout(50):  # half of a wait
                await gathers.answer(rows_of(str(number), 1))

    run(test)
    gathers.close()


def test_clients_that_come_again_and_again_fill_batches() -> None:
    model = Echo(seconds=0.005)
    gathers = batcher(model, wait=0.5)

    async def client(name: str) -> None:
        for _ in range(20):
            await gathers.answer(rows_of(name, 1))

    async def test() -> None:
        await asyncio.gather(*(client(str(number)) for number in range(6)))

    run(test)
    gathers.close()
    assert sum(model.batches) == 120 and sorted(model.batches)[len(model.batches) // 2] == 6


def test_what_fails_spoils_no_other_request() -> None:
    model = Echo()
    gathers = batcher(model)

    async def test() -> None:
        model.go.clear()
        (first,) = await asked(gathers, rows_of("first", 1))
        await until_taken(gathers)
        good, bad, more = await asked(gathers, *(rows_of(name, 2) for name in ("good", "bad", "more")))
        model.go.set()
        assert len(await first) == 1 and len(await good) == len(await more) == 2
        with pytest.raises(ValueError):
            await bad

    run(test)
    gathers.close()
    assert model.batches[:2] == [1, 6]


def test_there_is_room_for_so_many_rows_and_what_clients_no_longer_wait_for_takes_none() -> None:
    model = Echo()
    gathers = batcher(model, room=10)

    async def test() -> None:
        model.go.clear()
        (first,) = await asked(gathers, rows_of("first", 1))
        await until_taken(gathers)
        (gone,) = await asked(gathers, rows_of("gone", 10))
        assert gathers.is_full and gathers.waiting == 10
        with pytest.raises(OverloadedError) as refused:
            await gathers.answer(rows_of("more", 1))
        assert refused.value.retry_after >= 1
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        (again,) = await asked(gathers, rows_of("again", 10))  # while the model is still at the first
        model.go.set()
        assert len(await first) == 1 and len(await again) == 10

    run(test)
    gathers.close()
    assert sum(model.batches) == 11
