"""`kobert-tune init` looks at a file and writes a study that runs as it is."""

from __future__ import annotations

import itertools
import json
import os
import pty
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from tests.fixtures.commands import tune_here
from tests.fixtures.encoders import make_encoder
from tests.fixtures.tokenizers import TEXTS
from tuning.study import load_study
from tuning.study.guess import guess
from tuning.study.schema import packaged_schema, study_schema

KINDS = ("긍정", "부정", "중립")


def table(rows: int = 60) -> pd.DataFrame:
    """Rows of three classes, with Korean names of columns."""
    numbers = range(1, rows + 1)
    texts = [" ".join(some) for some in itertools.islice(itertools.permutations(TEXTS, 3), rows)]
    return pd.DataFrame({"번호": numbers, "리뷰": texts, "감정": [KINDS[number % 3] for number in numbers]})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder("bert", tmp_path_factory.mktemp("encoder") / "my encoder")


def written_as(kind: str, folder: Path) -> Path:
    rows, file = table(), folder / f"리뷰.{kind}"
    if kind == "csv":
        rows.to_csv(file, index=False, encoding="cp949")
    elif kind == "xlsx":
        rows.to_excel(file, index=False)
    else:
        rows.to_json(file, orient="records", force_ascii=False)
    return file


@pytest.mark.parametrize("kind", ["csv", "xlsx", "json"])
def test_what_it_writes_passes_a_dry_run_and_the_schema(kind: str, encoder: Path, tmp_path: Path) -> None:
    file = written_as(kind, tmp_path)
    done = tune_here("init", file.name, "--model", encoder, cwd=tmp_path)
    assert "id_column: 번호 (no value is there twice)" in done.stdout and "20 긍정, 20 부정, 20 중립" in done.stdout
    assert ("read as CP949" in done.stdout) == (kind == "csv")
    study = load_study(tmp_path / "study.yaml")
    assert (study.task, study.name) == ("classification", "리뷰")
    data: Any = study.data
    assert (data.text_column, data.label_column, list(data.labels)) == ("리뷰", "감정", sorted(KINDS))
    text = (tmp_path / "study.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={packaged_schema().as_uri()}\n")
    plain = YAML(typ="safe", pure=True).load(text)
    assert list(Draft7Validator(study_schema()).iter_errors(plain)) == []
    dry = tune_here("sweep", "study.yaml", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(dry.stdout)["splits"]["train"]["examples"] > 30


def test_few_rows_are_held_out_in_folds_and_more_in_one_split(encoder: Path, tmp_path: Path) -> None:
    for rows, split in ((60, {"folds": 5}), (600, {"dev_fraction": 0.2})):
        several = pd.concat([table()] * (rows // 60), ignore_index=True)
        several = several.assign(번호=several.index, 리뷰=[f"{text} {n}" for n, text in several["리뷰"].items()])
        several.to_csv(tmp_path / f"{rows}.csv", index=False)
        study = tmp_path / f"{rows}.yaml"
        done = tune_here("init", f"{rows}.csv", "--model", encoder, "--output", study.name, cwd=tmp_path)
        data = load_study(study).resolved()["data"]
        assert (
            isinstance(data, dict) and {key: data[key] for key in ("folds", "dev_fraction") if data.get(key)} == split
        )
        assert ("no `confirm`" in done.stdout) == ("folds: 5 (the rows are few" in done.stdout) == (rows == 60)
        assert ("confirm:" in study.read_text(encoding="utf-8")) == (rows == 600)


def test_in_a_terminal_it_asks_for_what_is_not_given(encoder: Path, tmp_path: Path) -> None:
    file, (terminal, side) = written_as("csv", tmp_path), pty.openpty()
    os.write(terminal, f"{file.name}\n\n{encoder}\n".encode())
    with os.fdopen(side) as keyboard, patch.object(sys, "stdin", keyboard):
        done = tune_here("init", cwd=tmp_path)
    os.close(terminal)
    assert (
        "A labelled file to train on: " in done.stdout and "The task: " in done.stdout and "[skt/kobert" in done.stdout
    )
    assert load_study(tmp_path / "study.yaml").task == "classification"


def test_nothing_is_overwritten_and_nothing_is_asked_without_a_terminal(encoder: Path, tmp_path: Path) -> None:
    file = written_as("csv", tmp_path)
    (tmp_path / "study.yaml").write_text("mine", encoding="utf-8")
    done = tune_here("init", file.name, "--model", encoder, cwd=tmp_path, code=2)
    assert "study.yaml: is there already, and nothing is overwritten; give another --output" in done.stderr
    assert (tmp_path / "study.yaml").read_text(encoding="utf-8") == "mine"
    done = tune_here("init", cwd=tmp_path, code=2)
    assert "DATA: no file to train on is given; give one, or `--example quickstart`" in done.stderr


def test_a_file_that_cannot_be_used_leaves_nothing(encoder: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    done = tune_here("init", "nowhere.csv", "--model", encoder, cwd=tmp_path, code=2)
    assert "nowhere.csv: there is no such file" in done.stderr
    table()[["번호", "감정"]].to_csv(tmp_path / "short.csv", index=False)
    done = tune_here("init", "short.csv", "--model", encoder, cwd=tmp_path, code=2)
    assert "no column looks like texts; the columns are '번호', '감정'; name it: --text-column" in done.stderr
    done = tune_here("init", "short.csv", "--model", tmp_path, cwd=tmp_path, code=2)
    (tmp_path / "short.csv").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_example_carries_its_data(tmp_path: Path) -> None:
    done = tune_here("init", "--example", "quickstart", cwd=tmp_path)
    assert "written: quickstart.yaml" in done.stdout
    study = load_study(tmp_path / "quickstart.yaml")
    assert study.data.train.local_paths() == [tmp_path / "sample" / "train.tsv"]
    study.check_files()
    done = tune_here("init", "--example", "quickstart", cwd=tmp_path, code=2)
    assert "quickstart.yaml: is there already" in done.stderr
    done = tune_here("init", "--example", "quikstart", cwd=tmp_path, code=2)
    assert "there is no example `quikstart`; did you mean `quickstart`?" in done.stderr


def test_other_kinds_of_files(tmp_path: Path) -> None:
    def seen(frame: pd.DataFrame, name: str = "file.csv", **how: Any) -> Any:
        frame.to_csv(tmp_path / name, index=False, **how)
        return guess(Source.of(tmp_path / name))

    rows = table()
    semicolons = seen(rows, sep=";")
    assert semicolons.data["delimiter"] == ";" and semicolons.data["label_column"] == "감정"
    bare = seen(rows[["리뷰", "감정"]], header=False)
    assert (bare.data["header"], bare.data["text_column"], bare.data["label_column"]) == (False, "0", "1")
    pairs = rows.rename(columns={"리뷰": "문장1"}).assign(문장2=[f"{text}!" for text in rows["리뷰"]])
    found = seen(pairs.assign(점수=[number % 50 / 10 for number in pairs["번호"]]).drop(columns="감정"))
    assert (found.task, found.data["text_column"], found.data["pair_column"]) == ("regression", "문장1", "문장2")
    several = seen(rows.assign(감정=["부정|욕설", "욕설", "부정", "긍정", "긍정|욕설"] * 12))
    assert (several.task, several.data["label_separator"]) == ("multilabel", "|")
    switches = seen(rows.assign(욕설=rows["번호"] % 2, 차별=rows["번호"] % 4 // 2).drop(columns="감정"))
    assert (switches.task, switches.data["label_columns"]) == ("multilabel", ["욕설", "차별"])
    repeated = seen(rows.rename(columns={"번호": "id"}).assign(id=7))
    assert repeated.data["id_column"] is None


def test_real_files_are_what_they_are(shared: Path) -> None:
    files = {
        "hate-speech/dev.tsv": ("classification", "hate"),
        "klue/klue-nli-v1.1_dev.json": ("classification", "gold_label"),
        "klue/klue-sts-v1.1_dev.json": ("regression", "labels.label"),
        "korsts/sts-dev.tsv": ("regression", "score"),
        "klue/klue-ner-v1.1_dev.tsv": ("tokens", None),
        "korquad/KorQuAD_v1.0_dev.json": ("qa", None),
    }
    for name, expected in files.items():
        found = guess(Source.of(shared / "data" / name))
        assert (found.task, found.data.get("label_column")) == expected
    with pytest.raises(InputError, match="no text column 'nothing'; the columns are"):
        guess(Source.of(shared / "data" / "hate-speech" / "dev.tsv"), text="nothing")


def test_what_a_newcomer_gets_wrong_is_one_line(encoder: Path, tmp_path: Path) -> None:
    file = written_as("csv", tmp_path)
    (tmp_path / "empty").mkdir()
    cases: dict[tuple[object, ...], str] = {
        ("sweep", "quickstart"): "`kobert-tune init --example quickstart` writes the one of the package",
        ("sweep", file.name): f"this is a file of data, not a study; `kobert-tune init '{file.name}'` writes a study",
        ("init", "empty", "--model", encoder): "empty: is a folder, and none that",
        ("init", file.name, "--model", "empty"): "empty: this folder has no encoder: there is no config.json in it",
        ("init", file.name, "--model", "nothing"): "nothing: no such folder; give a local folder or a hub name",
        ("init", file.name, "--task", "clasification"): "there is no task `clasification`; did you mean",
        ("init", file.name, "--label-column", "별점"): "no label column '별점'; the columns are '번호', '리뷰', '감정'",
    }
    for words, message in cases.items():
        done = tune_here(*words, cwd=tmp_path, code=2)
        assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "study.yaml").exists()
