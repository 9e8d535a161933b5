"""Three hundred random studies, names and paths through the commands: each is taken or refused in one line, none hangs,
and what is scored and predicted is what transformers and scikit-learn come to by themselves."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from tests.drills.conftest import Drill
from tests.fixtures.commands import tune
from tuning.cli.app import main

pytestmark = pytest.mark.slow
STUDIES = 300
MOST_CPU_SECONDS, MOST_SECONDS = 10, 120
"""Of one command: the first says that it hangs in a loop, the second that it waits, also on a busy machine."""
SIGNS = " !#$%&'()*+,;=@[]^_`{}~?\"\\|<>:.-" + "가각힣ㅎ한글abcXYZ019" + "é😀\u1100\u1161\u200b\u00a0\t"
WORDS = ["좋다", "별로", "최고", "지루한", "배우", "영화", "정말", "ㅋㅋ", "그저", "이야기", "다시 본다", "10점"]
WEIRD: list[Any] = [None, True, -1, 0, 1.5, 10**30, 1e-320, "", "x", "1e-4", "[red]", "\x1b[31m", [], {}, [1], {"a": 1}]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@dataclass(frozen=True)
class Given:
    """A study as a user might write it, in a folder as a user might name it."""

    study: Path
    test: Path
    output: Path
    name: str
    text_column: str
    label_column: str
    labels: dict[str, str]
    rows: list[tuple[str, str]]
    """Text and label of each row of the test file."""
    is_wrong: bool
    """Whether something in it was replaced by what need not be right."""


def name_of(chance: random.Random, longest: int = 12) -> str:
    """A name for a file, a column or a class; not one that only looks empty."""
    while True:
        name = "".join(chance.choice(SIGNS) for _ in range(chance.randint(1, longest)))
        if name.strip(" .\t\u200b\u00a0"):
            return name


def text_of(chance: random.Random) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(chance.randint(1, 8)))


def write_table(path: Path, columns: list[str], rows: list[tuple[str, ...]]) -> None:
    """A table in the format that its suffix names."""
    if path.suffix == ".parquet":
        values = [list(column) for column in zip(*rows, strict=True)]
        pyarrow.parquet.write_table(pyarrow.table(values, names=columns), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    else:
        path.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]), encoding="utf-8")


def given_by(chance: random.Random, folder: Path) -> Given:
    """One of the three hundred."""
    here = folder / name_of(chance) / name_of(chance)
    here.mkdir(parents=True)
    suffix = chance.choice([".tsv", ".csv", ".jsonl", ".parquet"])
    sign = (lambda text: text.replace("\t", " ").strip() or "t") if suffix == ".tsv" else (lambda text: text)
    text_column, label_column = sign(name_of(chance)), sign(name_of(chance)) + "L"
    classes = chance.randint(2, 4)
    values = [f"{sign(name_of(chance, 5))}{number}" for number in range(classes)]
    labels = {value: f"{name_of(chance)}{number}" for number, value in enumerate(values)}
    train, test = here / f"{name_of(chance)}{suffix}", here / f"test {name_of(chance)}{suffix}"
    for path, count in ((train, 40), (test, 17)):
        rows = [(text_of(chance), values[number % classes]) for number in range(count)]
        write_table(path, [text_column, label_column], rows)
    study: dict[str, Any] = {
        "schema_version": 1,
        "name": f"s{chance.randint(0, 99)}",
        "task": "nsmc",
        "data": {
            "train": train.name,
            "test": test.name,
            "text_column": text_column,
            "label_column": label_column,
            "id_column": None,
            "labels": labels,
            "dev_fraction": chance.choice([0.2, 0.3, 0.5]),
            "max_length": chance.choice([3, 8, 64]),
        },
        "model": {"init": "random", "tokenizer_vocab_size": chance.choice([80, 120]), "config": dict(TINY)},
        "optim": {"batch_size": chance.choice([1, 4, 64, "auto"]), "effective_batch_size": 64},
        "train": {"epochs": chance.choice([0.5, 1, 2]), "seed": chance.randint(0, 9)},
        "parameters": {
            "optim.backbone_lr": {"distribution": "log_uniform", "min": 1e-5, "max": chance.choice([1e-4, 1e-2])},
            "model.dropout": {"values": [0.0, 0.1]},
        },
        "scheduler": {"name": chance.choice(["asha", "none", "median", "hyperband"])},
        "budget": {"trials": chance.randint(1, 9)},
    }
    is_wrong = chance.random() < 0.5
    if is_wrong:
        damage(study, chance)
    path = here / f"{name_of(chance)}.yaml"
    path.write_text(json.dumps(study, ensure_ascii=False), encoding="utf-8")
    output = here / name_of(chance)
    return Given(path, test, output, name_of(chance), text_column, label_column, labels, rows, is_wrong)


def damage(study: dict[str, Any], chance: random.Random) -> None:
    """Replace, remove or add something somewhere."""
    holder: dict[str, Any] = study
    while True:
        key = chance.choice(list(holder))
        if isinstance(holder[key], dict) and holder[key] and chance.random() < 0.8:
            holder = holder[key]
            continue
        kind = chance.choice(["replace", "replace", "remove", "add"])
        if kind == "replace":
            holder[key] = chance.choice(WEIRD)
        elif kind == "remove":
            del holder[key]
        else:
            holder[name_of(chance)] = chance.choice(WEIRD)
        return


@contextmanager
def no_hang() -> Iterator[None]:
    """Fail what takes too long, by the time of this process and by the clock."""

    def give_up(number: int, frame: object) -> None:
        raise AssertionError("a command hangs")

    before = {each: signal.signal(each, give_up) for each in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, MOST_CPU_SECONDS)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for each, handler in before.items():
            signal.signal(each, handler)


Run = Callable[..., int]
"""Runs a command in this process: its exit code. A refusal must be one line."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_one(*arguments: object) -> int:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["kobert-tune", *map(str, arguments)])
        code: Any = 0
        with no_hang():
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert "\x1b[31m" not in printed.out + printed.err, "what a user named steers the terminal"
        assert code in (0, 1, 2), arguments
        if code == 2:
            lines = printed.err.strip().splitlines()
            assert lines[-1].startswith("error: "), arguments
            assert sum(line.startswith("error: ") for line in lines) == 1
        return int(code)

    return run_one


