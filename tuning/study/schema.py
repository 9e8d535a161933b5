"""The JSON Schema of study files, for editors and for references: keys, types, bounds, defaults and descriptions, from
the classes that a study is read by.

It knows what one value may be, and which keys a task has. Rules between values (`min < max`, or that a parameter which
is searched has no fixed value) are those of `load_study`, which has the last word.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from kobert_core.config import DistillConfig, FrozenConfig, ModelConfig, Objective, OptimConfig, RunConfig
from kobert_core.tasks import SPECS
from kobert_core.tasks.spec import TaskSpec, infer_nothing
from search_spaces.distributions import DISTRIBUTIONS
from tuning.study.config import StudyHead
from tuning.study.objectives import COSTS, LOOP_METRICS, FurtherObjective
from tuning.study.searchable_keys import CHANGEABLE, searchable
from tuning.study.sections import (
    BudgetConfig,
    ConfirmConfig,
    ResourcesConfig,
    SchedulerConfig,
    SearchConfig,
    TrackingConfig,
)

Schema = dict[str, Any]
DRAFT = "http://json-schema.org/draft-07/schema#"
"""What editors know."""
SECTIONS: dict[str, type[FrozenConfig]] = {
    "optim": OptimConfig,
    "train": RunConfig,
    "distill": DistillConfig,
    "search": SearchConfig,
    "scheduler": SchedulerConfig,
    "confirm": ConfirmConfig,
    "resources": ResourcesConfig,
    "budget": BudgetConfig,
    "tracking": TrackingConfig,
}
"""Those that are the same for all tasks."""
SHORT_FORMS = {"values": "categorical", "value": "constant", "min": "int", "max": "uniform", "q": "q_uniform"}
"""A distribution for each form that `parameters` may have without a `distribution`."""
NULL: Schema = {"type": "null"}


def packaged_schema() -> Path:
    """The file with the schema that comes with the package."""
    return Path(str(files("search_spaces"))) / "study.schema.json"


def study_schema() -> Schema:
    """The schema of all study files that `load_study` may read, of each task that is installed."""
    classes: dict[str, type[FrozenConfig]] = {}
    of_tasks = [model for spec in SPECS.values() for model in (spec.Data, spec.Model)]
    for model in (
        StudyHead,
        Objective,
        FurtherObjective,
        ModelConfig,
        *SECTIONS.values(),
        *of_tasks,
        *DISTRIBUTIONS.values(),
    ):
        assert classes.setdefault(model.__name__, model) is model
    parts = models_json_schema([(model, "validation") for model in classes.values()], ref_template=_ref("{model}"))[1]
    definitions = {name: _tidied(part) for name, part in parts["$defs"].items()}
    for name, model in classes.items():
        definitions[name]["description"] = _one_line(inspect.getdoc(model) or "")
        for field, text in field_descriptions(model).items():
            if field in definitions[name]["properties"]:
                definitions[name]["properties"][field]["description"] = text
    for spec in SPECS.values():
        if spec.infer_data_settings is not infer_nothing:  # what it infers need not be given
            definitions[spec.Data.__name__]["required"] = ["train"]
    definitions["Parameter"] = _parameter()
    head: Schema = definitions.pop("StudyHead")
    for key in ("keep_checkpoints", "storage"):
        described = head["properties"][key].pop("description")
        head["properties"][key] = _or_null(head["properties"][key]) | {"description": described}
    head["properties"]["task"]["enum"] = list(SPECS)
    return {
        "$schema": DRAFT,
        "title": "A study of kobert-tuning",
        "description": "What to train, what to search, how, and for how long.",
        "type": "object",
        "required": ["schema_version", "name", "task", "data"],
        "additionalProperties": False,
        "properties": head["properties"]
        | {
            "data": {"description": "Files and how they become examples."},
            "model": {"description": "Encoder, tokenizer and head."},
            "parameters": {
                "description": "What is searched: a distribution for each dotted key, such as `optim.backbone_lr`."
            },
            "objective": {"description": definitions["Objective"]["description"]},
        }
        | {
            name: _or_null({"$ref": _ref(model.__name__)}) | {"description": definitions[model.__name__]["description"]}
            for name, model in SECTIONS.items()
        },
        "allOf": [_of_task(spec, definitions) for spec in SPECS.values()] + [_population()],
        "definitions": dict(sorted(definitions.items())),
    }


def _of_task(spec: TaskSpec, definitions: dict[str, Schema]) -> Schema:
    """What a study has if it is of this task."""
    values = {key: _owner(spec, key, definitions) for key in searchable(spec)}
    for owner, field in values.values():
        definitions.setdefault(f"searched_{owner}.{field}", _searched(owner, field, definitions))
    parameters = {key: {"$ref": _ref(f"searched_{owner}.{field}")} for key, (owner, field) in values.items()}
    given = {key: {"$ref": f"{_ref(owner)}/properties/{field}"} for key, (owner, field) in values.items()}
    return {
        "if": {"properties": {"task": {"const": spec.name}}, "required": ["task"]},
        "then": {
            "properties": {
                "data": {"$ref": _ref(spec.Data.__name__)},
                "model": _or_null({"$ref": _ref(spec.Model.__name__)}),
                "parameters": _or_null({"type": "object", "properties": parameters, "additionalProperties": False}),
                "objective": _or_null(_objectives(spec)),
                "search": {
                    "properties": {
                        "points": {"items": {"type": "object", "properties": given, "additionalProperties": False}}
                    }
                },
                **({} if spec.takes_soft_labels else {"distill": NULL}),
            }
        },
    }


def _owner(spec: TaskSpec, key: str, definitions: Mapping[str, Schema]) -> tuple[str, str]:
    """The class and the field that a searchable key of a task is; the class of all tasks, where theirs is the same."""
    section, _, field = key.partition(".")
    model = {"data": spec.Data, "model": spec.Model}.get(section) or SECTIONS[section]
    own = definitions[model.__name__]["properties"][field]
    shared = definitions[ModelConfig.__name__]["properties"].get(field) if section == "model" else None
    return ModelConfig.__name__ if shared == own else model.__name__, field


def _searched(owner: str, field: str, definitions: Mapping[str, Schema]) -> Schema:
    """How a field is searched: each value that it may take is one that it may have."""
    value = {"$ref": f"{_ref(owner)}/properties/{field}"}
    described = definitions[owner]["properties"][field].get("description", "")
    return {
        "description": described,
        "allOf": [
            {"$ref": _ref("Parameter")},
            {"properties": {"min": value, "max": value, "value": value, "values": {"items": value}}},
        ],
    }


def _parameter() -> Schema:
    """A distribution by its name, or in a short form."""
    return {
        "description": "The values that a searched parameter may take.",
        "type": "object",
        "properties": {"distribution": {"enum": list(DISTRIBUTIONS), "description": "How values are drawn."}},
        "if": {"required": ["distribution"]},
        "then": {
            "allOf": [
                {
                    "if": {"properties": {"distribution": {"const": name}}},
                    "then": {"$ref": _ref(kind.__name__)},
                }
                for name, kind in DISTRIBUTIONS.items()
            ]
        },
        "else": {"anyOf": [{"$ref": _ref(DISTRIBUTIONS[name].__name__)} for name in SHORT_FORMS.values()]},
    }


def _objective(spec: TaskSpec) -> Schema:
    """The metrics of a task; which of them is better where is known of its own objective alone."""
    own = spec.objective.metric
    return {
        "type": "object",
        "properties": {
            "metric": {
                "enum": [*spec.metrics, *LOOP_METRICS],
                "description": f"{field_descriptions(Objective)['metric']} {own} when no objective is given.",
            },
            "mode": {"$ref": f"{_ref('Objective')}/properties/mode"},
        },
        "additionalProperties": False,
        "dependencies": {"mode": ["metric"]},
        "if": {"properties": {"metric": {"not": {"const": own}}}, "required": ["metric"]},
        "then": {"required": ["mode"]},
    }


def _objectives(spec: TaskSpec) -> Schema:
    """One objective, or a list whose first entry it is."""
    first = _objective(spec)
    further: Schema = {
        "type": "object",
        "required": ["metric"],
        "properties": {
            "metric": {
                "enum": [*spec.metrics, *LOOP_METRICS, *COSTS],
                "description": field_descriptions(Objective)["metric"],
            },
            **{key: {"$ref": f"{_ref('FurtherObjective')}/properties/{key}"} for key in ("mode", "below", "above")},
        },
        "additionalProperties": False,
        "anyOf": [
            {"required": ["mode"]},
            *({"required": [bound], "properties": {bound: {"not": NULL}}} for bound in ("below", "above")),
            {"properties": {"metric": {"enum": [spec.objective.metric, *COSTS]}}},
        ],
    }
    return {"anyOf": [first, {"type": "array", "items": [first], "additionalItems": further}]}


def _population() -> Schema:
    """Population based training searches what can change in the middle of a run."""
    return {
        "if": {
            "properties": {"scheduler": {"properties": {"name": {"const": "pbt"}}, "required": ["name"]}},
            "required": ["scheduler"],
        },
        "then": {"properties": {"parameters": {"propertyNames": {"enum": list(CHANGEABLE)}}}},
    }


def _ref(name: str) -> str:
    return f"#/definitions/{name}"


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, NULL]}


def _tidied(node: Any) -> Any:
    """What pydantic says, as draft 7 says it, and without titles, which repeat the keys."""
    if isinstance(node, list):
        return [_tidied(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {
        key: {name: _tidied(each) for name, each in value.items()} if key == "properties" else _tidied(value)
        for key, value in node.items()
        if key not in ("title", "format")
    }
    if "prefixItems" in found:
        found["items"] = found.pop("prefixItems")
    if "gt" in found:  # of a number that may also be written as a text
        found["exclusiveMinimum"] = found.pop("gt")
    return found


@cache
def field_descriptions(model: type) -> Mapping[str, str]:
    """What stands under the fields of a class and its bases."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not issubclass(each, FrozenConfig) or each is FrozenConfig:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = _one_line(str(text.value.value))
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())
