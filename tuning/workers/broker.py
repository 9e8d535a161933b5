"""The broker: an actor that passes tasks to worker groups, and their reports back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Concatenate, Generic, Literal, NotRequired, ParamSpec, TypedDict, TypeVar

from ray import cloudpickle

if TYPE_CHECKING:
    from ray import ObjectRef

P = ParamSpec("P")
T = TypeVar("T")
Function = Callable[..., object]
"""Runs on every worker of a group as `function(runtime, **arguments)`; what rank 0 returns is the task's value."""
Kind = Literal["report", "value", "error", "input", "short", "lost"]
Message = tuple[Kind, object]
"""`("report", …)` any number of times, then `("value", …)`, `("error", traceback)`, `("input", line)` for what a user
gave, `("short", traceback)` where memory or disk space ran out or a store was away, or `("lost", reason)`."""


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


@dataclass(eq=False)
class Ticket:
    """A task that waits for a group."""

    owner: int | None
    cancelled: bool = False


class Broker:
    """Runs as an actor between trials, which lease groups, and the workers of the groups."""

    def __init__(self, groups: int, workers: int) -> None:
        """For so many groups of so many workers."""
        self._groups_left, self._workers = groups, workers
        self._leases: list[Lease] = []
        self._inboxes: dict[tuple[str, int], asyncio.Queue[int | None]] = {}
        self._waiting: dict[str, int] = {}
        self._worn_out: set[str] = set()
        self._handles: dict[str, dict[int, bytes]] = {}
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
            RuntimeError: no group is left, or the task was stopped before it began.
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
            if ticket.cancelled or self._broken:
                raise RuntimeError(self._broken or "the task was stopped before it began")
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
        self._leases[number].stop.set()
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

    async def lost(self, group: str, reason: str, *, for_good: bool) -> tuple[str, list[int]]:
        """A group is gone: whoever leases it hears why; `for_good` means that it is not replaced.

        Returns:
            The reason, which the broker knows better for workers without heartbeats, and the owners of the leases.
        """
        reason = self._silent.get(group, reason)
        if group in self._free:
            self._free.remove(group)
        self._groups_left -= for_good
        if not self._groups_left:
            self._broken = reason
        cut_off = [lease for lease in self._leases if lease.group == group and len(lease.ended) < self._workers]
        for lease in cut_off:
            lease.stop.set()
            lease.ended.update(range(self._workers))
            lease.outcome.put_nowait(("lost", reason))
        await self._notify()
        return reason, [lease.owner for lease in cut_off if lease.owner is not None]

    async def next(self, group: str, rank: int, worker: bytes, *, worn_out: bool) -> tuple[int, bytes] | None:
        """For a worker: number and content of the next task of its group; None when there will be no more.

        Args:
            group: Name of its group.
            rank: Its rank.
            worker: Its actor, pickled: to know one is to import Ray Train.
            worn_out: Whether its process must be replaced; one such worker ends the group, and a new one follows.
        """
        if self._closed:
            return None
        self._handles.setdefault(group, {})[rank] = worker
        self._worn_out |= {group} if worn_out else set()
        self._waiting[group] = self._waiting.get(group, 0) + 1
        if self._waiting[group] == self._workers:
            if group in self._worn_out:
                for each in range(self._workers):
                    self._inbox(group, each).put_nowait(None)
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
        """For a worker: its task ended with a `value` (rank 0's counts), or otherwise (the first end counts)."""
        lease = self._leases[number]
        if kind == "short" and lease.stop.is_set():
            kind = "error"  # it is to stop anyway
        lease.ended.add(rank)
        lease.stop.set()
        lease.alive = dict.fromkeys(lease.alive, time.monotonic())
        if rank == 0 or kind != "value":
            lease.outcome.put_nowait((kind, content))
        await self._notify()

    async def all_ended(self, number: int) -> None:
        """For a worker: returns when all workers of its group are done with a task."""
        lease = self._leases[number]
        async with self._changed:
            await self._changed.wait_for(lambda: len(lease.ended) == self._workers)

    async def stopped(self, number: int) -> None:
        """For a worker: returns when its task is to stop, or has ended."""
        await self._leases[number].stop.wait()

    def _is_busy_for(self, owner: int | None) -> bool:
        return owner is not None and any(
            lease.owner == owner and len(lease.ended) < self._workers for lease in self._leases
        )

    async def _stop_where(self, applies: Callable[[Lease | Ticket], bool]) -> None:
        for lease in self._leases:
            if applies(lease):
                lease.stop.set()
        for ticket in self._tickets:
            ticket.cancelled = ticket.cancelled or applies(ticket)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

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
        next = _remote(Broker.next)
        report = _remote(Broker.report)
        heartbeat = _remote(Broker.heartbeat)
        end = _remote(Broker.end)
        all_ended = _remote(Broker.all_ended)
        stopped = _remote(Broker.stopped)
