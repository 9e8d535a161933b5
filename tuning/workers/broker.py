"""The broker: an actor that passes tasks to worker groups, and their reports back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Concatenate, Generic, Literal, NotRequired, ParamSpec, TypedDict, TypeVar

from ray import cloudpickle

if TYPE_CHECKING:
    from ray import ObjectRef

P = ParamSpec("P")
T = TypeVar("T")
Function = Callable[..., object]
"""Runs on every worker of a group as `function(runtime, **arguments)`; what rank 0 returns is the task's value."""
Kind = Literal["report", "value", "error", "input", "short", "lost", "moved"]
Message = tuple[Kind, object]
"""`("report", …)` any number of times, then `("value", …)`, `("error", traceback)`, `("input", line)` for what a user
gave, `("short", traceback)` where memory or disk space ran out or a store was away, `("lost", reason)`, or
`("moved", reason)` where the node is about to leave: the task is to go on in another group."""


STOPPED_FIRST = "the task was stopped before it began"


class TaskStopped(RuntimeError):
    """Nobody wants a task any more that waited for a group."""


class ReportContent(TypedDict):
    """A `kobert_core.runtime.Report` as plain values."""

    progress: int
    step: int
    metrics: dict[str, float]
    is_best: bool
    checkpoint: str | None
    micro_batch: int | None
    landed: NotRequired[str | None]
    """Of a sweep in an object store: the name of the newest checkpoint that is whole there."""


def packed(function: Function, **arguments: object) -> bytes:
    """A task in pickled form: the broker need not import what the function needs."""
    packed_task: bytes = cloudpickle.dumps((function, arguments))
    return packed_task


@dataclass
class Lease:
    """One task on one group."""

    group: str
    owner: int | None
    task: bytes
    """From `packed`."""
    outcome: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """It is over, or to be."""
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    """Its workers are to leave it at their next step."""
    told: int = 0
    """Reports so far."""
    asked: int = 0
    """How often the owner asked for the next message; more than `told` means: continue."""
    ended: set[int] = field(default_factory=set)
    """Ranks that are done with it."""
    alive: dict[int, float] = field(default_factory=dict)
    """When the broker last heard of each rank, in seconds of its own clock."""

    def undecided(self) -> bool:
        """Whether its workers wait for a decision on their report."""
        return self.asked <= self.told and not self.stop.is_set()

    def end(self) -> None:
        """Stop it."""
        self.stop.set()
        self.leave.set()

    def moves(self) -> bool:
        """Whether its workers leave it for another group."""
        return self.leave.is_set() and not self.stop.is_set()


@dataclass(eq=False)
class Ticket:
    """A task that waits for a group."""

    owner: int | None
    cancelled: bool = False


