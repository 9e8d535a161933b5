"""The JSON Schema of study files says what the loader says, as far as a schema can."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from kobert_core.errors import InputError
from kobert_core.tasks import SPECS
from tests.fixtures.commands import ROOT
from tuning.study import load_study
from tuning.study.config import StudyHead
from tuning.study.schema import SECTIONS, packaged_schema, study_schema

STUDIES = sorted((ROOT / "search_spaces").glob("*.yaml"))
FIRST_LINE = re.compile(r"# yaml-language-server: \$schema=(\S+)")
"""What editors look for."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    10,
    10**7,
    "x",
    "",
    "auto",
    "10m",
    "20GB",
    [],
    {},
    ["a", "b"],
    {"a": "b"},
)
SCALES = (
    {"distribution": "log_uniform", "min": 1e-5, "max": 1e-4},
    {"distribution": "log_uniform", "min": 0, "max": 1e-4},
    {"distribution": "uniform", "min": -1, "max": 2},
    {"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.1},
    {"distribution": "uniform", "min": 0.1, "max": 0.2, "q": 0.1},
    {"distribution": "int_log", "min": 1, "max": 2},
    {"distribution": "int", "min": 1, "max": 2.5},
    {"distribution": "normal", "mu": 0},
    {"min": 1, "max": 3},
    {"min": 1},
    {"values": [1, 2], "when": {"optim.schedule": "linear"}},
    {"values": []},
    {"values": ["linear", "constant"]},
    {"value": 0.5},
    {"vaule": 0.5},
    0.5,
)
RULES = (
    "must be given with `init: pretrained`",
    "needs `init: random`",
    "a name has",
    "no encoding",
    "a baseline is trial 0",
    "must say how many examples",
    "tracking stores in plain folders",
    "not both",
    "is searched, but there is no `distill`",
    "a teacher's answers have no class",
    "a teacher has seen",
    "`optim.schedule` is not a parameter",
    "the space has",
    "must hold",
    "with `label_columns`",
)
"""What lies between values, or in a library: the loader's alone."""


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    return Draft7Validator(study_schema())


def test_the_packaged_file_is_what_the_code_says() -> None:
    assert json.loads(packaged_schema().read_text(encoding="utf-8")) == study_schema(), "run `make schema`"
    assert (ROOT / "docs" / "study.schema.json").read_bytes() == packaged_schema().read_bytes()


def test_it_is_a_schema_in_which_every_key_is_described() -> None:
    schema = study_schema()
    Draft7Validator.check_schema(schema)
    lacking = [
        f"{name}.{key}"
        for name, part in schema["definitions"].items()
        for key, value in part.get("properties", {}).items()
        if not value.get("description")
    ]
    own_name = {"distribution", "min", "max", "value", "values"}  # of a distribution, which is described
    assert {name.split(".")[1] for name in lacking} <= own_name
    assert all(part.get("description") for part in schema["properties"].values())


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_of_the_package_names_it_and_is_valid(file: Path, validator: Draft7Validator) -> None:
    text = file.read_text(encoding="utf-8")
    named = FIRST_LINE.match(text)
    assert named and (file.parent / named[1]).resolve() == packaged_schema().resolve()
    assert [error.message for error in validator.iter_errors(YAML(typ="safe", pure=True).load(text))] == []


def changed(task: str) -> Iterator[dict[str, Any]]:
    """Studies of a task with one odd value."""
    spec = SPECS[task]
    sections = {"data": spec.Data, "model": spec.Model, **SECTIONS}
    places: list[tuple[str, ...]] = [(key,) for key in (*StudyHead.model_fields, *sections, "unheard_of")]
    places += [(section, key) for section, model in sections.items() for key in (*model.model_fields, "unheard_of")]
    for place in places:
        for value in VALUES:
            yield with_value(task, place, value)
    for key in (
        "optim.backbone_lr",
        "optim.schedule",
        "train.epochs",
        "model.dropout",
        "data.max_length",
        "data.train",
    ):
        for distribution in SCALES:
            yield with_value(task, ("parameters", key), distribution)


def with_value(task: str, place: tuple[str, ...], value: object) -> dict[str, Any]:
    study: dict[str, Any] = {
        "schema_version": 1,
        "name": "changed",
        "task": task,
        "data": {"train": "train.tsv", **({} if task in ("nsmc", "regression", "qa") else {"labels": ["a", "b"]})},
        "model": {"backbone": "skt/kobert-base-v1"},
    }
    if place[0] == "distill":
        study["distill"] = {"soft_labels": "soft.parquet"}
    section = study.setdefault(place[0], {}) if len(place) > 1 else study
    section[place[-1]] = value
    return study


@pytest.mark.parametrize("task", ["nsmc", "classification", "multilabel", "regression", "tokens", "qa"])
def test_what_it_refuses_the_loader_refuses_and_the_other_way_round(
    task: str, validator: Draft7Validator, tmp_path: Path
) -> None:
    """A sample of all changes, the same each time. Left out: `true` where Python takes it for 1, and labels that are to
    be read from the file."""
    file, refused = tmp_path / "study.yaml", 0
    studies = list(changed(task))
    for study in random.Random(f"{task} 0").sample(studies, 250):
        file.write_text(json.dumps(study), encoding="utf-8")
        said = None
        try:
            load_study(file)
        except InputError as error:
            said = str(error)
        found = [error.message for error in validator.iter_errors(study)]
        if study["schema_version"] is True or "cannot be read" in str(said):
            continue
        assert said or not found, (study, found)
        assert found or not said or any(rule in said for rule in RULES), (study, said)
        refused += bool(found)
    assert refused > 50
