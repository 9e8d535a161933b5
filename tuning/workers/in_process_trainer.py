"""Ray Train's `TorchTrainer` without the processes that a worker group does not need.

For two groups Ray Train (2.60) starts nine processes besides the workers, and each of them imports Ray: on 2 cores this
took half of the time until the first trial began. Ray has no settings for this.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import ray
from ray.train import Result
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup


class InProcessTorchTrainer(TorchTrainer):
    """A `TorchTrainer` whose controller runs in the thread that calls `fit`, and whose start can be cancelled."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._start = StartingGroup()

    def _create_default_callbacks(self) -> list[Any]:
        """Ray's own, without the one for Ray Data, which the groups do not use, and without the one that removes the
        placement group of a dead controller: here it belongs to the driver, and is removed with it."""
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # Ray's own, not in its stubs
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [each for each in callbacks if type(each).__name__ not in unused]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        parts["scaling_policy"] = NoAutoscaling(self.scaling_config)  # type: ignore[arg-type]  # Ray's stubs have the one of Train V1
        controller = TrainController(**parts)
        controller.worker_group_cls = self._start.group()
        with contextlib.suppress(StartCancelled):
            asyncio.run(controller.run())
            return controller.get_result()
        raise RuntimeError("the start was cancelled")

    def cancel_start(self) -> None:
        """Called from another thread while `fit` waits for the workers: `fit` then ends with an error."""
        self._start.cancel_start()


class SingleWorkerConfig(TorchConfig):
    """For a group of one worker, which needs no process group: torch would listen on all interfaces."""

    @property
    def backend_cls(self) -> type[Backend]:
        """One that starts no process group."""
        return Backend


class StartCancelled(BaseException):
    """A `BaseException`, so that the controller does not try again."""


class StartingGroup:
    """A worker group that is starting. Removing its placement group kills its workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._placement_group: Any = None
        self._cancelled = False

    def group(self) -> type[WorkerGroup]:
        """The class of the worker group, for Ray to instantiate."""
        return type("Group", (InProcessWorkerGroup,), {"start": self})

    def hold(self, placement_group: Any) -> None:
        with self._lock:
            self._placement_group = placement_group
            if self._cancelled:
                placement_group.shutdown()
                raise StartCancelled

    def cancel_start(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._placement_group is not None:
                self._placement_group.shutdown()


class NoAutoscaling(FixedScalingPolicy):
    """Requests no machines from an autoscaler: the groups fit into the cluster as it is."""

    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass


class InProcessWorkerGroup(WorkerGroup):
    """Its workers have the environment of Ray's other processes, so that an idle process can be reused."""

    start: StartingGroup

    def _create_placement_group(self, *arguments: Any, **options: Any) -> Any:
        handle = super()._create_placement_group(*arguments, **options)
        self.start.hold(handle)
        return handle

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return custom_runtime_env

    def _init_train_context_on_workers(self, workers: list[Any], sync_actor: Any, train_context_args: Any) -> None:
        """As Ray's own, but no actor is the controller."""
        ray.get(
            [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=sync_actor,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[place] for name, values in train_context_args.items()},
                )
                for place, worker in enumerate(workers)
            ]
        )
        self._decorate_worker_log_file_paths(workers)
