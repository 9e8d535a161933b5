"""Writes the reference from the code: every command with its options, every key of a study. `make reference`."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticUndefined, core_schema
from ruamel.yaml import YAML

from kobert_core.config import DataConfig, DistillConfig, ModelConfig, Objective, OptimConfig, RunConfig
from kobert_core.tasks import SPECS
from search_spaces.distributions import DISTRIBUTIONS
from tuning.cli.app import app
from tuning.study import searchable
from tuning.study.config import StudyHead
from tuning.study.schema import field_descriptions
from tuning.study.sections import (
    BudgetConfig,
    ConfirmConfig,
    ResourcesConfig,
    SchedulerConfig,
    SearchConfig,
    TrackingConfig,
)

HERE = Path(__file__).parent
STUDIES = sorted((HERE.parents[1] / "search_spaces").glob("*.yaml"))
SECTIONS: dict[str, type[BaseModel]] = {
    "optim": OptimConfig,
    "train": RunConfig,
    "distill": DistillConfig,
    "objective": Objective,
    "search": SearchConfig,
    "scheduler": SchedulerConfig,
    "confirm": ConfirmConfig,
    "resources": ResourcesConfig,
    "budget": BudgetConfig,
    "tracking": TrackingConfig,
}
UNITS = {
    "train.epochs": "passes over the data",
    "train.eval_percent": "% of a run's steps",
    "train.checkpoint_interval": "seconds",
    "scheduler.grace_percent": "% of a run's steps",
    "scheduler.interval_percent": "% of a run's steps",
    "resources.timeout": "seconds",
    "resources.cpus_per_worker": "cores",
    "resources.gpus_per_worker": "GPUs",
    "budget.disk": "bytes",
    "budget.wall_time": "seconds",
    "budget.gpu_hours": "hours",
    "budget.cpu_hours": "hours",
    "data.max_length": "tokens",
    "data.stride": "tokens",
    "data.max_question_length": "tokens",
    "model.max_answer_length": "tokens",
    "optim.batch_size": "examples",
    "optim.effective_batch_size": "examples",
    "optim.max_tokens": "tokens",
    "optim.accumulation": "micro-batches",
    "optim.warmup_steps": "steps",
    "optim.warmup_ratio": "share of a run's steps",
}
EXAMPLES: dict[str, object] = {
    "name": "my-reviews",
    "task": "classification",
    "data.train": "train.tsv",
    "data.test": "test.tsv",
    "data.text_column": "리뷰",
    "data.label_column": "감정",
    "data.id_column": None,
    "data.labels": ["부정", "중립", "긍정"],
    "model.backbone": "skt/kobert-base-v1",
    "storage": "/mnt/shared/sweeps",
    "data.dev": "dev.tsv",
    "data.encoding": "cp949",
    "data.delimiter": ";",
    "data.header": False,
    "data.folds": 5,
    "data.split_seed": 1,
    "data.holdout_fraction": 0.3,
    "data.max_bad_fraction": 0.05,
    "data.max_unknown_rate": 0.1,
    "data.min_labels": 1,
    "data.label_columns": ["욕설", "차별", "혐오"],
    "data.label_separator": ",",
    "data.no_label": "none",
    "data.tag_names": ["O", "B-PS", "I-PS", "B-LC", "I-LC"],
    "data.format": "klue",
    "data.stride": 64,
    "data.truncate": "head_tail",
    "model.revision": "3f1a9c2",
    "model.tokenizer": "klue/roberta-base",
    "model.keep_layers": 3,
    "model.freeze": "embeddings",
    "model.hidden_dropout": 0.1,
    "model.attention_dropout": 0.1,
    "model.dropout": 0.2,
    "model.boundary_head": False,
    "model.boundary_weight": 0.5,
    "model.n_best": 20,
    "model.max_answer_length": 30,
    "model.trim": False,
    "model.null_threshold": -1.5,
    "model.pooling": "mean",
    "model.class_weights": "balanced",
    "model.label_smoothing": 0.1,
    "optim.effective_batch_size": 64,
    "optim.schedule": "constant",
    "optim.warmup_ratio": 0.1,
    "optim.warmup_steps": 100,
    "optim.max_tokens": 8192,
    "optim.accumulation": 2,
    "optim.weight_decay": 0.05,
    "optim.layer_decay": 0.95,
    "optim.betas": [0.9, 0.98],
    "optim.eps": 1e-6,
    "train.seed": 1,
    "train.checkpoint_interval": "10m",
    "train.precision": "fp32",
    "train.gradient_checkpointing": True,
    "train.compile": True,
    "train.deterministic": True,
    "distill.soft_labels": "answers.jsonl",
    "distill.weight": 0.7,
    "distill.temperature": 3.0,
    "search.warm_start": ["sweeps/first"],
    "search.storage": "postgresql+psycopg://optuna@db/optuna",
    "scheduler.interval_percent": 25,
    "confirm.tie": "cheapest",
    "resources.concurrent": {"max": 32},
    "resources.max_failures": 5,
    "resources.timeout": "10m",
    "budget.patience": 10,
    "budget.failed_trials": 5,
    "budget.disk": "20GB",
    "budget.wall_time": "8h",
    "budget.gpu_hours": 24,
    "budget.cpu_hours": 100,
    "tracking.experiment": "my-reviews",
    "tracking.uri": "http://mlflow:5000",
    "tracking.system_metrics": True,
    "tracking.backends": ["tensorboard"],
    "tracking.callbacks": ["my_lab.alerts:Alert"],
}
"""Of keys that no study of the package sets, or in another way; checked by `tests/unit/docs/test_reference.py`."""


def pages() -> dict[Path, str]:
    """The text of each page of the reference."""
    return {HERE / "commands.md": commands_page(), HERE / "study-keys.md": keys_page()}


def main() -> None:
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


# The commands


def commands_page() -> str:
    group: Any = typer.main.get_command(app)
    parts = [
        "# Every option\n",
        "Written from the code by `make reference`; `kobert-tune COMMAND --help` shows the same."
        " [The commands](../commands.md) says what they are for.\n",
        "## kobert-tune\n",
        _table(("option", "what", "default"), (_option(parameter) for parameter in group.params)),
    ]
    for name, command in sorted(group.commands.items()):
        words = [parameter.metavar or parameter.name.upper() for parameter in _arguments(command)]
        parts += [
            f"## {name}\n",
            f"```text\n{' '.join(['kobert-tune', name, '[OPTIONS]', *words])}\n```\n",
            _prose(command.help or "") + "\n",
        ]
        if rows := [_argument(parameter) for parameter in _arguments(command)]:
            parts.append(_table(("argument", "what", "default"), rows))
        if rows := [_option(each) for each in command.params if each not in _arguments(command) and not each.hidden]:
            parts.append(_table(("option", "what", "default"), rows))
    return "\n".join(parts)


def _arguments(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "argument"]


def _argument(parameter: Any) -> tuple[str, str, str]:
    return f"`{parameter.metavar or parameter.name.upper()}`", _prose(parameter.help or ""), _shown_default(parameter)


def _option(parameter: Any) -> tuple[str, str, str]:
    takes = "" if parameter.is_flag else f" {parameter.metavar or _kind(parameter)}"
    names = ", ".join(f"`{name}{takes}`" for name in [*parameter.opts, *parameter.secondary_opts])
    return names, _prose(parameter.help or ""), "" if parameter.is_flag else _shown_default(parameter)


def _kind(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    return "|".join(map(str, choices)) or parameter.name.upper()


def _shown_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default in (None, (), [], False) else f"`{parameter.default}`"


# The keys of a study


def keys_page() -> str:
    parts = [
        "# Every key of a study\n",
        "Written from the code by `make reference`. [A study file](../study-file.md) says how they go together."
        " A key with a ✓ can be searched under `parameters`."
        " Durations are seconds, or written as `90s`, `10m`, `1h30m`.\n",
        "## At the top\n",
        _section("", StudyHead, set()),
        "## parameters\n",
        "What is searched: a dotted key, and one of these distributions, each with an optional `when`.\n",
        _table(
            ("distribution", "keys", "what"),
            (
                (f"`{name}`", ", ".join(f"`{key}`" for key in _distribution_keys(kind)), _prose(inspect.getdoc(kind)))
                for name, kind in DISTRIBUTIONS.items()
            ),
        ),
        "## data\n",
        "Of every task:\n",
        _section("data", DataConfig, set()),
    ]
    shared: dict[str, set[str]] = {"data": set(DataConfig.model_fields), "model": set(ModelConfig.model_fields)}
    models = {section: [(spec.name, getattr(spec, section.title())) for spec in SPECS.values()] for section in shared}
    for section in ("data", "model"):
        if section == "model":
            parts += ["## model\n", "Of every task:\n", _section("model", ModelConfig, set())]
        for names, kind in _by_class(models[section]):
            rows = _section(section, kind, shared[section])
            if rows:
                parts += [f"### {section} of {', '.join(f'`{name}`' for name in names)}\n", rows]
    for section, kind in SECTIONS.items():
        parts += [f"## {section}\n", _prose(inspect.getdoc(kind)) + "\n", _section(section, kind, set())]
    return "\n".join(parts)


def _by_class(named: list[tuple[str, type[BaseModel]]]) -> Iterator[tuple[list[str], type[BaseModel]]]:
    for kind in dict.fromkeys(kind for _, kind in named):
        yield [name for name, each in named if each is kind], kind


def _distribution_keys(kind: type[BaseModel]) -> list[str]:
    return [name for name in kind.model_fields if name not in ("distribution", "when")]


def _section(section: str, kind: type[BaseModel], without: set[str]) -> str:
    docs, rows, types = field_descriptions(kind), [], kind.model_json_schema(schema_generator=Schema)["properties"]
    for name, field in kind.model_fields.items():
        if name in without:
            continue
        key = f"{section}.{name}" if section else name
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{_yaml(_plain(default))}`"
        mark = " ✓" if any(key in searchable(spec) for spec in SPECS.values()) else ""
        unit = f" ({UNITS[key]})" if key in UNITS else ""
        example = example_of(key)
        rows.append(
            (f"`{name}`{mark}", _prose(docs[name]), _json_type(types[name]) + unit, shown, f"`{_yaml(example)}`")
        )
    return _table(("key", "what", "type", "default", "example"), rows) if rows else ""


def example_of(key: str) -> object:
    """A value of a key: ours, else the first that a study of the package has."""
    if key in EXAMPLES:
        return EXAMPLES[key]
    for path in STUDIES:
        value: Any = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    raise KeyError(f"{key} has no example: give one in EXAMPLES")


class Schema(GenerateJsonSchema):
    """With a word for what only our own code reads: the files of a study."""

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> JsonSchemaValue:
        return {"type": "files"}


def _json_type(schema: dict[str, Any]) -> str:
    for several in ("anyOf", "oneOf"):
        if several in schema:
            kinds = [_json_type(each) for each in schema[several] if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    names = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    names |= {"array": "list", "object": "mapping", "null": "null", "files": "file, or list of files"}
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    limits = " and ".join(f"{sign} {schema[name]:,.12g}" for name, sign in signs if name in schema)
    if "$ref" in schema:
        return "mapping"
    return f"{names[schema['type']]} {limits}".strip() if "type" in schema else "any"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str | dict) else str(value)


def _yaml(value: object) -> str:
    """On one line, as it would stand in a study."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return f'"{value}"' if isinstance(value, str) and (not value or value in ";,|") else str(value)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [
        " | ".join(head),
        "|".join("---" for _ in head),
        *(" | ".join(_cell(cell) for cell in row) for row in rows),
    ]
    return "".join(f"| {line} |\n" if "---" not in line[:4] else f"|{line}|\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _prose(text: str | None) -> str:
    """Without rich's markup and the breaks of lines."""
    plain = re.sub(r"\[/?(?:bold)?\]", "", inspect.cleandoc(text or ""))
    return "\n\n".join(" ".join(part.split()) for part in plain.split("\n\n"))


if __name__ == "__main__":
    main()
