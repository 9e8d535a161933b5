"""Ray Train worker groups that stay warm from trial to trial.

A group is one `TorchTrainer` whose training function does not end with a trial: its workers wait at the exchange for
the next task. The driver starts the groups and owns them; trials lease them. A trial so costs milliseconds, where
`TorchTrainer.fit` in a Tune trial starts 6 processes or more for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from tuning.study import ResourcesConfig

Function = Callable[..., Any]
"""Runs on every worker of a group as `function(runtime, **arguments)`; what rank 0 returns is the task's value."""

MAX_RESTARTS = 3
MAX_WAITING = 10_000
"""Calls of the exchange that wait at the same time: each worker waits for a task, and for a stop."""
UPDATES_BETWEEN_AGREEMENTS = 8
"""How often workers of a group agree whether to stop: they talk once in so many updates."""


@dataclass
class Lease:
    """One task on one group."""

    group: str
    function: Function
    arguments: dict[str, Any]
    outcome: asyncio.Queue[tuple[str, Any]] = field(default_factory=asyncio.Queue)
    """`("report", …)` any number of times, then one `("value", …)` or `("error", traceback)`."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    told: int = 0
    """Reports so far."""
    asked: int = 0
    """How often somebody asked for the next thing; more than `told` means: go on."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class Exchange:
    """Where tasks go to worker groups, and reports come back."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._leases: dict[int, Lease] = {}
        self._inboxes: dict[tuple[str, int], asyncio.Queue[int | None]] = {}
        self._waiting: dict[str, int] = {}
        self._free: asyncio.Queue[str] = asyncio.Queue()
        self._dead: set[str] = set()
        self._changed = asyncio.Condition()
        self._closed = False
        self._broken: str | None = None

    async def submit(self, function: Function, arguments: dict[str, Any]) -> int:
        """Hand a task to the next free group; its number. Waits until there is one."""
        while True:
            group = await self._free.get()
            if group not in self._dead:
                break
            if self._broken:
                self._free.put_nowait(group)
                raise RuntimeError(self._broken)
        number = len(self._leases)
        self._leases[number] = Lease(group, function, arguments)
        self._waiting[group] = 0
        for rank in range(self._workers):
            self._inbox(group, rank).put_nowait(number)
        return number

    async def take(self, number: int) -> tuple[str, Any]:
        """The next thing that a task has to say. To ask for it is to say: go on."""
        lease = self._leases[number]
        async with lease.changed:
            lease.asked += 1
            lease.changed.notify_all()
        return await lease.outcome.get()

    async def stop(self, number: int) -> None:
        """Ask a task's workers to leave at their next update."""
        lease = self._leases[number]
        lease.stop.set()
        async with lease.changed:
            lease.changed.notify_all()

    async def stop_all(self) -> None:
        """Ask the workers of every task to leave."""
        for number in list(self._leases):
            await self.stop(number)

    async def close(self) -> None:
        """Send all workers home once they are done."""
        self._closed = True
        await self.stop_all()
        for inbox in self._inboxes.values():
            inbox.put_nowait(None)

    async def next(self, group: str, rank: int) -> tuple[int, Function, dict[str, Any]] | None:
        """For a worker: the next task of its group; None when there will be no more."""
        if self._closed:
            return None
        self._waiting[group] = self._waiting.get(group, 0) + 1
        if self._waiting[group] == self._workers:
            self._free.put_nowait(group)
            async with self._changed:
                self._changed.notify_all()
        number = await self._inbox(group, rank).get()
        return None if number is None else (number, self._leases[number].function, self._leases[number].arguments)

    async def report(self, number: int, content: Any) -> bool:
        """For a worker of rank 0: something to say before the end. Whether to stop there.

        Waits for the decision, so that a stopped trial ends at the very evaluation that stopped it: no update
        more is computed, and no checkpoint is written that nobody knows of.
        """
        lease = self._leases[number]
        lease.told += 1
        lease.outcome.put_nowait(("report", content))
        async with lease.changed:
            await lease.changed.wait_for(lambda: lease.asked > lease.told or lease.stop.is_set())
        return lease.stop.is_set()

    async def end(self, number: int, kind: str, content: Any) -> None:
        """For a worker: the task's `value` (of rank 0) or an `error` (of any)."""
        await self.stop(number)
        self._leases[number].outcome.put_nowait((kind, content))

    async def stopped(self, number: int) -> None:
        """For a worker: returns when its task is to stop, or has ended."""
        await self._leases[number].stop.wait()

    async def lost(self, group: str, reason: str, *, for_good: bool) -> None:
        """A group is gone: whoever leases it hears why; `for_good` says that no other takes its place."""
        self._dead.add(group)
        if for_good:
            self._broken = reason
            self._free.put_nowait(group)
        for number, lease in self._leases.items():
            if lease.group == group:
                await self.end(number, "error", reason)
        async with self._changed:
            self._changed.notify_all()

    async def ready(self, groups: int) -> None:
        """Returns when so many groups wait for work, or one cannot be started."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._free.qsize() >= groups or self._broken)
        if self._broken:
            raise RuntimeError(self._broken)

    def _inbox(self, group: str, rank: int) -> asyncio.Queue[int | None]:
        return self._inboxes.setdefault((group, rank), asyncio.Queue())


class WorkerGroups:
    """The driver's side: starts groups, keeps them alive, ends them."""

    def __init__(self, count: int, resources: ResourcesConfig, *, storage: Path) -> None:
        """Begin to start `count` groups, each with the workers of one trial; does not wait for them."""
        actor = ray.remote(num_cpus=0)(Exchange).options(max_concurrency=MAX_WAITING)
        self.exchange: Any = actor.remote(resources.workers)
        self.count, self._resources, self._storage = count, resources, storage
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._keep_alive, args=(i,), daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def wait_until_ready(self) -> None:
        """Wait until every group's workers wait for a task.

        Raises:
            RuntimeError: a group cannot be started.
        """
        ray.get(self.exchange.ready.remote(self.count))

    def run(self, function: Function, **arguments: Any) -> Any:
        """Run a task on a free group and return its value. Raises RuntimeError with its traceback."""
        number = ray.get(self.exchange.submit.remote(function, arguments))
        while True:
            kind, content = ray.get(self.exchange.take.remote(number))
            if kind == "value":
                return content
            if kind == "error":
                raise RuntimeError(content)

    def close(self, timeout: float = 20.0) -> None:
        """End all groups; what they hold is free when this returns."""
        self._closing.set()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.exchange.close.remote(), timeout=timeout)
        for thread in self._threads:
            thread.join(timeout)

    def _keep_alive(self, index: int) -> None:
        for attempt in range(MAX_RESTARTS + 1):
            group = f"{index}.{attempt}"
            reason = self._run_group(group)
            if self._closing.is_set():
                return
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self.exchange.lost.remote(group, reason, for_good=attempt == MAX_RESTARTS))

    def _run_group(self, group: str) -> str:
        """Run one group until it ends; why it did."""
        from ray.train import RunConfig, ScalingConfig

        from tuning.lean_trainer import LeanTorchTrainer

        cpus, gpus = self._resources.cpus_per_worker, self._resources.gpus_per_worker
        trainer = LeanTorchTrainer(
            serve,
            train_loop_config={"exchange": self.exchange, "group": group, "threads": cpus},
            scaling_config=ScalingConfig(
                num_workers=self._resources.workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
            ),
            run_config=RunConfig(name=f"group-{group}", storage_path=str(self._storage)),
        )
        try:
            trainer.fit()
        except Exception as error:  # Train wraps what a worker raised, Ray raises its own when processes die
            return f"the worker group was lost: {error}"
        return "the worker group ended"


