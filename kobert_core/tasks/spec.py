"""What a study file can be read by: all of a task that needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kobert_core.config import DataConfig, ModelConfig, Objective


def infer_nothing(data: dict[str, object]) -> None:
    """What is said of the data is complete."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task, as a study names it."""

    name: str
    Data: type[DataConfig]
    Model: type[ModelConfig]
    metrics: tuple[str, ...]
    """All that it reports at an evaluation."""
    objective: Objective
    """What makes one set of weights better than another, when a study does not say."""
    pipeline_tag: str
    """What the hub calls it, on a model's card."""
    implementation: str
    """Its subclass of `kobert_core.tasks.base.Task`, as `module:class`."""
    predictions_by_id: bool = False
    """Whether official scripts take a file of its predictions, `{id: text}`."""
    takes_soft_labels: bool = False
    """Whether its models can learn from the predictions of others, as `distill` of a study has it."""
    infer_data_settings: Callable[[dict[str, object]], None] = infer_nothing
    """Puts what follows from the data's files into the `data` section of a study, whose paths are absolute; raises
    InputError when it does not follow from them."""
