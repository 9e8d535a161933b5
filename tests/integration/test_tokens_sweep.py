"""Named entities from a study file to predictions: looked at, searched, exported, scored and used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from tests.fixtures import entities
from tests.fixtures.commands import tune_forked
from tests.fixtures.sweeps import ONE_AT_A_TIME

STUDY: dict[str, Any] = {
    "schema_version": 1,
    "name": "names",
    "task": "tokens",
    "data": {"train": "train.tsv", "test": "test.tsv", "dev_fraction": 0.25, "max_length": 24, "max_leak": 1},
    "model": {"init": "random", "tokenizer_vocab_size": 120, "config": entities.SIZES},
    "optim": {"batch_size": 16},
    "train": {"epochs": 6, "eval_percent": 50},
    "parameters": {
        "optim.backbone_lr": {"distribution": "log_uniform", "min": 2e-3, "max": 6e-3},
        "model.label_smoothing": {"values": [0.0, 0.1]},
    },
    "search": {"points": [{"optim.backbone_lr": 4e-3, "model.label_smoothing": 0.0}]},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    entities.write(folder / "train.tsv", range(240))
    entities.write(folder / "test.tsv", range(1000, 1060))
    YAML().dump(STUDY, folder / "study.yaml")
    return folder


@pytest.fixture(scope="module")
def sweep(work: Path) -> dict[str, Any]:
    done = tune_forked("sweep", "study.yaml", "--name", "names", "--trials", 2, "--json", *ONE_AT_A_TIME, cwd=work)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_dry_run_tells_the_entities(work: Path) -> None:
    told = json.loads(tune_forked("sweep", "study.yaml", "--dry-run", "--json", cwd=work).stdout.splitlines()[-1])
    assert told["study"]["data"]["labels"] == ["LC", "PS"]
    assert told["splits"]["test"]["items"] == 60 and told["splits"]["dev"]["items"] == 60
    assert told["facts"]["entities in test"] == "45 LC, 60 PS in 60 texts"
    assert told["facts"]["texts in several windows"].endswith("24 tokens (data.max_length)")


def test_the_winner_has_learned_it(sweep: dict[str, Any]) -> None:
    assert sweep["winner"]["metrics"]["eval/f1"] > 0.9
    assert sweep["test"]["winner"]["test/f1"] > 0.9
    assert {"test/macro_f1", "test/char_f1", "test/precision", "test/recall", "test/accuracy"} <= sweep["test"][
        "winner"
    ].keys()
    chance = json.loads((Path(sweep["sweep"]) / "winner.json").read_text(encoding="utf-8"))["chance"]
    assert chance == {"value": 0.0, "by": "no entity at all"}


def test_evaluate_equals_what_the_sweep_reported(work: Path, sweep: dict[str, Any]) -> None:
    found = json.loads(tune_forked("evaluate", sweep["model"], "test.tsv", "--json", cwd=work).stdout.splitlines()[-1])
    reported = sweep["test"]["winner"]
    for name in ("f1", "precision", "recall", "macro_f1", "char_f1", "accuracy"):
        assert found[name] == reported[f"test/{name}"]
    assert found["texts"] == 60 and found["entities"]["PS"]["support"] == 60
    described = tune_forked("describe", "test.tsv", "--model", sweep["model"], "--json", cwd=work)
    assert json.loads(described.stdout.splitlines()[-1])["ceiling"]["f1"] >= found["f1"]


def test_predictions_are_those_that_were_scored_and_of_transformers_pipeline(work: Path, sweep: dict[str, Any]) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    tune_forked("predict", sweep["model"], "test.tsv", "--output", "tagged.jsonl", cwd=work)
    rows = [json.loads(line) for line in (work / "tagged.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = ["".join(part for part, _ in entities.sentence(number)) for number in range(1000, 1060)]
    assert [row["text"] for row in rows] == texts and rows[0]["id"] == "text-1000"
    golds = [{part for part in entities.sentence(number) if part[1] is not None} for number in range(1000, 1060)]
    said = [{(one["text"], one["label"]) for one in row["entities"]} for row in rows]
    right = sum(len(some & gold) for some, gold in zip(said, golds, strict=True))
    recall = sweep["test"]["winner"]["test/recall"]
    assert right == pytest.approx(recall * sum(map(len, golds)))
    for row in rows:
        assert all(row["text"][one["start"] : one["end"]] == one["text"] for one in row["entities"])

    tokenizer = AutoTokenizer.from_pretrained(sweep["model"])
    model, loading = AutoModelForTokenClassification.from_pretrained(sweep["model"], output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    how = {"model": model, "tokenizer": tokenizer, "device": torch.device("cpu")}
    tagger, grouped = (pipeline("token-classification", **how, aggregation_strategy=by) for by in ("none", "simple"))
    same = 0
    for row in rows:
        if not has_stray_tag(tagger(row["text"])):  # the pipeline makes an entity of it, strict IOB2 does not
            theirs = [
                (one["entity_group"], row["text"][one["start"] : one["end"]].strip()) for one in grouped(row["text"])
            ]
            assert theirs == [(one["label"], one["text"]) for one in row["entities"]]
            same += 1
    assert same >= 50


def has_stray_tag(tokens: list[dict[str, Any]]) -> bool:
    """Whether an I- continues nothing."""
    tags = {token["index"]: token["entity"] for token in tokens}
    return any(tag.startswith("I-") and tags.get(index - 1, "O")[1:] != tag[1:] for index, tag in tags.items())


def test_predictions_of_plain_texts_as_a_table(work: Path, sweep: dict[str, Any]) -> None:
    (work / "new.txt").write_text("유나는 부산에서 사과를 샀다.\n\n", encoding="utf-8")
    tune_forked("predict", sweep["model"], "new.txt", "--output", "new.tsv", cwd=work)
    header, row = (work / "new.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "id\ttext\tentities"
    assert {one["text"] for one in json.loads(row.split("\t")[2])} >= {"유나"}