class Broker:
    """Runs as an actor between trials, which lease groups, and the workers of the groups."""

    def __init__(self, workers: int) -> None:
        """For groups of so many workers."""
        self._workers = workers
        self._leases: list[Lease] = []
        self._inboxes: dict[tuple[str, int], asyncio.Queue[int | None]] = {}
        self._waiting: dict[str, int] = {}
        self._worn_out: set[str] = set()
        self._handles: dict[str, dict[int, bytes]] = {}
        self._nodes: dict[str, set[str]] = {}
        self._leaving: set[str] = set()
        self._silent: dict[str, str] = {}
        self._free: deque[str] = deque()
        self._tickets: deque[Ticket] = deque()
        self._changed = asyncio.Condition()
        self._closed = False
        self._broken: str | None = None

    async def submit(self, task: bytes, owner: int | None = None) -> int:
        """Hand a task, from `packed`, to the next free group; its number. First come, first served: but not before the
        workers of its owner's last task are done, which may still be writing.

        Raises:
            TaskStopped: the task was stopped before it began.
            RuntimeError: no group is left.
        """
        ticket = Ticket(owner)
        self._tickets.append(ticket)
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    ticket.cancelled
                    or self._broken
                    or (self._free and self._tickets[0] is ticket and not self._is_busy_for(owner))
                )
            )
            self._tickets.remove(ticket)
            self._changed.notify_all()
            if self._broken:
                raise RuntimeError(self._broken)
            if ticket.cancelled:
                raise TaskStopped(STOPPED_FIRST)
            group = self._free.popleft()
        number = len(self._leases)
        lease = Lease(group, owner, task)
        lease.alive = dict.fromkeys(range(self._workers), time.monotonic())
        self._leases.append(lease)
        self._waiting[group] = 0
        for rank in range(self._workers):
            self._inbox(group, rank).put_nowait(number)
        return number

    async def take(self, number: int) -> Message:
        """The next message of a task. Asking for it tells the task to continue."""
        self._leases[number].asked += 1
        await self._notify()
        return await self._leases[number].outcome.get()

    async def stop(self, number: int) -> None:
        """Ask a task's workers to leave at their next step."""
        self._leases[number].end()
        await self._notify()

    async def stop_owned_by(self, owner: int) -> None:
        """Stop the tasks of an owner, running or waiting: its actor may be gone."""
        await self._stop_where(lambda each: each.owner == owner)

    async def stop_all(self) -> None:
        """Stop every task, those that wait too."""
        await self._stop_where(lambda each: True)

    async def settled(self) -> None:
        """Returns when no worker has a task any more.

        Raises:
            RuntimeError: no group is left.
        """
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._broken or all(len(lease.ended) == self._workers for lease in self._leases)
            )
        if self._broken:
            raise RuntimeError(self._broken)

    async def is_awaited(self) -> bool:
        """Whether a task waits for a group."""
        return bool(self._tickets)

    async def close(self) -> None:
        """End all workers once they are done."""
        self._closed = True
        await self.stop_all()
        for inbox in self._inboxes.values():
            inbox.put_nowait(None)

    async def ready(self) -> None:
        """Returns when a group waits for work.

        Raises:
            RuntimeError: none can be started.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._free or self._broken)
        if self._broken:
            raise RuntimeError(self._broken)

    async def was_ready(self, group: str) -> bool:
        """Whether all workers of a group have once waited for a task."""
        return group in self._waiting

    async def silent(self, seconds: float) -> list[bytes]:
        """The workers, as pickled actors, of groups in which one has sent no heartbeat for so long in its task."""
        handles: list[bytes] = []
        now = time.monotonic()
        for lease in self._leases:
            hung = [rank for rank, then in lease.alive.items() if rank not in lease.ended and now - then > seconds]
            if hung and not lease.undecided() and lease.group not in self._silent:
                self._silent[lease.group] = f"worker {hung[0]} gave no sign of life for {seconds:g} s"
                handles += self._handles[lease.group].values()
        return handles

    async def lost(self, group: str, reason: str) -> tuple[str, list[int]]:
        """A group is gone: whoever leases it hears why.

        Returns:
            The reason, which the broker knows better for workers without heartbeats, and the owners of the leases.
        """
        reason = self._silent.get(group, reason)
        self._nodes.pop(group, None)
        if group in self._free:
            self._free.remove(group)
        cut_off = [lease for lease in self._leases if lease.group == group and len(lease.ended) < self._workers]
        for lease in cut_off:
            lease.outcome.put_nowait(("moved" if lease.moves() else "lost", reason))
            lease.end()
            lease.ended.update(range(self._workers))
        await self._notify()
        return reason, [lease.owner for lease in cut_off if lease.owner is not None]

    async def give_up(self, reason: str) -> None:
        """No group is left, and none will come: whoever waits for one hears why."""
        self._broken = reason
        await self._notify()

    async def call_off(self, group: str) -> bool:
        """No task goes to a group that has not waited for one yet; whether this is one."""
        if group in self._waiting:
            return False
        self._leaving.add(group)
        return True

    async def retire(self, count: int, nodes: Collection[str] = ()) -> list[str]:
        """End groups that have nothing to do.

        Args:
            count: So many are too many, with those that were on a node that is gone: they end by themselves.
            nodes: Ids of those that are there.

        Returns:
            Their names: `count`, or fewer.
        """
        count -= sum(bool(nodes and on - set(nodes)) for on in self._nodes.values())
        ended: list[str] = []
        while self._free and len(ended) < count and not self._tickets:
            ended.append(self._free.pop())
            self._dismiss(ended[-1])
        return ended

    async def leave(self, nodes: Collection[str]) -> tuple[list[str], list[int]]:
        """These nodes are about to be taken away: what has a worker on one of them takes no more tasks, and what it
        does goes on in another group, from a checkpoint that it writes at its next step.

        Returns:
            The groups that end, and the owners of the tasks that move; of each call those that no earlier one named.
        """
        gone = [group for group, on in self._nodes.items() if on & set(nodes) and group not in self._leaving]
        self._leaving.update(gone)
        for group in [each for each in self._free if each in self._leaving]:
            self._free.remove(group)
            self._dismiss(group)
        moving = [
            lease
            for lease in self._leases
            if lease.group in gone and len(lease.ended) < self._workers and not lease.stop.is_set()
        ]
        for lease in moving:
            lease.leave.set()
        return gone, [lease.owner for lease in moving if lease.owner is not None]

    async def next(
        self, group: str, rank: int, worker: bytes, *, node: str = "", worn_out: bool
    ) -> tuple[int, bytes] | None:
        """For a worker: number and content of the next task of its group; None when there will be no more.

        Args:
            group: Name of its group.
            rank: Its rank.
            worker: Its actor, pickled: to know one is to import Ray Train.
            node: Id of the node that it is on.
            worn_out: Whether its process must be replaced; one such worker ends the group, and a new one follows.
        """
        if self._closed:
            return None
        self._handles.setdefault(group, {})[rank] = worker
        self._nodes.setdefault(group, set()).add(node)
        self._worn_out |= {group} if worn_out else set()
        self._waiting[group] = self._waiting.get(group, 0) + 1
        if self._waiting[group] == self._workers:
            if group in self._worn_out | self._leaving:
                self._dismiss(group)
            else:
                self._free.append(group)
            await self._notify()
        number = await self._inbox(group, rank).get()
        return None if number is None else (number, self._leases[number].task)

    async def report(self, number: int, content: ReportContent) -> bool:
        """For a worker of rank 0: hand on a report. Returns whether it was heard and the task is to continue.

        Waits for the decision, so that a stopped trial ends at the very evaluation that stopped it: it computes no
        further step, and writes no checkpoint that nobody knows of.
        """
        lease = self._leases[number]
        lease.told += 1
        lease.outcome.put_nowait(("report", content))
        async with self._changed:
            await self._changed.wait_for(lambda: not lease.undecided())
        lease.alive = dict.fromkeys(lease.alive, time.monotonic())
        return not lease.stop.is_set()

    async def heartbeat(self, number: int, rank: int) -> None:
        """For a worker: it is alive."""
        self._leases[number].alive[rank] = time.monotonic()

    async def end(self, number: int, rank: int, kind: Kind, content: object) -> None:
        """For a worker: its task ended with a `value`, or was left before its end and is `moved` unless somebody has
        stopped it (rank 0's counts), or otherwise (the first end counts)."""
        lease = self._leases[number]
        if kind == "short" and lease.stop.is_set():
            kind = "error"  # it is to stop anyway
        if kind == "moved" and not lease.moves():
            kind = "value"  # it was stopped, or another worker has ended it
        lease.ended.add(rank)
        if kind != "moved" or len(lease.ended) == self._workers:
            lease.end()
        lease.alive = dict.fromkeys(lease.alive, time.monotonic())
        if rank == 0 or kind not in ("value", "moved"):
            lease.outcome.put_nowait((kind, content))
        await self._notify()

    async def all_ended(self, number: int) -> None:
        """For a worker: returns when all workers of its group are done with a task."""
        lease = self._leases[number]
        async with self._changed:
            await self._changed.wait_for(lambda: len(lease.ended) == self._workers)

    async def stopped(self, number: int) -> None:
        """For a worker: returns when it is to leave its task, or this has ended."""
        await self._leases[number].leave.wait()

    def _is_busy_for(self, owner: int | None) -> bool:
        return owner is not None and any(
            lease.owner == owner and len(lease.ended) < self._workers for lease in self._leases
        )

    async def _stop_where(self, applies: Callable[[Lease | Ticket], bool]) -> None:
        for lease in self._leases:
            if applies(lease):
                lease.end()
        for ticket in self._tickets:
            ticket.cancelled = ticket.cancelled or applies(ticket)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _dismiss(self, group: str) -> None:
        """End the workers of a group, all of which wait for a task."""
        for rank in range(self._workers):
            self._inbox(group, rank).put_nowait(None)

    def _inbox(self, group: str, rank: int) -> asyncio.Queue[int | None]:
        return self._inboxes.setdefault((group, rank), asyncio.Queue())


if TYPE_CHECKING:

    class RemoteMethod(Generic[P, T]):
        """A method of an actor."""

        def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[T]:
            """Call it in the actor's process."""
            raise NotImplementedError

    def _remote(method: Callable[Concatenate[Broker, P], Awaitable[T]]) -> RemoteMethod[P, T]:
        raise NotImplementedError

    class BrokerActor:
        """Ray's handle of the actor, with the types that Ray's own does not have."""

        submit = _remote(Broker.submit)
        take = _remote(Broker.take)
        stop = _remote(Broker.stop)
        stop_owned_by = _remote(Broker.stop_owned_by)
        stop_all = _remote(Broker.stop_all)
        settled = _remote(Broker.settled)
        is_awaited = _remote(Broker.is_awaited)
        close = _remote(Broker.close)
        ready = _remote(Broker.ready)
        was_ready = _remote(Broker.was_ready)
        silent = _remote(Broker.silent)
        lost = _remote(Broker.lost)
        give_up = _remote(Broker.give_up)
        call_off = _remote(Broker.call_off)
        retire = _remote(Broker.retire)
        leave = _remote(Broker.leave)
        next = _remote(Broker.next)
        report = _remote(Broker.report)
        heartbeat = _remote(Broker.heartbeat)
        end = _remote(Broker.end)
        all_ended = _remote(Broker.all_ended)
        stopped = _remote(Broker.stopped)
