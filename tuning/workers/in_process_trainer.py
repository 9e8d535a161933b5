"""Ray Train's `TorchTrainer` without the processes that a worker group does not need.

For two groups Ray Train starts nine processes besides the workers, and each of them imports Ray. Ray has no settings
for this, so this module overrides private parts of Ray Train. `check_ray` says whether they are what it expects;
`tuning.workers.group_trainer` is the only one that imports it. `benchmarks/RESULTS.md` has what it gains.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any

import ray
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker


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

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Result:
        policy = NoAutoscaling(self.scaling_config)  # type: ignore[arg-type]  # Ray's stubs have the one of Train V1
        controller = TrainController(**controller_init_kwargs | {"scaling_policy": policy})
        controller.worker_group_cls = self._start.group()
        with contextlib.suppress(StartCancelled):
            asyncio.run(controller.run())
            return controller.get_result()
        raise RuntimeError("the start was cancelled")

    def cancel_start(self) -> None:
        """Called from another thread while `fit` waits for the workers: `fit` then ends with an error."""
        self._start.cancel_start()


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

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> Any:
        handle = super()._create_placement_group(scaling_config, worker_group_context)
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


OVERRIDING = (InProcessTorchTrainer, NoAutoscaling, InProcessWorkerGroup)
CONTROLLER = ("worker_group_cls", "run", "get_result")
WORKER_GROUP = ("_train_run_context", "_storage_context", "_worker_callbacks_to_propagate")
TRAIN_CONTEXT = (
    "train_run_context",
    "distributed_context",
    "synchronization_actor",
    "storage_context",
    "worker_callbacks",
    "controller_actor",
)
"""What is used of Ray besides the methods that are overridden."""


def check_ray() -> None:
    """Compare Ray's private parts with what this module expects.

    Raises:
        ImportError: it cannot work with this Ray.
    """
    if differences := list(_differences()):
        raise ImportError("; ".join(differences))


def _differences() -> Iterator[str]:
    for overriding in OVERRIDING:
        for name, part in vars(overriding).items():
            if isinstance(part, FunctionType | staticmethod) and name.startswith("_") and name != "__init__":
                base = overriding.__bases__[0]
                theirs, ours = (_parameters(each, name) for each in (base, overriding))
                if theirs is None:
                    yield f"{base.__name__} lacks {name}"
                elif theirs != ours:
                    yield f"{base.__name__}.{name} takes {theirs}, not {ours}"
    yield from _missing(TrainController, CONTROLLER, dir(TrainController))
    yield from _missing(WorkerGroup, WORKER_GROUP, WorkerGroup.__init__.__code__.co_names)
    yield from _missing(RayTrainWorker, TRAIN_CONTEXT, _parameters(RayTrainWorker, "init_train_context") or ())


def _missing(owner: type, names: Iterable[str], there: Iterable[str]) -> Iterator[str]:
    yield from (f"{owner.__name__} lacks {name}" for name in names if name not in there)


def _parameters(owner: type, method: str) -> list[str] | None:
    found = getattr(owner, method, None)
    return None if found is None else list(inspect.signature(found).parameters)
