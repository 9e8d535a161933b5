"""docs/data.md: what stops a study, and what a small dev split can tell, is said as the page has it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.fixtures.commands import tune_here
from tests.fixtures.comments import LABELLED
from tests.fixtures.encoders import make_encoder
from tests.fixtures.pages import page

BLOCKS = page("docs/data.md").code("text")
DRY = ("sweep", "study.yaml", "--dry-run")
STUDY = """\
schema_version: 1
name: own
task: classification
data: {{train: {train}, text_column: 리뷰, label_column: 감정, id_column: 번호, labels: [부정, 긍정]{data}}}
model: {{backbone: klue/roberta-base}}
parameters: {{optim.backbone_lr: {{distribution: log_uniform, min: 1e-5, max: 1e-4}}}}
budget: {{trials: 2}}
{rest}
"""
MISTAKES = {
    "reviews.csv: 12.34%": ("unknown.csv", "", ""),
    "dev.csv: 2 of 40": ("reviews.csv", ", dev: leaking.csv", ""),
    "dev.csv: all rows of dev": ("reviews.csv", ", dev: alike.csv", ""),
    "study.yaml:4: `data`: give `dev` or": ("reviews.csv", ", dev: dev.csv, folds: 5", ""),
    "study.yaml:4: `data`: give `dev_fraction` or": ("reviews.csv", ", dev_fraction: 0.2, folds: 5", ""),
    "study.yaml:9: `confirm`": ("reviews.csv", ", folds: 5", "confirm: {top: 1}"),
    "study.yaml:5: `scheduler.name: pbt`": ("reviews.csv", ", folds: 5", "scheduler: {name: pbt}"),
    "reviews.csv: no folds": ("four.csv", ", folds: 5", ""),
}
"""How a line begins; the training file, what else `data` says, and the study, that lead to it."""
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith(tuple(MISTAKES))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of 60 rows to train on and 40 to compare by."""
    folder = tmp_path_factory.mktemp("data")
    make_encoder("bert", folder / "klue" / "roberta-base")

    def write(name: str, numbers: range, **columns: list[str]) -> pd.DataFrame:
        texts = [LABELLED[("부정", "긍정")[number % 2]] + "!" * number for number in numbers]
        labels = [("부정", "긍정")[number % 2] for number in numbers]
        table = pd.DataFrame({"번호": numbers, "리뷰": texts, "감정": labels}).assign(**columns)
        table.to_csv(folder / name, index=False)
        return table

    table = write("reviews.csv", range(60))
    write("four.csv", range(4))
    write("unknown.csv", range(60), 리뷰=[text + " 뷁 쀍" * 5 for text in table["리뷰"]])
    dev = write("dev.csv", range(60, 100))
    write("alike.csv", range(60, 100), 감정=["긍정"] * 40)
    write("leaking.csv", range(60, 100), 리뷰=[*table["리뷰"][:2], *dev["리뷰"][2:]])
    return folder


def write_study(folder: Path, train: str, data: str, rest: str) -> None:
    (folder / "study.yaml").write_text(STUDY.format(train=train, data=data, rest=rest), encoding="utf-8")


def pattern_of(line: str) -> str:
    """The same with other figures and file names."""
    known = re.sub(r"^[\w.]+\.(csv|yaml)", r"\\S+\\.\1", re.escape(line).replace(r"\.", ".", 1))
    figures = re.sub(r"\d+(?:\\\.\d+)?", r"\\d+(?:\\.\\d+)?", known)
    return figures.replace("klue/", r"\S*klue/")


@pytest.mark.parametrize("line", LINES)
def test_a_mistake_is_one_line(folder: Path, line: str) -> None:
    write_study(folder, *next(how for begin, how in MISTAKES.items() if line.startswith(begin)))
    said = tune_here(*DRY, cwd=folder, code=2).stderr.strip()
    assert re.fullmatch(f"error: {pattern_of(line)}", said), said


def test_the_smallest_difference(folder: Path) -> None:
    write_study(folder, "reviews.csv", ", dev: dev.csv", "")
    (line,) = [block for block in BLOCKS if block.startswith("smallest difference")]
    assert line in tune_here(*DRY, cwd=folder).stdout


def test_all_lines_are_looked_at() -> None:
    assert len(LINES) == len(MISTAKES) == sum(len(block.splitlines()) for block in BLOCKS) - 2
