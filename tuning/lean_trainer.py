"""Ray Train's `TorchTrainer` without the processes that a worker group has no use for."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer


class LeanTorchTrainer(TorchTrainer):
    """Starts no Ray Data: the groups read memory-mapped features.

    Its manager is a process of its own for each group, and took 7.6 of the 36 s in which two groups started on 2 busy
    cores (ray 2.60). Where a later Ray has no such callback, nothing is left out.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # Ray's own, not in its stubs
        return [each for each in callbacks if type(each).__name__ != "DatasetsCallback"]
