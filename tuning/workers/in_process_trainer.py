"""Ray Train's `TorchTrainer` without the processes that a worker group has no use for.

For two groups Ray Train (2.60) starts nine processes besides the workers, and every one of them imports Ray: on 2
cores that was half of the time until the first trial began. There are no settings for this.
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


class LeanTorchTrainer(TorchTrainer):
    """Its controller runs in the thread that calls `fit`; `give_up` ends a start that nobody needs any more."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._start = Start()

    def _create_default_callbacks(self) -> list[Any]:
        """Ray's own without Ray Data, since the groups read memory-mapped features, and without what removes the
        placement group of a controller that died: here it is the driver's own, and goes with it."""
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # Ray's own, not in its stubs
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [each for each in callbacks if type(each).__name__ not in unused]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        parts["scaling_policy"] = WhatIsThere(self.scaling_config)  # type: ignore[arg-type]  # Ray's stubs have the one of Train V1
        controller = TrainController(**parts)
        controller.worker_group_cls = self._start.group()
        with contextlib.suppress(GivenUp):
            asyncio.run(controller.run())
            return controller.get_result()
        raise RuntimeError("the start was given up")

    def give_up(self) -> None:
        """Called in another thread while `fit` waits for the workers to start: it then ends with an error."""
        self._start.give_up()


class Alone(TorchConfig):
    """Of a group of one worker, which has nobody to talk to: torch would listen on all interfaces, for anybody."""

    @property
    def backend_cls(self) -> type[Backend]:
        """One that starts no process group."""
        return Backend


class GivenUp(BaseException):
    """No error that the controller might answer with another try."""


class Start:
    """Of a worker group: its workers are killed with the placement group that holds their resources."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._placement_group: Any = None
        self._given_up = False

    def group(self) -> type[WorkerGroup]:
        """The class of a group that starts here."""
        return type("Group", (LeanWorkerGroup,), {"start": self})

    def hold(self, placement_group: Any) -> None:
        with self._lock:
            self._placement_group = placement_group
            if self._given_up:
                placement_group.shutdown()
                raise GivenUp

    def give_up(self) -> None:
        with self._lock:
            self._given_up = True
            if self._placement_group is not None:
                self._placement_group.shutdown()


class WhatIsThere(FixedScalingPolicy):
    """Asks no autoscaler for machines: so many groups are started as the cluster has room for."""

    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass


class LeanWorkerGroup(WorkerGroup):
    """Its workers have the environment of Ray's other processes, so that one which is already up can be taken."""

    start: Start

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
