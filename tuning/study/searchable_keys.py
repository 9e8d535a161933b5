"""The keys that a study may search, and those that may change in the middle of a run."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from kobert_core.config import DataConfig, ModelConfig, OptimConfig
from kobert_core.tasks.spec import TaskSpec

SEARCHABLE = (
    *(f"optim.{name}" for name in OptimConfig.model_fields if name != "betas"),
    "train.epochs",
    "train.seed",
    "model.backbone",
    "model.tokenizer",
    "model.revision",
    "model.keep_layers",
    "model.freeze",
    "model.dropout",
    "model.hidden_dropout",
    "model.attention_dropout",
)
"""Searchable for every task. What sets the split, the rungs or the files is not: trials would not compare."""
CHANGEABLE = (
    "optim.backbone_lr",
    "optim.classifier_lr",
    "optim.weight_decay",
    "optim.max_grad_norm",
    "model.dropout",
    "model.hidden_dropout",
    "model.attention_dropout",
    "model.label_smoothing",
)
"""What population based training may change in the middle of a run: not its length, its data, or its model's shape."""


def searchable(task: TaskSpec) -> list[str]:
    """The dotted keys that a study of this task may search: numbers, switches and choices."""
    own = (("data", task.Data, DataConfig), ("model", task.Model, ModelConfig))
    return [
        *SEARCHABLE,
        *(("distill.weight", "distill.temperature") if task.takes_soft_labels else ()),
        *(
            f"{section}.{name}"
            for section, model, base in own
            for name, field in model.model_fields.items()
            if name not in base.model_fields
            and any(kind in (int, float, bool) or get_origin(kind) is Literal for kind in kinds_of(field.annotation))
        ),
    ]


def kinds_of(annotation: object) -> Iterator[object]:
    """The types that a value may have: the branches of unions, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        yield from kinds_of(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for branch in get_args(annotation):
            yield from kinds_of(branch)
    else:
        yield annotation