def serve(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: task after task, until there are no more."""
    import ray.train
    import torch
    import torch.distributed as dist

    exchange, group = config["exchange"], config["group"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    cpu_group = dist.new_group(backend="gloo") if workers > 1 else None
    gc.freeze()  # what is imported by now stays: a collection after each task looks at the task alone
    while (task := ray.get(exchange.next.remote(group, rank))) is not None:
        number, function, arguments = task
        runtime = GroupRuntime(exchange, number, device=device, rank=rank, workers=workers, cpu_group=cpu_group)
        try:
            with clean_slate(config["threads"]):
                value = function(runtime, **arguments)
        except Exception:
            ray.get(exchange.end.remote(number, "error", traceback.format_exc()))
            if workers > 1:
                raise  # the others may wait for this one in a collective: the whole group starts anew
        else:
            if rank == 0:
                ray.get(exchange.end.remote(number, "value", value))
        torch.set_num_threads(config["threads"])


@contextlib.contextmanager
def clean_slate(threads: int) -> Iterator[None]:
    """A task sees a process as if it were new, and leaves nothing behind for the next."""
    import torch

    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    try:
        yield
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class GroupRuntime:
    """A worker's `kobert_core.runtime.Runtime`."""

    def __init__(self, exchange: Any, number: int, *, device: Any, rank: int, workers: int, cpu_group: Any) -> None:
        self.device, self.rank, self.workers = device, rank, workers
        self.checkpoints: Path | None = None
        self.resume = False
        self._exchange, self._number, self._cpu_group = exchange, number, cpu_group
        self._asked_to_stop = threading.Event()
        self._updates, self._reported = 0, False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._exchange.stopped.remote(self._number))
        self._asked_to_stop.set()

    def report(self, report: Any) -> None:
        """Hand a report to whoever leases the group, and wait for its decision."""
        self._reported = True
        if self.rank == 0 and ray.get(self._exchange.report.remote(self._number, report)):
            self._asked_to_stop.set()

    def should_stop(self) -> bool:
        """Whether the lease was ended. Workers agree on the CPU, so that the device never waits."""
        if self.workers == 1:
            return self._asked_to_stop.is_set()
        self._updates += 1
        if not self._reported and self._updates % UPDATES_BETWEEN_AGREEMENTS:
            return False
        self._reported = False
        import torch
        import torch.distributed as dist

        asked = torch.tensor([float(self._asked_to_stop.is_set())])
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self._cpu_group)
        return bool(asked.item())

    def add_up(self, tensors: Sequence[Any]) -> None:
        """Sum over the group, in one message for each dtype."""
        if self.workers == 1:
            return
        import torch
        import torch.distributed as dist

        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # the same order on all workers
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            dist.all_reduce(flat)
            for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        if self.workers == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.workers
        dist.all_gather_object(values, value, group=self._cpu_group)
        return values
