"""A sweep over two encoders of different families, each with its own tokenizer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.fixtures.commands import UNCONFIRMED, tune_forked
from tests.fixtures.encoders import make_encoder
from tests.fixtures.sweeps import ONE_AT_A_TIME
from tests.fixtures.tiny import SAMPLE
from tests.fixtures.tracking import runs_of

ENCODERS = ["../encoders/bert", "../encoders/roberta"]
FAMILIES = {"bert": "BertForSequenceClassification", "roberta": "RobertaForSequenceClassification"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four trials, two with each encoder."""
    work = tmp_path_factory.mktemp("encoders-sweep")
    for family in FAMILIES:
        make_encoder(family, work / "encoders" / family)
    (work / "studies").mkdir()
    study = {
        "schema_version": 1,
        "name": "encoders",
        "task": "nsmc",
        "data": {
            **{"train": str(SAMPLE / "train.tsv"), "test": str(SAMPLE / "test.tsv"), "max_length": 32},
            "max_unknown_rate": 1,  # tiny vocabularies
        },
        "model": {"dropout": 0.0},
        "train": {"epochs": 1, "eval_percent": 50},
        "parameters": {
            "model.backbone": {"values": ENCODERS},
            "optim.layer_decay": {"values": [0.8], "when": {"model.backbone": ENCODERS[1]}},
            "optim.backbone_lr": {"values": [1e-3, 2e-3]},
        },
        "search": {"points": [{"model.backbone": ENCODERS[1], "optim.backbone_lr": 1e-3}]},
        "scheduler": {"name": "none"},
        "budget": {"trials": 4},
    }
    with open(work / "studies" / "study.yaml", "w", encoding="utf-8") as file:
        YAML().dump(study, file)
    done = tune_forked("sweep", "studies/study.yaml", "--name", "one", *UNCONFIRMED, *ONE_AT_A_TIME, cwd=work)
    (work / "sweeps" / "one.out").write_text(done.stdout, encoding="utf-8")
    return work / "sweeps" / "one"


def records(sweep: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((sweep / "trials.json").read_text(encoding="utf-8"))
    return found


def encoder_of(record: dict[str, Any]) -> str:
    return Path(record["values"]["model.backbone"]).name


def test_each_encoder_is_trained_to_the_end(sweep: Path) -> None:
    assert [record["state"] for record in records(sweep)] == ["COMPLETE"] * 4
    assert sorted(map(encoder_of, records(sweep))) == ["bert", "bert", "roberta", "roberta"]
    assert encoder_of(records(sweep)[0]) == "roberta", "the point that was given"
    for record in records(sweep):
        assert ("optim.layer_decay" in record["values"]) == (encoder_of(record) == "roberta")


def test_each_trial_has_the_tokenizer_of_its_encoder(sweep: Path) -> None:
    for record in records(sweep):
        files = sweep / "trials" / f"{record['trial']:04d}" / "model"
        config = json.loads((files / "config.json").read_text())
        kind = encoder_of(record)
        assert (config["model_type"], config["architectures"]) == (kind, [FAMILIES[kind]])
        tokenizer = json.loads((files / "tokenizer.json").read_text())
        assert tokenizer["model"]["type"] == {"bert": "WordPiece", "roberta": "Unigram"}[kind]


def test_features_and_weights_are_cached_once_an_encoder(sweep: Path) -> None:
    keys = [json.loads(file.read_text()) for file in (sweep.parent / "cache").glob("*/key.json")]
    weights = [Path(key["backbone"]).name for key in keys if "backbone" in key]
    assert sorted(weights) == ["bert", "roberta"]
    features = [(key["file"], key["tokenizer"]) for key in keys if "tokenizer" in key]
    assert len(features) == len(set(features)) == 4, "two files, two tokenizers"


def test_what_names_the_encoder_names_the_right_one(sweep: Path) -> None:
    winner = json.loads((sweep / "winner.json").read_text(encoding="utf-8"))["winner"]
    kind = Path(winner["values"]["model.backbone"]).name
    assert json.loads((sweep / "model" / "config.json").read_text())["model_type"] == kind
    card = (sweep / "model" / "README.md").read_text(encoding="utf-8")
    assert f"encoder `{kind}`" in card and f"| `model.backbone` | {kind} |" in card
    assert str(sweep.parents[1]) not in card + (sweep / "model" / "train_config.json").read_text()
    ground = json.loads((sweep / "ground.json").read_text())
    assert {"model.backbone of bert", "model.backbone of roberta"} <= ground["files"].keys()
    runs = runs_of(sweep.parent, "encoders")
    told = {run.data.tags.get("kobert_tune.trial"): run.data.params.get("model.backbone") for run in runs.values()}
    for record in records(sweep):
        assert told[str(record["trial"])] == record["values"]["model.backbone"]
    with open(sweep / "trials.csv", encoding="utf-8") as file:
        assert [Path(row["model.backbone"]).name for row in csv.DictReader(file)] == list(
            map(encoder_of, records(sweep))
        )


def test_people_read_short_names(sweep: Path) -> None:
    shown = tune_forked("list", sweep, cwd=sweep.parent).stdout + (sweep.parent / "one.out").read_text()
    assert "backbone=roberta" in shown and "backbone=bert" in shown
    assert "backbone=/" not in shown


def test_the_winner_answers_and_is_scored_alone(sweep: Path, tmp_path: Path) -> None:
    winner = json.loads((sweep / "winner.json").read_text(encoding="utf-8"))
    scored = tune_forked("evaluate", sweep / "model", SAMPLE / "test.tsv", "--json", cwd=tmp_path).stdout
    found = json.loads(scored.splitlines()[-1])
    assert found["accuracy"] == pytest.approx(winner["test"]["winner"]["test/accuracy"])
    tune_forked("predict", sweep / "model", SAMPLE / "test.tsv", "--output", tmp_path / "labels.tsv", cwd=tmp_path)
    assert len((tmp_path / "labels.tsv").read_text(encoding="utf-8").splitlines()) > 100
