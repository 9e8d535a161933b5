"""What a task's owner hears of its end."""

from __future__ import annotations

import asyncio

import pytest

from tuning.workers.broker import Broker


@pytest.mark.parametrize(("stopped", "heard"), [(False, "short"), (True, "error")])
def test_a_task_that_found_too_little_goes_on_unless_it_was_stopped(stopped: bool, heard: str) -> None:
    async def end() -> tuple[str, object]:
        broker = Broker(groups=1, workers=1)
        worker = asyncio.create_task(broker.next("group", 0, b"", worn_out=False))
        number = await broker.submit(b"task", owner=7)
        assert await worker == (number, b"task")
        if stopped:
            await broker.stop_owned_by(7)
        await broker.end(number, 0, "short", "why")
        return await broker.take(number)

    assert asyncio.run(end()) == (heard, "why")


def test_a_task_waits_until_the_last_one_of_its_owner_is_done() -> None:
    """A group takes a paused trial up when the one that had it has written all that it wanted to."""

    async def take_up() -> list[bool]:
        broker, began = Broker(groups=2, workers=1), []
        workers = [asyncio.create_task(broker.next(group, 0, b"", worn_out=False)) for group in "ab"]
        first = await broker.submit(b"task", owner=7)
        await broker.stop_owned_by(7)
        again = asyncio.create_task(broker.submit(b"more", owner=7))
        await asyncio.sleep(0.05)
        began.append(again.done())
        await broker.end(first, 0, "value", None)
        await asyncio.wait_for(again, timeout=5)
        began.append(again.done())
        await asyncio.gather(*workers)
        return began

    assert asyncio.run(take_up()) == [False, True]
