"""What stops a sweep before it starts, in one line with the key that lets it run; and what its dev split can show."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kobert_core.errors import InputError
from kobert_core.tasks import parse_train_config, task_class
from tests.fixtures import questions
from tests.fixtures.commands import ROOT, tune_here
from tests.fixtures.tiny import SIZES
from tests.fixtures.tokenizers import wordpiece
from tuning.study import load_study
from tuning.sweep.guards import smallest_difference
from tuning.sweep.train_local import train_once
from tuning.sweep_dir.opening import refuse_other_study

DOCS = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
WORDS = {"0": "시간이 아까웠다", "1": "정말 재미있어요"}
STUDY = {
    "schema_version": 1,
    "name": "guarded",
    "task": "nsmc",
    "data": {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv", "max_length": 32},
    "model": {"init": "random", "config": SIZES, "tokenizer_vocab_size": 60},
    "optim": {"batch_size": 16},
    "train": {"epochs": 1, "eval_percent": 100},
    "parameters": {"optim.backbone_lr": {"min": 1e-4, "max": 1e-3}},
}


def rows(first: int, count: int, labels: str = "01") -> list[tuple[str, str]]:
    return [(f"{WORDS[label]} {number}", label) for number in range(first, first + count) for label in labels]


def write(path: Path, content: list[tuple[str, str]]) -> None:
    lines = [f"{number}\t{text}\t{label}" for number, (text, label) in enumerate(content)]
    path.write_text("\n".join(["id\tdocument\tlabel", *lines]) + "\n", encoding="utf-8")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a study that nothing is wrong with."""
    for name, first, count in (("train", 0, 40), ("dev", 100, 20), ("test", 200, 20)):
        write(tmp_path / f"{name}.tsv", rows(first, count))
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY), encoding="utf-8")
    return tmp_path


def refused(work: Path, *overrides: str, command: tuple[str, ...] = ("sweep", "--dry-run")) -> str:
    """The line that a command ends with."""
    name, *options = command
    words = [word for override in overrides for word in ("--set", override)]
    done = tune_here(name, "study.yaml", *options, *words, cwd=work, code=2)
    assert done.stdout.strip().startswith("reading the data") or not done.stdout.strip()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line.removeprefix(f"error: {work}/")


def told(work: Path, *overrides: str) -> dict[str, Any]:
    """What a dry run that is not refused tells."""
    words = [word for override in overrides for word in ("--set", override)]
    done = tune_here("sweep", "study.yaml", "--dry-run", "--json", *words, cwd=work)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def is_in_the_docs(line: str) -> bool:
    return line.partition(": ")[2] in DOCS


LEAK = (
    "2 of 40 (5.00%) texts of dev are trained on: what is measured on them is no measure of new texts; "
    "take them out, or set `data.max_leak: 0.05`"
)


def test_data_that_nothing_is_wrong_with_is_not_refused(work: Path) -> None:
    assert told(work)["warnings"] == []


@pytest.mark.parametrize("command", [("sweep", "--dry-run"), ("sweep",), ("train",)], ids=" ".join)
def test_texts_that_are_trained_on_are_refused(work: Path, command: tuple[str, ...]) -> None:
    write(work / "dev.tsv", rows(100, 19) + rows(5, 1))
    line = refused(work, command=command)
    assert line == f"dev.tsv: {LEAK}" and is_in_the_docs(line)
    assert not list(work.glob("sweeps/guarded/*.json")), "nothing has begun"


def test_a_leak_is_taken_when_the_study_says_so(work: Path) -> None:
    write(work / "dev.tsv", rows(100, 19) + rows(5, 1))
    assert told(work, "data.max_leak=0.05")["warnings"] == ["2 of 40 (5.00%) texts of dev are trained on"]
    write(work / "dev.tsv", rows(100, 20))
    write(work / "test.tsv", rows(0, 40))
    assert refused(work).startswith("test.tsv: 80 of 80 (100.00%) texts of test are trained on: ")
    assert len(told(work, "data.max_leak=1")["warnings"]) == 1
    train_once(load_study(work / "study.yaml"), say=lambda line: None, cache=work / "cache")  # which reads no test file


def test_a_leak_into_a_carved_dev_split_is_refused_too(work: Path) -> None:
    write(work / "train.tsv", rows(0, 20) * 4)
    line = refused(work, "data.dev=null")
    assert line.startswith("train.tsv: 16 of 16 (100.00%) texts of dev are trained on") and "max_leak: 1.0" in line


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_split_of_one_class_is_refused(work: Path, split: str) -> None:
    write(work / f"{split}.tsv", rows(100 if split == "dev" else 0, 40, "1"))
    line = refused(work)
    assert line == (
        f"{split}.tsv: all rows of {split} have one label: nothing tells models apart there; "
        "check which column is read, or take `data.min_labels: 1`"
    )
    assert split == "train" or is_in_the_docs(line)
    (warning,) = told(work, "data.min_labels=1")["warnings"]
    assert warning.startswith(f"all 40 rows of {split} are of the class `positive`")


