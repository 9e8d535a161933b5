"""Ray Train worker groups that stay warm from trial to trial.

A group is one `TorchTrainer` whose training function does not end with a trial: its workers wait at the exchange for
the next task. The driver starts the groups and owns them; trials lease them. A trial so costs milliseconds, where
`TorchTrainer.fit` in a Tune trial starts 6 processes or more for each.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from tuning.exchange import Exchange, Function
from tuning.study import ResourcesConfig

MAX_RESTARTS = 3
"""A group that was lost so often in a row, without a task in between that came to its end, is given up."""
MAX_WAITING = 10_000
"""Calls of the exchange that wait at the same time: each worker waits for a task, and for a stop."""
SECONDS_TO_FAIL_TOGETHER = 10
UPDATES_BETWEEN_AGREEMENTS = 8
"""How often workers of a group agree whether to stop: they talk once in so many updates."""


class WorkerGroups:
    """The driver's side: starts groups, keeps them alive, ends them."""

    def __init__(self, count: int, resources: ResourcesConfig, *, storage: Path) -> None:
        """Begin to start `count` groups, each with the workers of one trial; does not wait for them."""
        actor = ray.remote(num_cpus=0)(Exchange).options(max_concurrency=MAX_WAITING)
        self.exchange: Any = actor.remote(count, resources.workers)
        self.count, self._resources, self._storage = count, resources, storage
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._keep_alive, args=(i,), daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def wait_until_ready(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until a group's workers wait for a task, or `give_up` says that it is no longer worth it.

        Raises:
            RuntimeError: no group can be started.
        """
        ready = self.exchange.ready.remote()
        while not give_up():
            with contextlib.suppress(ray.exceptions.GetTimeoutError):
                return ray.get(ready, timeout=0.5)

    def run(self, function: Function, **arguments: Any) -> Any:
        """Run a task on a free group and return its value. Raises RuntimeError with its traceback."""
        number = ray.get(self.exchange.submit.remote(function, arguments))
        while True:
            kind, content = ray.get(self.exchange.take.remote(number))
            if kind == "value":
                return content
            if kind == "error":
                raise RuntimeError(content)

    def stop_all(self) -> None:
        """End every task, and those that wait for a group."""
        ray.get(self.exchange.stop_all.remote())

    def close(self, timeout: float = 20.0) -> None:
        """End all groups; what they hold is free when this returns."""
        self._closing.set()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.exchange.close.remote(), timeout=timeout)
        for thread in self._threads:
            thread.join(timeout)

    def _keep_alive(self, index: int) -> None:
        failures = 0
        for incarnation in itertools.count():
            group = f"{index}.{incarnation}"
            reason = self._run_group(group)
            if self._closing.is_set():
                return
            with contextlib.suppress(ray.exceptions.RayError):
                failures = 0 if ray.get(self.exchange.served.remote(group)) else failures + 1
                ray.get(self.exchange.lost.remote(group, reason, for_good=failures > MAX_RESTARTS))
            if failures > MAX_RESTARTS:
                return

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
            ray.get(exchange.end.remote(number, rank, "error", traceback.format_exc()))
            # What fails on all workers alike, such as a loss that is NaN, leaves the group as it was. If another one
            # does not end, it waits for this one in a collective: that breaks with this process, and the whole group
            # starts anew.
            try:
                ray.get(exchange.all_ended.remote(number), timeout=SECONDS_TO_FAIL_TOGETHER)
            except ray.exceptions.GetTimeoutError:
                os._exit(1)
        else:
            ray.get(exchange.end.remote(number, rank, "value", value if rank == 0 else None))


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

    def report(self, report: Any) -> bool:
        """Hand a report to whoever leases the group, and wait for its decision: whether to go on."""
        self._reported = True
        if self.rank == 0 and not ray.get(self._exchange.report.remote(self._number, report)):
            self._asked_to_stop.set()
            return False
        return True

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
