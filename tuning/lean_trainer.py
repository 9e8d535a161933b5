"""Ray Train's `TorchTrainer` without the processes that a worker group has no use for.

With two groups Ray Train (2.60) starts nine processes besides the workers, and every one of them imports Ray: on 2 cores
that was half of the time until the first trial began. It names no settings for this. Where a later Ray has other parts,
they run as Ray has them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup


class LeanTorchTrainer(TorchTrainer):
    """Its controller runs in the thread that calls `fit`."""

    def _create_default_callbacks(self) -> list[Any]:
        """Ray's own without Ray Data, since the groups read memory-mapped features, and without what removes the
        placement group of a controller that died: here it is the driver's own, and goes with it."""
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # Ray's own, not in its stubs
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [each for each in callbacks if type(each).__name__ not in unused]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        parts["scaling_policy"] = WhatIsThere(self.scaling_config)
        controller = Controller(**parts)
        asyncio.run(controller.run())
        return controller.get_result()


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


class Controller(TrainController):
    """Starts lean groups."""

    worker_group_cls = LeanWorkerGroup
