"""Ray Train worker groups that stay warm from trial to trial.

A group is one `TorchTrainer` whose training function does not end with a trial: its workers ask the broker for the next
task. The driver starts and owns the groups; trials lease them. So a trial starts in milliseconds, while
`TorchTrainer.fit` in a Tune trial starts six or more processes for each.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuning.study import ResourcesConfig
from tuning.workers.broker import Broker, packed
from tuning.workers.failures import in_one_line
from tuning.workers.group_runtime import SECONDS_BETWEEN_HEARTBEATS
from tuning.workers.worker import WorkerConfig, serve

if TYPE_CHECKING:
    from tuning.workers.broker import BrokerActor, ReportContent
    from tuning.workers.group_trainer import GroupTrainer

T = TypeVar("T")
MAX_FAILED_STARTS = 3
"""A group that is lost more often in a row than this before its workers wait for a task is not started again."""
MAX_WAITING = 10_000
"""Calls of the broker that can wait at the same time: each worker waits for a task, and for a stop."""
SECONDS_TO_CLOSE = 60.0
"""Time for a last checkpoint: an interrupted trial writes one at its next step."""
MAX_TASKS = 500


class WorkerGroups:
    """Worker groups as the driver sees them: it starts them, replaces lost ones, and ends them."""

    def __init__(
        self,
        count: int,
        resources: ResourcesConfig,
        *,
        storage: Path,
        modules: Sequence[str] = (),
        max_tasks: int = MAX_TASKS,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Start `count` groups, each with the workers of one trial, without waiting for them.

        Args:
            count: Number of groups.
            resources: What a group consists of.
            storage: Folder for what Ray Train writes for itself.
            modules: Names of those that tasks need: workers import them before their first task.
            max_tasks: After so many tasks a group is replaced by a fresh one.
            say: Is called with a line, in a thread, when a trial has lost its workers.
        """
        from tuning.workers.group_trainer import trainer_class

        actor = ray.remote(num_cpus=0)(Broker).options(max_concurrency=MAX_WAITING, scheduling_strategy=beside_us())
        self.broker = cast("BrokerActor", actor.remote(count, resources.workers))
        self.count, self._resources, self._storage = count, resources, storage
        self._modules, self._max_tasks = modules, max_tasks
        self._say, self._closing = say, threading.Event()
        self._trainer_class = trainer_class()  # not first in the threads: Ray Train and Tune import each other
        self._trainers: dict[str, GroupTrainer] = {}
        self._threads = [threading.Thread(target=self._keep_alive, args=(i,), daemon=True) for i in range(count)]
        self._threads.append(threading.Thread(target=self._end_hung_groups, daemon=True))
        for thread in self._threads:
            thread.start()

    def wait_until_ready(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until the workers of a group wait for a task, or `give_up` returns true.

        Raises:
            RuntimeError: no group can be started.
        """
        ready = self.broker.ready.remote()
        while not give_up():
            with contextlib.suppress(ray.exceptions.GetTimeoutError):
                return ray.get(ready, timeout=0.5)

    def run(
        self,
        function: Callable[..., T],
        *,
        on_report: Callable[[ReportContent], object] = lambda report: None,
        **arguments: object,
    ) -> T:
        """Run a task on a free group and return its value; `on_report` hears each of its reports.

        Raises:
            RuntimeError: with the task's traceback.
            GroupLost: with why its workers were lost.
        """
        number = ray.get(self.broker.submit.remote(packed(function, **arguments)))
        while True:
            kind, content = ray.get(self.broker.take.remote(number))
            if kind == "value":
                return cast(T, content)
            if kind == "report":
                on_report(cast("ReportContent", content))
            else:
                raise (GroupLost if kind == "lost" else RuntimeError)(content)

    def stop_owned_by(self, owner: int) -> None:
        """End the tasks of an owner, without waiting."""
        self.broker.stop_owned_by.remote(owner)

    def stop_all(self) -> None:
        """End every task, and those that wait for a group. A broker that is gone has none."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.broker.stop_all.remote(), timeout=SECONDS_TO_CLOSE)

    def settle(self) -> None:
        """End every task, and wait until no worker has one.

        Raises:
            RayError: this is not possible: close the groups, and start others.
        """
        ray.get(self.broker.stop_all.remote(), timeout=SECONDS_TO_CLOSE)
        ray.get(self.broker.settled.remote(), timeout=SECONDS_TO_CLOSE)

    def close(self, timeout: float = SECONDS_TO_CLOSE) -> None:
        """End all groups and free their resources."""
        self._closing.set()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.broker.close.remote(), timeout=timeout)
            for group, trainer in list(self._trainers.items()):
                if not ray.get(self.broker.was_ready.remote(group), timeout=timeout):
                    trainer.cancel_start()  # to wait for its start, only to end it then, would take long
        for thread in self._threads:
            thread.join(timeout)
        for trainer in list(self._trainers.values()):
            trainer.cancel_start()  # workers that hang, or that nobody can reach, must not outlive their group
        with contextlib.suppress(ray.exceptions.RayError):
            self._end_groups_silent_for(0.0, timeout=timeout)

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
                return  # without a broker a group has nothing to do; whoever asks it will start other groups
            for trial in owners:
                self._say(f"trial {trial}: {in_one_line(reason)}")
            if failures > MAX_FAILED_STARTS:
                return

    def _end_hung_groups(self) -> None:
        timeout = self._resources.timeout
        while not self._closing.wait(min(timeout / 4, SECONDS_BETWEEN_HEARTBEATS)):
            with contextlib.suppress(ray.exceptions.RayError):  # it may be gone: then workers end by themselves
                self._end_groups_silent_for(timeout)

    def _end_groups_silent_for(self, seconds: float, *, timeout: float | None = None) -> None:
        for worker in ray.get(self.broker.silent.remote(seconds), timeout=timeout):
            ray.kill(cloudpickle.loads(worker))

    def _run_group(self, group: str) -> str:
        """Run one group until it ends; returns why it did."""
        from pyarrow.fs import LocalFileSystem
        from ray.train import RunConfig, ScalingConfig

        from tuning.workers.group_trainer import SingleWorkerConfig

        cpus, gpus = self._resources.cpus_per_worker, self._resources.gpus_per_worker
        config: WorkerConfig = {
            "broker": self.broker,
            "group": group,
            "threads": cpus,
            "gpus": gpus,
            "timeout": self._resources.timeout,
            "max_tasks": self._max_tasks,
            "modules": self._modules,
        }
        trainer = self._trainer_class(
            serve,
            train_loop_config=config,
            torch_config=SingleWorkerConfig() if self._resources.workers == 1 else None,
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
    """The workers of a task were lost; it can be tried again."""


def beside_us() -> NodeAffinitySchedulingStrategy:
    """Places an actor on the driver's machine, so that it depends on no other machine."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
