"""What a task's owner hears of its end."""

from __future__ import annotations

import asyncio

import pytest

from tuning.workers.broker import Broker


@pytest.mark.parametrize(("stopped", "heard"), [(False, "short"), (True, "error")])
def test_a_task_that_found_too_little_goes_on_unless_it_was_stopped(stopped: bool, heard: str) -> None:
    async def end() -> tuple[str, object]:
        broker = Broker(workers=1)
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
        broker, began = Broker(workers=1), []
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


def test_a_task_moves_when_its_node_is_about_to_leave() -> None:
    """Its workers leave it at their next step, and take no other; the free group of that node ends too."""

    async def move() -> tuple[list[str], list[int], bool, object, list[object]]:
        broker = Broker(workers=1)
        workers = [
            asyncio.create_task(broker.next(group, 0, b"", node=node, worn_out=False))
            for group, node in (("busy", "going"), ("free", "going"), ("other", "staying"))
        ]
        number = await broker.submit(b"task", owner=7)
        stopped = asyncio.create_task(broker.stopped(number))
        told = asyncio.create_task(broker.report(number, {}))  # type: ignore[typeddict-item]
        assert (await broker.take(number))[0] == "report"
        groups, owners = await broker.leave(["going"])
        assert await broker.leave(["going"]) == ([], []), "it is told once"
        await asyncio.wait_for(stopped, timeout=5)
        heard = asyncio.create_task(broker.take(number))
        goes_on = await told
        await broker.end(number, 0, "moved", None)
        again = await broker.submit(b"more", owner=7)
        ends = [await workers[0], await workers[1], await broker.next("busy", 0, b"", node="going", worn_out=False)]
        assert await workers[2] == (again, b"more"), "it goes on in the group that stays"
        return groups, owners, goes_on, (await heard)[0], ends

    groups, owners, goes_on, heard, ends = asyncio.run(move())
    assert (sorted(groups), owners, goes_on, heard) == (["busy", "free"], [7], True, "moved")
    assert ends == [(0, b"task"), None, None]


@pytest.mark.parametrize(("moves", "heard"), [(False, "lost"), (True, "moved")])
def test_a_node_that_goes_before_its_workers_have_left_is_no_failure(moves: bool, heard: str) -> None:
    async def lose() -> str:
        broker = Broker(workers=1)
        worker = asyncio.create_task(broker.next("group", 0, b"", node="going", worn_out=False))
        number = await broker.submit(b"task", owner=7)
        await worker
        await broker.leave(["going"] if moves else [])
        await broker.lost("group", "why")
        return (await broker.take(number))[0]

    assert asyncio.run(lose()) == heard


def test_a_task_that_is_stopped_as_it_moves_has_ended() -> None:
    async def stop() -> tuple[str, object]:
        broker = Broker(workers=1)
        worker = asyncio.create_task(broker.next("group", 0, b"", node="going", worn_out=False))
        number = await broker.submit(b"task", owner=7)
        await worker
        await broker.leave(["going"])
        await broker.stop(number)
        await broker.end(number, 0, "moved", None)
        return await broker.take(number)

    assert asyncio.run(stop()) == ("value", None)


def test_only_groups_without_a_task_end_when_there_are_too_many() -> None:
    async def retire() -> tuple[list[str], list[str], list[str], bool, bool]:
        broker = Broker(workers=1)
        workers = [
            asyncio.create_task(broker.next(group, 0, b"", node=group, worn_out=False)) for group in ("a", "b", "c")
        ]
        await broker.submit(b"task")
        gone = await broker.retire(1, ["a", "b"])  # the group on the node `c` ends by itself
        one, more = await broker.retire(1), await broker.retire(5)
        await asyncio.gather(*workers)
        return gone, one, more, await broker.call_off("a"), await broker.call_off("d")

    assert asyncio.run(retire()) == ([], ["c"], ["b"], False, True)


def test_who_waits_for_a_group_hears_that_none_will_come() -> None:
    async def wait() -> None:
        broker = Broker(workers=1)
        waiting = asyncio.create_task(broker.submit(b"task"))
        await asyncio.sleep(0.01)
        await broker.give_up("it cannot start")
        await waiting

    with pytest.raises(RuntimeError, match="it cannot start"):
        asyncio.run(wait())
