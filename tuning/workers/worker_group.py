"""Ray Train worker groups that stay warm from trial to trial.

A group is one `TorchTrainer` whose training function does not end with a trial: its workers wait at the broker for
the next task. The driver starts the groups and owns them; trials lease them. A trial so costs milliseconds, where
`TorchTrainer.fit` in a Tune trial starts 6 processes or more for each.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kobert_core.errors import InputError
from kobert_core.io.atomic import is_disk_full
from kobert_core.runtime import Phase
from tuning.study import ResourcesConfig
from tuning.workers.broker import Broker, Function, packed
from tuning.workers.failures import in_one_line

if TYPE_CHECKING:
    from tuning.workers.in_process_trainer import LeanTorchTrainer

MAX_FAILED_STARTS = 3
"""A group that was lost more often than this in a row before its workers waited for a task is given up."""
MAX_WAITING = 10_000
"""Calls of the broker that wait at the same time: each worker waits for a task, and for a stop."""
SECONDS_TO_FAIL_TOGETHER = 10
SECONDS_TO_CLOSE = 60.0
"""Time for a last checkpoint: a trial that is interrupted writes one at its next update."""
SECONDS_BETWEEN_SIGNS_OF_LIFE = 5.0
MAX_TASKS = 500
MAX_GROWTH = 2 * 2**30
"""So many bytes may a worker's process grow after its first task before its group starts anew."""
UPDATES_BETWEEN_AGREEMENTS = 8
"""How often workers of a group agree whether to stop: they talk once in so many updates."""


