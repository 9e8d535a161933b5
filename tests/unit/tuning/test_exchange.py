"""What a task's owner hears of its end."""

from __future__ import annotations

import asyncio

import pytest

from tuning.exchange import Exchange


@pytest.mark.parametrize(("stopped", "heard"), [(False, "short"), (True, "error")])
def test_a_task_that_found_too_little_goes_on_unless_it_was_stopped(stopped: bool, heard: str) -> None:
    async def end() -> tuple[str, object]:
        exchange = Exchange(groups=1, workers=1)
        worker = asyncio.create_task(exchange.next("group", 0, b"", worn_out=False))
        number = await exchange.submit(b"task", owner=7)
        assert await worker == (number, b"task")
        if stopped:
            await exchange.stop_owned_by(7)
        await exchange.end(number, 0, "short", "why")
        return await exchange.take(number)

    assert asyncio.run(end()) == (heard, "why")