def test_fewer_labels_than_the_study_asks_for_are_refused(work: Path) -> None:
    assert refused(work, "data.min_labels=3") == (
        "train.tsv: the rows of train have 2 labels between them, not 3; "
        "check which column is read, or take `data.min_labels: 2`"
    )


def test_a_tokenizer_that_does_not_know_the_texts_is_refused(work: Path, tmp_path: Path) -> None:
    wordpiece(tmp_path).save_pretrained(tmp_path / "words")
    model = {"init": "random", "tokenizer": "words", "config": SIZES}
    (work / "study.yaml").write_text(json.dumps(STUDY | {"model": model}), encoding="utf-8")
    line = refused(work)
    config = load_study(work / "study.yaml", []).train_config({})
    rate = task_class("nsmc")(config).unknown_rate()
    assert 0.05 < rate < 0.5
    assert line.startswith(
        f"train.tsv: {rate:.2%} of the pieces of the training texts are unknown to the tokenizer of {work}/words, "
        "most often "
    )
    allowed = math.ceil(100 * rate) / 100
    assert line.endswith(f"; take another encoder, or set `data.max_unknown_rate: {allowed}`")
    assert "of the pieces of the training texts are unknown to the tokenizer of" in DOCS
    assert told(work, f"data.max_unknown_rate={allowed}")["warnings"] == []


def test_a_sweep_with_trials_goes_on_whatever_the_keys_say(work: Path) -> None:
    before = load_study(work / "study.yaml")
    for key in ("max_leak=0.5", "max_unknown_rate=0.5", "min_labels=1"):
        refuse_other_study(before, load_study(work / "study.yaml", [f"data.{key}"]), work)
    with pytest.raises(InputError, match="`data` is not what this sweep began with"):
        refuse_other_study(before, load_study(work / "study.yaml", ["data.max_length=16"]), work)


def test_the_smallest_difference_that_can_be_seen_is_told(work: Path) -> None:
    found = told(work)["facts"]["smallest difference"]
    assert found == "21.9 points of eval/accuracy between two models on 40 of dev, with 95% confidence"
    assert found in DOCS
    assert "smallest difference" not in told(work, "objective.metric=eval/loss", "objective.mode=min")["facts"]
    write(work / "dev.tsv", rows(100, 20, "1") + rows(200, 80, "0"))
    assert told(work)["facts"]["smallest difference"].startswith(
        "11.1 points of eval/accuracy between two models on 100"
    )


FOLDS = ("data.dev=null", "data.folds=4")


def test_every_row_counts_in_folds(work: Path) -> None:
    found = told(work, *FOLDS)
    assert found["facts"]["smallest difference"] == (
        "15.5 points of eval/accuracy between two models on 80 in 4 folds, with 95% confidence"
    )
    assert found["folds"] == 4 and found["warnings"] == []
    assert {name: split["items"] for name, split in found["splits"].items()} == {"train": 60, "dev": 20, "test": 40}


def test_a_fold_of_one_class_is_refused(work: Path) -> None:
    write(work / "train.tsv", rows(0, 40, "1") + rows(40, 3, "0"))
    assert refused(work, *FOLDS) == (
        "train.tsv: all rows of dev in fold 4 have one label: nothing tells models apart there; "
        "check which column is read, or take `data.min_labels: 1`"
    )


def test_fewer_rows_than_folds_are_refused(work: Path) -> None:
    write(work / "train.tsv", rows(0, 2))
    line = refused(work, "data.dev=null", "data.folds=5", "model.tokenizer_vocab_size=30")
    assert (
        line == "train.tsv: no folds can be carved (at least 5 rows must be there, but got 4.); give fewer `data.folds`"
    )
    assert is_in_the_docs(line)


def test_so_often_two_models_of_the_same_worth_seem_that_different() -> None:
    """In 5% of drawings their shares differ by more than is told."""
    difference = smallest_difference(0.5, 1000)
    assert difference == pytest.approx(0.0438, abs=1e-4)
    one, other = np.random.default_rng(0).binomial(1000, 0.5, size=(2, 100_000)) / 1000
    assert np.mean(np.abs(one - other) > difference) == pytest.approx(0.05, abs=0.003)


def test_questions_on_contexts_that_are_trained_on_are_refused(tmp_path: Path) -> None:
    train = questions.write(tmp_path / "train.json", questions.articles(0, 6))
    dev = questions.write(tmp_path / "dev.json", questions.articles(5, 2))
    config = questions.config_of(train, data={"dev": dev}).model_dump(mode="json")
    (tmp_path / "study.yaml").write_text(
        json.dumps({"schema_version": 1, "name": "asked", **{k: v for k, v in config.items() if k != "objective"}})
    )
    assert parse_train_config(config).data.limits.leak == 0.01
    with pytest.raises(InputError) as error:
        train_once(load_study(tmp_path / "study.yaml"), say=lambda line: None, cache=tmp_path / "cache")
    assert str(error.value).startswith(
        f"{dev}: 10 of 20 (50.00%) questions of dev are on contexts that are trained on: what is measured"
    )