def predicted_by_transformers(model_dir: Path, texts: list[str], max_length: int) -> np.ndarray:
    """The class of each text, padded and in a batch, as anybody would ask an exported model."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForSequenceClassification.from_pretrained(model_dir).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        return np.asarray(model(**batch).logits.argmax(-1))


def test_three_hundred_studies(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drill: Drill) -> None:
    """300 random studies through --dry-run, train, evaluate, predict, describe"""
    monkeypatch.chdir(tmp_path)
    refused = differing = trained = compared = 0
    for number in range(STUDIES):
        chance = random.Random(number)
        given = given_by(chance, tmp_path / str(number))
        run("sweep", given.study, "--dry-run", "--output", given.output, "--name", given.name)
        model = given.output / f"m{number}"
        if run("train", given.study, "--output", model):
            refused += 1
            assert given.is_wrong or not model.exists(), number
            assert not model.exists()
            continue
        trained += 1
        predictions = given.output / f"{name_of(chance)}{chance.choice(['.tsv', '.jsonl'])}"
        assert run("describe", given.test, "--model", model, "--json") == 0
        if given.is_wrong:  # what was replaced may be what is read by
            run("evaluate", model, given.test)
            run("predict", model, given.test, "--output", predictions)
            continue
        assert run("evaluate", model, given.test, "--json") == 0
        readings = (model / "test_readings.jsonl").read_text(encoding="utf-8").splitlines()
        said = json.loads(readings[-1])["metrics"]
        config = json.loads((model / "train_config.json").read_text(encoding="utf-8"))
        found = predicted_by_transformers(model, [text for text, _ in given.rows], config["data"]["max_length"])
        wanted = np.array([list(given.labels).index(label) for _, label in given.rows])
        f1 = f1_score(wanted, found, average="macro", labels=range(len(given.labels)), zero_division=0.0)
        assert said["examples"] == len(given.rows)
        differing += abs(said["accuracy"] - accuracy_score(wanted, found)) > 1e-9 or abs(said["f1"] - f1) > 1e-9
        assert run("predict", model, given.test, "--output", predictions) == 0
        wanted_labels = [list(given.labels)[index] for index in found]
        if predictions.suffix == ".tsv":
            wanted_labels = [" ".join(label.split()) for label in wanted_labels]
        differing += answers_of(predictions) != wanted_labels
        compared += 1
        shutil.rmtree(tmp_path / str(number))
    assert refused > STUDIES / 10 and compared > STUDIES / 3, (refused, trained, compared)
    drill.lost("studies ended in a traceback or hung", 0, of=STUDIES)
    drill.lost("numbers differ from transformers and scikit-learn", differing, of=2 * compared)


def answers_of(predictions: Path) -> list[str]:
    """The label of each record; in a table what would break a row is a blank."""
    lines = predictions.read_text(encoding="utf-8").splitlines()
    if predictions.suffix == ".jsonl":
        return [json.loads(line)["label"] for line in lines]
    place = lines[0].split("\t").index("label")
    return [line.split("\t")[place] for line in lines[1:]]


def test_a_sweep_under_a_hundred_names(run: Run, shared: Path, tmp_path: Path, drill: Drill) -> None:
    """A sweep moved to 100 random paths through list, logs, export, evaluate, predict, sync"""
    common = shared / "cases" / "common"
    options = ["--trials", "2", "--set", "train.epochs=1", "--name", "s", "--output", tmp_path / "made"]
    tune("sweep", common / "study.yaml", *options, cwd=tmp_path)
    model = tmp_path / "made" / "s" / "model"
    run("evaluate", model, common / "test.tsv", "--json")
    first = json.loads((model / "test_readings.jsonl").read_text(encoding="utf-8").splitlines()[-1])["metrics"]
    differing = refused = 0
    for number in range(100):
        chance = random.Random(1000 + number)
        output = tmp_path / str(number) / name_of(chance)
        sweep = output / name_of(chance)
        shutil.copytree(tmp_path / "made" / "s", sweep)
        codes = [
            run("list", "--output", output),
            run("list", sweep),
            run("logs", sweep, chance.choice([0, 1])),
            run("export", sweep, "--output", output / "e"),
            run("evaluate", output / "e", common / "test.tsv"),
            run("predict", output / "e", common / "test.tsv", "--output", output / f"{name_of(chance)}.tsv"),
            run("sync", sweep),
        ]
        assert codes[:-1] == [0] * (len(codes) - 1), (number, sweep, codes)
        refused += codes[-1] == 2
        said = json.loads((output / "e" / "test_readings.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        differing += said["metrics"]["accuracy"] != first["accuracy"] or said["metrics"]["loss"] != first["loss"]
        shutil.rmtree(tmp_path / str(number))
    assert refused < 50
    drill.lost("scores differ from those at the first path", differing, of=100)
