"""docs/troubleshooting.md: each line is printed, word by word, by the mistake that it is about."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.fixtures.commands import tune_here
from tests.fixtures.comments import write_comments
from tests.fixtures.pages import page

DRY = ("sweep", "study.yaml", "--dry-run")
MISTAKES: dict[str, tuple[str, ...]] = {
    "…/other.csv: ": (*DRY, "--set", "data.train=other.csv"),
    "…/comments.csv: no label column": (*DRY, "--set", "data.label_column=감정"),
    "…/semi.csv: ": (*DRY, "--set", "data.train=semi.csv"),
    "…/comments.csv: 123 of 360": ("sweep", "labels/study.yaml", "--dry-run", "--set", "data.labels=[보통, 혐오]"),
    "nothing.yaml: ": ("sweep", "nothing.yaml", "--dry-run"),
    "bad.yaml:2: ": ("sweep", "bad.yaml", "--dry-run"),
    "--set learning_rate=3: ": (*DRY, "--set", "learning_rate=3"),
    "--set objective.metric=eval/accurracy: ": (*DRY, "--set", "objective.metric=eval/accurracy"),
    "--set confirm.seeds=1: ": (*DRY, "--set", "confirm.seeds=1"),
    "--set optim.backbone_lr=1e-4: ": (*DRY, "--set", "optim.backbone_lr=1e-4"),
    "--set tracking.uri=": (*DRY, "--set", "tracking.uri=postgresql://me:secret@db/mlflow"),
    "no-such-encoder: ": (*DRY, "--set", "model.backbone=no-such-encoder"),
    "data: examples of 600 tokens": (*DRY, "--set", "data.max_length=600"),
    "resources: ": (*DRY, "--set", "resources.gpus_per_worker=1"),
    "--address http://127.0.0.1:1: ": ("submit", "study.yaml", "--address", "http://127.0.0.1:1"),
    "sweeps/none: ": ("list", "sweeps/none"),
    "nothing/train_config.json: ": ("evaluate", "nothing", "comments.csv"),
}
"""How a line begins behind `error: `, and what prints it."""
ELSEWHERE = {
    "reviews.csv: read as CP949": "test_pages.py",
    "error: …/sweeps/comments: the sweep name `comments` is in use": "test_pages_whole.py, as on docs/going-on.md",
    "verdict: ": "of a sweep of another day; tests/unit/docs/test_lines.py finds it in the code",
    "note: ": "the same",
}
LINES = [
    line
    for block in page("docs/troubleshooting.md").blocks
    for line in block.text.splitlines()
    if not line.startswith(tuple(ELSEWHERE))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the reader of docs/own-data.md has, and what went wrong with it."""
    folder = write_comments(tmp_path_factory.mktemp("trouble"))
    text = (folder / "comments.csv").read_text("cp949")
    (folder / "semi.csv").write_text(text.replace(",", ";"), encoding="utf-8")
    (folder / "bad.yaml").write_text("schema_version: 1\nname: a: b\n", encoding="utf-8")
    (folder / "labels").mkdir()
    kinds = ["보통", "불쾌", "혐오"] * 117 + ["불쾌"] * 6 + ["보통"] * 3
    with open(folder / "labels" / "comments.csv", "w", encoding="utf-8", newline="") as file:
        rows = [(number, f"댓글 {number}", kind) for number, kind in enumerate(kinds)]
        csv.writer(file).writerows([("번호", "댓글", "분류"), *rows])
    study = (folder / "study.yaml").read_text("utf-8").replace("backbone: encoder", "backbone: ../encoder")
    (folder / "labels" / "study.yaml").write_text(study, encoding="utf-8")
    return folder


def pattern_of(line: str) -> str:
    """`…` stands for anything, and what a machine has differs."""
    return re.sub(r"\d+(?=\\ (?:CPUs|GPUs)\\?[, ])", r"\\d+", re.escape(line).replace("…", ".*"))


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_printed(line: str, folder: Path) -> None:
    (words,) = [words for begin, words in MISTAKES.items() if line.startswith(f"error: {begin}")]
    said = tune_here(*words, cwd=folder, code=2).stderr.strip()
    assert re.fullmatch(pattern_of(line), said), said


def test_all_lines_are_looked_at() -> None:
    assert len(LINES) == len(MISTAKES)
