"""Every block of code of the README and of docs/ is parsed as what it says that it is; its commands have such options.

`tests/integration/test_pages.py` runs them, or finds the test that does, and says what is not run.
"""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from kobert_core.tasks import SPECS
from search_spaces.distributions import Space
from search_spaces.validation import nowhere
from tests.fixtures.commands import ROOT
from tests.fixtures.compose import services
from tests.fixtures.pages import Block, pages
from tuning.cli.app import app
from tuning.study import load_study
from tuning.study.config import StudyConfig, StudyHead

BLOCKS = [block for page in pages() for block in page.blocks]
ELSEWHERE = {"klue", "conll", "table"}
"""Files of entities: `test_entities.py` reads them."""
PROGRAMS = {
    "cp",
    "curl",
    "docker",
    "echo",
    "export",
    "hf",
    "make",
    "mlflow",
    "optuna-dashboard",
    "pip",
    ".",
    "sha256sum",
}
ON_DATA = re.compile("/(data|own-data|tasks|ko/.*).md")
"""Pages whose studies others try on files that are as they say, and Korean ones, which have the same."""
QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
SETTINGS = {"POSTGRES_PASSWORD": "", "RAY_AUTH_TOKEN": "", "CPUS_PER_WORKER": "1"}
GROUP: Any = typer.main.get_command(app)


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_says_what_it_is() -> None:
    known = {"sh", "bash", "python", "yaml", "json", "jsonl", "csv", "toml", "text", "plain"} | ELSEWHERE
    assert [str(block) for block in BLOCKS if block.language not in known] == []


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, also of those behind a pipe."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in shlex.split(line, comments=True):
            if word == "|":
                yield words
                words = []
            else:
                words.append(word.strip("[]"))
        if words:
            yield words


@pytest.mark.parametrize("block", of("sh", "bash"), ids=str)
def test_a_command_is_one(block: Block) -> None:
    for program, *words in commands(block.text):
        if program == "kobert-tune":
            GROUP.make_context("kobert-tune", words).close()  # it has such a command
            name, *rest = words
            GROUP.commands[name].make_context(name, rest).close()  # which has such options
        else:
            assert program in PROGRAMS, program
        if program == "make":
            subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, check=True)
        if program == "docker":
            files = [words[number + 1] for number, word in enumerate(words) if word == "--file"]
            assert files and all((ROOT / file).is_file() for file in files), words
            assert "exec" not in words or words[words.index("exec") + 1] in services(SETTINGS), words
        if program == "cp":
            assert (ROOT / words[0]).is_file(), words
        for extra in re.findall(r"kobert-tuning\[(\w+)\]", " ".join(words)):
            project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
            assert extra in project["optional-dependencies"]


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_is_python_whose_imports_are_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            assert all(importlib.util.find_spec(alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_has_keys_of_a_study(block: Block) -> None:
    study = YAML(typ="safe", pure=True).load(block.text)
    Space.from_dict(study.pop("parameters", {}), where=nowhere)
    for name, value in study.items():
        assert name in StudyHead.model_fields or name in StudyConfig.model_fields, name
        for key in value if isinstance(value, dict) else ():
            assert any(key in kind.model_fields for kind in sections(name)), f"{name}.{key}"


def sections(name: str) -> list[Any]:
    """The classes that a section of a study may have."""
    if name in ("data", "model"):
        return [getattr(spec, name.title()) for spec in SPECS.values()]
    annotation: Any = StudyConfig.model_fields[name].annotation
    return [each for each in (annotation, *getattr(annotation, "__args__", ())) if hasattr(each, "model_fields")]


@pytest.mark.parametrize("block", [block for block in of("yaml") if not ON_DATA.search(block.page)], ids=str)
def test_yaml_is_a_study_or_a_part_of_one(block: Block, tmp_path: Path) -> None:
    """With what the page leaves out, it is one that a sweep takes."""
    yaml = YAML(typ="safe", pure=True)
    shown, rest = yaml.load(block.text), yaml.load(QUICKSTART.read_text(encoding="utf-8"))
    if "parameters" in shown:
        del rest["search"]  # which has points in other parameters
    if "model.backbone" in shown.get("parameters", {}):
        del rest["model"]
    if "distill" in shown:
        shown["distill"].setdefault("soft_labels", "answers.jsonl")  # as `kobert-tune distill` does it
    (tmp_path / "study.yaml").write_text(json.dumps(shown if "name" in shown else rest | shown), encoding="utf-8")
    study = load_study(tmp_path / "study.yaml")
    study.train_config(study.example_values())


@pytest.mark.parametrize("block", of("json", "jsonl", "csv", "toml"), ids=str)
def test_data_is_data(block: Block) -> None:
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "jsonl":
        assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())
    else:
        assert len({len(row) for row in csv.reader(block.text.splitlines())}) == 1
