"""Ray Train worker groups that stay warm from trial to trial.

A group is one `TorchTrainer` whose training function does not end with a trial: its workers ask the broker for the next
task. The driver starts and owns the groups; trials lease them. So a trial starts in milliseconds, while
`TorchTrainer.fit` in a Tune trial starts six or more processes for each.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
"""When more groups in a row than this are lost before their workers wait for a task, there will be one group less."""
SECONDS_BETWEEN_LOOKS = 3.0
"""At the cluster: so soon after a machine has joined does a group start there."""
MAX_WAITING = 10_000
"""Calls of the broker that can wait at the same time: each worker waits for a task, and for a stop."""
SECONDS_TO_CLOSE = 60.0
"""Time for a last checkpoint: an interrupted trial writes one at its next step."""
MAX_TASKS = 500


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of worker groups at one moment."""

    groups: int
    """So many are to be there, or to wait for room."""
    room: int
    """So many of them find room now."""
    kept: int = 0
    """Of those that are there, so many stay, although fewer are wanted."""
    nodes: frozenset[str] = frozenset()
    """Ids of the nodes of the cluster."""
    leaving: frozenset[str] = frozenset()
    """Those of them that are about to be taken away."""


class WorkerGroups:
    """Worker groups as the driver sees them: it starts them, replaces lost ones, and ends them.

    A group that finds no room waits for it with a placement group of Ray, which is also what Ray's autoscaler goes by.
    It is gone with this process, whatever ends that. (`ray.autoscaler.sdk.request_resources` has one request for all
    of a cluster, and keeps it after its process was killed.)
    """

    def __init__(
        self,
        wanted: int | Callable[[], Wanted],
        resources: ResourcesConfig,
        *,
        storage: Path,
        modules: Sequence[str] = (),
        needs: Path | None = None,
        max_tasks: int = MAX_TASKS,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Start groups, each with the workers of one trial, without waiting for them.

        Args:
            wanted: How many groups; a function is asked again and again, in a thread.
            resources: What a group consists of.
            storage: Folder for what Ray Train writes for itself.
            modules: Names of those that tasks need: workers import them before their first task.
            needs: A file that every machine must have.
            max_tasks: After so many tasks a group is replaced by a fresh one.
            say: Is called with a line, in a thread, when a trial has lost its workers.
        """
        from tuning.workers.group_trainer import trainer_class

        actor = ray.remote(num_cpus=0)(Broker).options(max_concurrency=MAX_WAITING, scheduling_strategy=beside_us())
        self.broker = cast("BrokerActor", actor.remote(resources.workers))
        self._resources, self._storage = resources, storage
        self._modules, self._needs, self._max_tasks = modules, needs, max_tasks
        self._say, self._closing = say, threading.Event()
        self._trainer_class = trainer_class()  # not first in the threads: Ray Train and Tune import each other
        self._ask = wanted if callable(wanted) else lambda: Wanted(groups=wanted, room=wanted)
        self._wanted = self._ask()
        self._lock, self._changed = threading.Lock(), threading.Event()
        self._numbers = itertools.count()
        self._trainers: dict[str, GroupTrainer | None] = {}
        self._ending: set[str] = set()
        self._failed_starts = self._given_up = 0
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._follow, self._end_hung_groups)]
        for thread in self._threads:
            thread.start()

    @property
    def count(self) -> int:
        """So many tasks can run at once; 1 at least."""
        return max(1, min(self._wanted.groups, self._wanted.room))

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
            elif kind == "moved":
                number = ray.get(self.broker.submit.remote(packed(function, **arguments)))
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
        with self._lock:
            self._closing.set()  # from here on no group starts
        self._changed.set()
        try:
            ray.get(self.broker.close.remote(), timeout=timeout)
            for group in list(self._trainers):
                if not ray.get(self.broker.was_ready.remote(group), timeout=timeout):
                    self._cancel_start(group)  # to wait for its start, only to end it then, would take long
        except ray.exceptions.GetTimeoutError:
            pass  # it is slow: those that run may still write their last checkpoints
        except ray.exceptions.RayError:  # without a broker none of them comes to an end by itself
            self._cancel_starts()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._cancel_starts()  # workers that hang, or that nobody can reach, must not outlive their group
        with contextlib.suppress(ray.exceptions.RayError):
            self._end_groups_silent_for(0.0, timeout=timeout)

    def _cancel_starts(self) -> None:
        for group in list(self._trainers):
            self._cancel_start(group)

    def _cancel_start(self, group: str) -> None:
        if (trainer := self._trainers.get(group)) is not None:
            trainer.cancel_start()

    def _follow(self) -> None:
        """Start and end groups, until all are to end."""
        while not self._closing.is_set():
            try:
                self._adjust()
            except ray.exceptions.RayError:
                return  # without a broker groups have nothing to do; whoever asks it will start others
            self._changed.wait(SECONDS_BETWEEN_LOOKS)
            self._changed.clear()

    def _adjust(self) -> None:
        before, self._wanted = self._wanted, self._ask()
        wanted = self._wanted
        if wanted.nodes != before.nodes:
            self._failed_starts = self._given_up = 0  # it may have been a machine's fault
        if wanted.leaving:
            groups, owners = ray.get(self.broker.leave.remote(list(wanted.leaving)))
            self._ending.update(groups)
            for trial in owners:
                self._say(f"trial {trial}: its machine is about to be taken away: it goes on elsewhere")
        if not wanted.room and before.room:
            self._say("the cluster has no room for a trial any more: waiting for a machine")
        there = [group for group in list(self._trainers) if group not in self._ending]
        for _ in range(wanted.groups - self._given_up - len(there)):
            self._start_group()
        surplus = len(there) - max(wanted.groups, wanted.kept)
        for group in reversed(there):
            if surplus > 0 and ray.get(self.broker.call_off.remote(group)):
                self._ending.add(group)
                self._cancel_start(group)
                surplus -= 1
        if surplus > 0:
            retired = ray.get(self.broker.retire.remote(surplus, list(wanted.nodes)))
            self._ending.update(retired)

    def _start_group(self) -> None:
        with self._lock:
            if self._closing.is_set():
                return
            group = str(next(self._numbers))
            self._trainers[group] = None  # until its thread has one
            thread = threading.Thread(target=self._watch_group, args=(group,), daemon=True)
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()

    def _watch_group(self, group: str) -> None:
        try:
            reason = self._run_group(group)
        finally:
            self._trainers.pop(group, None)
        was_to_end = group in self._ending
        self._ending.discard(group)
        if self._closing.is_set():
            return
        try:
            was_ready = ray.get(self.broker.was_ready.remote(group))
            has_failed = not was_ready and not was_to_end
            reason, owners = ray.get(self.broker.lost.remote(group, reason))
            with self._lock:
                self._failed_starts += has_failed
                if was_ready:  # another one must take its place
                    self._failed_starts = self._given_up = 0
                if self._failed_starts > MAX_FAILED_STARTS:
                    self._failed_starts, self._given_up = 0, self._given_up + 1
                is_last = has_failed and self._given_up >= self._wanted.groups and not self._trainers
            if is_last:
                ray.get(self.broker.give_up.remote(reason))
        except ray.exceptions.RayError:
            return  # as in `_follow`
        for trial in owners:
            self._say(f"trial {trial}: {in_one_line(reason)}")
        self._changed.set()

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

        from tuning.workers.group_trainer import SingleWorkerConfig, no_retries

        cpus, gpus = self._resources.cpus_per_worker, self._resources.gpus_per_worker
        config: WorkerConfig = {
            "broker": self.broker,
            "group": group,
            "threads": cpus,
            "gpus": gpus,
            "timeout": self._resources.timeout,
            "max_tasks": self._max_tasks,
            "modules": self._modules,
            "needs": None if self._needs is None else str(self._needs),
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
                name=f"group-{group}",
                storage_path=str(self._storage),
                storage_filesystem=LocalFileSystem(),
                failure_config=no_retries(),
            ),
        )
        self._trainers[group] = trainer
        try:
            if not self._closing.is_set() and group not in self._ending:
                trainer.fit()
        except Exception as error:  # Train wraps what a worker raised, Ray raises its own when processes die
            return f"the worker group was lost: {error}"
        return "the worker group ended"


class GroupLost(RuntimeError):
    """The workers of a task were lost; it can be tried again."""


def beside_us() -> NodeAffinitySchedulingStrategy:
    """Places an actor on the driver's machine, so that it depends on no other machine."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