class WorkerGroups:
    """The driver's side: starts groups, keeps them alive, ends them."""

    def __init__(
        self,
        count: int,
        resources: ResourcesConfig,
        *,
        storage: Path,
        max_tasks: int = MAX_TASKS,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Begin to start `count` groups, each with the workers of one trial; does not wait for them.

        Args:
            count: Number of groups.
            resources: What a group consists of.
            storage: Folder for what Ray Train writes for itself.
            max_tasks: After so many tasks a group is replaced by a fresh one.
            say: Is called, in a thread, when a trial lost its workers, with a line.
        """
        import tuning.workers.in_process_trainer  # noqa: F401  (not first in the threads: Ray Train and Tune import each other)

        actor = ray.remote(num_cpus=0)(Broker).options(max_concurrency=MAX_WAITING, scheduling_strategy=beside_us())
        self.broker: Any = actor.remote(count, resources.workers)
        self.count, self._resources, self._storage, self._max_tasks = count, resources, storage, max_tasks
        self._say, self._closing = say, threading.Event()
        self._trainers: dict[str, LeanTorchTrainer] = {}
        self._threads = [threading.Thread(target=self._keep_alive, args=(i,), daemon=True) for i in range(count)]
        self._threads.append(threading.Thread(target=self._end_hung_groups, daemon=True))
        for thread in self._threads:
            thread.start()

    def wait_until_ready(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until a group's workers wait for a task, or `give_up` says that it is no longer worth it.

        Raises:
            RuntimeError: no group can be started.
        """
        ready = self.broker.ready.remote()
        while not give_up():
            with contextlib.suppress(ray.exceptions.GetTimeoutError):
                return ray.get(ready, timeout=0.5)

    def run(self, function: Function, **arguments: Any) -> Any:
        """Run a task on a free group and return its value.

        Raises:
            RuntimeError: with the task's traceback.
            GroupLost: with why its workers were lost.
        """
        number = ray.get(self.broker.submit.remote(packed(function, **arguments)))
        while True:
            kind, content = ray.get(self.broker.take.remote(number))
            if kind == "value":
                return content
            if kind != "report":
                raise (GroupLost if kind == "lost" else RuntimeError)(content)

    def stop_owned_by(self, owner: int) -> None:
        """End what an owner has; does not wait for it."""
        self.broker.stop_owned_by.remote(owner)

    def stop_all(self) -> None:
        """End every task, and those that wait for a group. An broker that is gone has none."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.broker.stop_all.remote(), timeout=SECONDS_TO_CLOSE)

    def settle(self) -> None:
        """End every task, and wait until no worker has one.

        Raises:
            RayError: this cannot be had: the groups are to be closed, and others started.
        """
        ray.get(self.broker.stop_all.remote(), timeout=SECONDS_TO_CLOSE)
        ray.get(self.broker.settled.remote(), timeout=SECONDS_TO_CLOSE)

    def close(self, timeout: float = SECONDS_TO_CLOSE) -> None:
        """End all groups; what they hold is free when this returns."""
        self._closing.set()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.broker.close.remote(), timeout=timeout)
            for group, trainer in list(self._trainers.items()):
                if not ray.get(self.broker.was_ready.remote(group), timeout=timeout):
                    trainer.give_up()  # to wait for its start, only to end it then, would take long
        for thread in self._threads:
            thread.join(timeout)
        for trainer in list(self._trainers.values()):
            trainer.give_up()  # its workers hang, or nobody is left to tell them: they must not outlive their group

    def _keep_alive(self, index: int) -> None:
        failures = 0
        for incarnation in itertools.count():
            group = f"{index}.{incarnation}"
            reason = self._run_group(group)
            if self._closing.is_set():
                return
            try:
                failures = 0 if ray.get(self.broker.was_ready.remote(group)) else failures + 1
                reason, owners = ray.get(self.broker.lost.remote(group, reason, for_good=failures > MAX_FAILED_STARTS))
            except ray.exceptions.RayError:
                return  # without an broker a group has nothing to do; whoever asks it will start other groups
            for trial in owners:
                self._say(f"trial {trial}: {in_one_line(reason)}")
            if failures > MAX_FAILED_STARTS:
                return

    def _end_hung_groups(self) -> None:
        timeout = self._resources.timeout
        while not self._closing.wait(min(timeout / 4, SECONDS_BETWEEN_SIGNS_OF_LIFE)):
            with contextlib.suppress(ray.exceptions.RayError):  # it may be gone: then workers end by themselves
                for worker in ray.get(self.broker.silent.remote(timeout)):
                    ray.kill(cloudpickle.loads(worker))

    def _run_group(self, group: str) -> str:
        """Run one group until it ends; why it did."""
        from pyarrow.fs import LocalFileSystem
        from ray.train import RunConfig, ScalingConfig

        from tuning.workers.in_process_trainer import Alone, LeanTorchTrainer

        cpus, gpus = self._resources.cpus_per_worker, self._resources.gpus_per_worker
        trainer = LeanTorchTrainer(
            serve,
            train_loop_config={
                "broker": self.broker,
                "group": group,
                "threads": cpus,
                "gpus": gpus,
                "timeout": self._resources.timeout,
                "max_tasks": self._max_tasks,
            },
            torch_config=Alone() if self._resources.workers == 1 else None,
            scaling_config=ScalingConfig(
                num_workers=self._resources.workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
            ),
            run_config=RunConfig(
                name=f"group-{group}", storage_path=str(self._storage), storage_filesystem=LocalFileSystem()
            ),
        )
        self._trainers[group] = trainer
        try:
            if not self._closing.is_set():
                trainer.fit()
        except Exception as error:  # Train wraps what a worker raised, Ray raises its own when processes die
            return f"the worker group was lost: {error}"
        finally:
            del self._trainers[group]
        return "the worker group ended"


class GroupLost(RuntimeError):
    """The workers of a task were lost: another try may find others."""


def beside_us() -> NodeAffinitySchedulingStrategy:
    """Places an actor on the driver's machine: it shares the driver's fate, and no other machine's."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class FellowLost(RuntimeError):
    """A fellow worker can no longer be reached. It is not this worker's fault, so not its task's error."""


def serve(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: task after task, until there are no more or the process has had its time."""
    import ray.train
    import torch.distributed as dist

    broker, group = config["broker"], config["group"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if 0 < config["gpus"] < 1:
        keep_to_share_of_memory(device, config["gpus"])
    cpu_group = dist.new_group(backend="gloo") if workers > 1 else None
    actor, wear = cloudpickle.dumps(ray.get_runtime_context().current_actor), Wear(config["max_tasks"])
    gc.freeze()  # what is imported by now stays: a collection after each task looks at the task alone
    while (task := ray.get(broker.next.remote(group, rank, actor, worn_out=wear.is_out()))) is not None:
        number, content = task
        runtime = GroupRuntime(broker, number, device=device, rank=rank, workers=workers, cpu_group=cpu_group)
        runtime.seconds_between_signs = min(config["timeout"] / 4, SECONDS_BETWEEN_SIGNS_OF_LIFE)
        try:
            function, arguments = cloudpickle.loads(content)
            with clean_slate(config["threads"]):
                value = function(runtime, **arguments)
        except (FellowLost, ray.exceptions.RayError):  # of Ray knows only the runtime: its broker does not answer
            os._exit(1)  # with this process ends the group, and the task is told that its workers were lost
        except Exception as error:
            kind = "input" if isinstance(error, InputError) else "short" if found_too_little(error) else "error"
            content = str(error) if kind == "input" else traceback.format_exc()
            ray.get(broker.end.remote(number, rank, kind, content))
            # What fails on all workers alike, such as a loss that is NaN, leaves the group as it was. If another one
            # does not end, it waits for this one in a collective: that breaks with this process, and the whole group
            # starts anew.
            try:
                ray.get(broker.all_ended.remote(number), timeout=SECONDS_TO_FAIL_TOGETHER)
            except ray.exceptions.GetTimeoutError:
                os._exit(1)
        else:
            ray.get(broker.end.remote(number, rank, "value", value if rank == 0 else None))


def keep_to_share_of_memory(device: Any, share: float) -> None:
    """Let this process find too little memory before it takes that of those who share the GPU with it."""
    import torch

    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(0.95 * share, device)  # each has a CUDA context besides


def found_too_little(error: Exception) -> bool:
    """Whether memory or disk space ran out: there may be more of it at another time."""
    from kobert_core.memory import is_out_of_memory

    return is_out_of_memory(error) or is_disk_full(error)


class Wear:
    """How much a worker's process has done, and grown by."""

    def __init__(self, max_tasks: int) -> None:
        self._process, self._tasks, self._max_tasks = psutil.Process(), -1, max_tasks

    def is_out(self) -> bool:
        """Asked before each task: whether the process should serve no further one."""
        self._tasks += 1
        bytes_now = self._process.memory_info().rss
        if self._tasks <= 1:
            self._bytes_at_first = bytes_now
        return self._tasks >= self._max_tasks or bytes_now - self._bytes_at_first > MAX_GROWTH


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

    def __init__(self, broker: Any, number: int, *, device: Any, rank: int, workers: int, cpu_group: Any) -> None:
        self.device, self.rank, self.workers = device, rank, workers
        self.checkpoints: Path | None = None
        self.resume = False
        self._broker, self._number, self._cpu_group = broker, number, cpu_group
        self._asked_to_stop = threading.Event()
        self._updates, self._reported = 0, False
        self.seconds_between_signs, self._last_sign = SECONDS_BETWEEN_SIGNS_OF_LIFE, time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._broker.stopped.remote(self._number))
        self._asked_to_stop.set()

    def report(self, report: Any) -> bool:
        """Hand a report to whoever leases the group, and wait for its decision: whether to go on."""
        self._reported = True
        if self.rank == 0 and not ray.get(self._broker.report.remote(self._number, report)):
            self._asked_to_stop.set()
            return False
        return True

    def should_stop(self) -> bool:
        """Whether the lease was ended. Workers agree on the CPU, so that the device never waits."""
        self._give_sign_of_life()
        if self.workers == 1:
            return self._asked_to_stop.is_set()
        self._updates += 1
        if not self._reported and self._updates % UPDATES_BETWEEN_AGREEMENTS:
            return False
        self._reported = False
        import torch
        import torch.distributed as dist

        asked = torch.tensor([float(self._asked_to_stop.is_set())])
        with together():
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
            with together():
                dist.all_reduce(flat)
            for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        if self.workers == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.workers
        with together():
            dist.all_gather_object(values, value, group=self._cpu_group)
        return values

    def phase(self, name: Phase) -> contextlib.AbstractContextManager[Any]:
        """Nobody asks where the time of a trial goes."""
        return contextlib.nullcontext()

    def _give_sign_of_life(self) -> None:
        now = time.monotonic()
        if now - self._last_sign > self.seconds_between_signs:
            self._last_sign = now
            self._broker.live.remote(self._number, self.rank)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A collective: what fails in it is that a fellow is gone."""
    try:
        yield
    except RuntimeError as error:
        raise FellowLost(str(error)) from error
