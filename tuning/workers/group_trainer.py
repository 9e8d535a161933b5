"""The `TorchTrainer` of a worker group: the fast one where this Ray allows it, else Ray Train's own."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray.train import FailureConfig, Result
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import placement_group, remove_placement_group

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 0.5


class GroupTrainer(Protocol):
    """Runs a worker group until it ends."""

    def fit(self) -> Result:
        """Start the workers, and wait for their end."""

    def cancel_start(self) -> None:
        """Called from another thread: `fit` no longer waits for its workers, and raises an error."""


class StockTorchTrainer(TorchTrainer):
    """Ray Train's own, on any Ray.

    `fit` first waits until there is room for the workers: this wait can be cancelled, the one of Ray Train cannot.
    Between the two another group that waits may take the room: where many wait for machines, a start can take long.
    """

    def __init__(self, *arguments: Any, scaling_config: Any, **options: Any) -> None:
        super().__init__(*arguments, scaling_config=scaling_config, **options)
        self._bundles = [scaling_config.resources_per_worker] * scaling_config.num_workers
        self._cancelled = threading.Event()

    def fit(self) -> Result:
        """As Ray Train's, once there is room."""
        room = placement_group(self._bundles)
        try:
            while not room.wait(SECONDS_BETWEEN_LOOKS) and not self._cancelled.is_set():
                pass
        finally:
            remove_placement_group(room)
        if self._cancelled.is_set():
            raise RuntimeError("the start was cancelled")
        return super().fit()

    def cancel_start(self) -> None:
        """Called from another thread while `fit` waits for room: `fit` then ends with an error."""
        self._cancelled.set()


def no_retries() -> FailureConfig:
    """Ray Train starts no workers again by itself, which it would do without end when a drained node is gone: the trial
    would wait for them, and not hear that it has to go on elsewhere."""
    known = {each.name for each in dataclasses.fields(FailureConfig)}
    none: dict[str, Any] = {name: 0 for name in ("max_failures", "max_preemption_failures") if name in known}
    return FailureConfig(**none)


class SingleWorkerConfig(TorchConfig):
    """For a group of one worker, which needs no process group: torch would listen on all interfaces."""

    @property
    def backend_cls(self) -> type[Backend]:
        """One that starts no process group."""
        return Backend


@functools.cache
def trainer_class() -> Callable[..., GroupTrainer]:
    """The in-process trainer, or Ray Train's own where this Ray has other private parts, with one line in the log."""
    try:
        from tuning.workers.in_process_trainer import InProcessTorchTrainer, check_ray

        check_ray()
    except ImportError as error:
        log.warning(
            "Ray %s: worker groups start with Ray Train's own trainer, which takes longer (%s)", ray.__version__, error
        )
        return StockTorchTrainer
    return InProcessTorchTrainer
