"""All tasks there are, and their presets. A task is a folder beside this file, or in another package; no loop, sweep,
export or command names it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from kobert_core.config import FrozenConfig, TrainConfig
from kobert_core.plugins import Plugins
from kobert_core.tasks.multilabel.config import SPEC as MULTILABEL
from kobert_core.tasks.question_answering.config import KORQUAD, QA
from kobert_core.tasks.regression.config import SPEC as REGRESSION
from kobert_core.tasks.spec import TaskSpec
from kobert_core.tasks.text_classification.config import CLASSIFICATION, NSMC
from kobert_core.tasks.token_classification.config import SPEC as TOKENS

if TYPE_CHECKING:
    from kobert_core.tasks.base import Task

SPECS: Plugins[TaskSpec] = Plugins(
    "kobert_tuning.tasks",
    TaskSpec,
    {spec.name: spec for spec in (CLASSIFICATION, NSMC, MULTILABEL, REGRESSION, TOKENS, QA, KORQUAD)},
)
"""By the name that a study gives; other packages add theirs as entry points."""


def task_class(name: str) -> type[Task]:
    """The implementation of a task, which imports PyTorch."""
    module, _, attribute = SPECS[name].implementation.partition(":")
    task: type[Task] = getattr(import_module(module), attribute)
    return task


def parse_train_config(values: Mapping[str, object]) -> TrainConfig:
    """A config from plain values, such as those of a JSON file; `data` and `model` become those of its task.

    Raises:
        pydantic.ValidationError, ValueError: a value is wrong, or no task has this name.
    """
    name = values.get("task")
    if not isinstance(name, str) or name not in SPECS:
        raise ValueError(f"`task` must be one of {', '.join(SPECS)}, but got {name!r}")
    spec = SPECS[name]
    sections = {"data": spec.Data, "model": spec.Model}
    parsed = {
        key: kind.model_validate(values[key]) if not isinstance(values[key], FrozenConfig) else values[key]
        for key, kind in sections.items()
        if key in values
    }
    return TrainConfig.model_validate({**values, **parsed})
