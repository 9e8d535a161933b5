"""docs/own-data.md as its reader does it: a CSV with Korean column names and three classes, an encoder in a folder."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest

from tests.fixtures.commands import tune_forked
from tests.fixtures.comments import LABELLED, PAGE, write_comments
from tests.fixtures.serving import served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the reader has, and the page's study."""
    return write_comments(tmp_path)


def commands() -> list[list[str]]:
    return [shlex.split(line)[1:] for line in "".join(PAGE.code("sh")).splitlines()]


def test_look_before_you_leap(folder: Path) -> None:
    described, looked = [tune_forked(*words, cwd=folder) for words in commands()[:2]]
    assert "긍정" in described.stdout and "90" in described.stdout
    assert "classes in train" in looked.stdout and "4 trials, tpe search" in looked.stdout


def test_a_mistake_is_the_line_that_is_shown(folder: Path) -> None:
    (line,) = PAGE.code("text")
    refused = tune_forked("sweep", "study.yaml", "--dry-run", "--set", "data.label_column=감정", cwd=folder, code=2)
    assert refused.stderr.splitlines()[-1].replace(f"{folder}/", "…/") == line.strip()


@pytest.mark.slow
def test_from_the_file_to_a_server(folder: Path) -> None:
    for words in commands():
        tune_forked(*words, cwd=folder)
    with open(folder / "answers.csv", encoding="utf-8-sig") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 90 and {answer["label"] for answer in answers} <= LABELLED.keys()
    winner = json.loads((folder / "sweeps" / "comments" / "winner.json").read_text("utf-8"))
    assert winner["verdict"]["sentence"]
    with served(folder / "best", log=folder / "server.log") as server:
        assert server.predict("/predict", {"text": "정말 좋았다"})["label"] in LABELLED
