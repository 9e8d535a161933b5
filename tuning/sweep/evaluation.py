"""An exported model on a labelled file; each reading is recorded in the model's folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from kobert_core.data.source import Source
from kobert_core.evaluation import predict
from kobert_core.pretrained import Pretrained
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks.examples import Examples
from tuning.sweep_dir.test_set_log import record_reading_of_model, times_read

E = TypeVar("E", bound=Examples)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Generic[E]):
    """What a model said of a file, and what that is worth."""

    examples: E
    outputs: dict[str, np.ndarray]
    scores: dict[str, float]
    """As `Task.score` gives them."""
    set_aside: int
    """Rows or questions that no score counts."""
    earlier_readings: int
    """How often the file was read before."""

    @property
    def metrics(self) -> dict[str, Any]:
        """The scores as people know them, and what was set aside."""
        return {name.removeprefix("eval/"): value for name, value in self.scores.items()} | {
            "set_aside": self.set_aside
        }


def evaluate_model(
    pretrained: Pretrained, folder: Path, source: Source, *, by: str, say: Callable[[str], object]
) -> Evaluation[Any]:
    """Score a model on a labelled file, and record that in the model's folder, if it can be written.

    Args:
        pretrained: The model.
        folder: Its folder.
        source: The labelled file.
        by: Which command reads it.
        say: Gets a line if the reading could not be recorded.

    Raises:
        InputError: the file cannot be used.
    """
    task, runtime = pretrained.task, LocalRuntime(device=pretrained.device)
    digest = Source.of(source).digest()
    earlier = times_read(folder, digest)
    examples = task.read(source)
    outputs = predict(pretrained.model.to(runtime.device), task, examples, runtime)
    found = Evaluation(
        examples=examples,
        outputs=outputs,
        scores=task.score(examples, outputs),
        set_aside=task.set_aside(source),
        earlier_readings=earlier,
    )
    record_reading_of_model(folder, file=source, sha256=digest, by=by, metrics=found.metrics, say=say)
    return found
