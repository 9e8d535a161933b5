"""KorQuAD from a study file to an exported model, on real questions, of which some have lost their answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kobert_core.data.batching import Batch
from kobert_core.io.atomic import atomic_write_json
from kobert_core.io.checksums import SEAL, sealed
from kobert_core.pretrained import load_pretrained
from kobert_core.tasks.question_answering.official_metrics import score
from tests.fixtures.commands import ROOT, tune_forked
from tests.fixtures.sweeps import ONE_AT_A_TIME

STUDY = ROOT / "search_spaces" / "korquad-small.yaml"


@pytest.fixture(scope="module")
def sweep(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three trials on few questions, with three articles as the test file; one of its offsets is wrong."""
    folder = tmp_path_factory.mktemp("korquad")
    dataset = json.loads((shared / "data/korquad/KorQuAD_v1.0_dev.json").read_text(encoding="utf-8"))
    test, train = ({**dataset, "data": part} for part in (dataset["data"][:3], dataset["data"][3:]))
    for content, every in ((test, 2), (train, 8)):
        for question in questions_of(content)[::every]:
            question |= {"answers": [], "is_impossible": True}
    questions_of(test)[1]["answers"][0]["answer_start"] += 1
    (folder / "test.json").write_text(json.dumps(test), encoding="utf-8")
    (folder / "train.json").write_text(json.dumps(train), encoding="utf-8")
    overrides = ["data.max_train_examples=96", "data.max_dev_examples=40", "train.epochs=1"]
    overrides += ["confirm={top: 1, seeds: 2}"]
    overrides += [f"data.train={folder / 'train.json'}", f"data.test={folder / 'test.json'}"]
    arguments = [part for override in overrides for part in ("--set", override)]
    arguments += ["--name", "questions", "--trials", "3", "--json", *ONE_AT_A_TIME]
    done = tune_forked("sweep", STUDY, *arguments, cwd=folder)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"work": folder}


def questions_of(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        question for article in dataset["data"] for paragraph in article["paragraphs"] for question in paragraph["qas"]
    ]


def test_evaluate_equals_what_the_sweep_reported_and_what_the_official_script_says(sweep: dict[str, Any]) -> None:
    done = tune_forked(
        "evaluate", sweep["model"], "test.json", "--predictions", "answers.json", "--json", cwd=sweep["work"]
    )
    result = json.loads(done.stdout)
    reported = sweep["test"]["winner"]
    assert {name: result[name] for name in ("f1", "exact_match")} == {
        name: reported[f"test/{name}"] for name in ("f1", "exact_match")
    }
    answers = json.loads((sweep["work"] / "answers.json").read_text(encoding="utf-8"))
    dataset = json.loads((sweep["work"] / "test.json").read_text(encoding="utf-8"))
    official = score(dataset, answers)
    assert official["f1"] == result["f1"] and official["exact_match"] == result["exact_match"]
    assert len(questions_of(dataset)) == len(answers) == result["questions"] == reported["test/questions"]
    assert not all(answers.values()) and "eval/null_threshold" in sweep["winner"]["metrics"]


def test_mlflow_is_told_how_many_questions_there_are(sweep: dict[str, Any]) -> None:
    records = [json.loads(line) for line in (Path(sweep["sweep"]) / "tracking.jsonl").read_text().splitlines()]
    test = len(questions_of(json.loads((sweep["work"] / "test.json").read_text(encoding="utf-8"))))
    assert [record["examples"] for record in records if record["kind"] == "dataset"] == [96, 26, test]
    runs = json.loads((Path(sweep["sweep"]) / "confirm" / "runs.json").read_text(encoding="utf-8"))
    assert {run["holdout"]["holdout/questions"] for run in runs if run["stage"] == "verdict"} == {40 - 26}


def test_the_confirmed_seeds_are_scored_together(sweep: dict[str, Any]) -> None:
    seeds = sweep["seeds"]
    assert (seeds["models"], seeds["metric"]) == (2, "eval/f1")
    for together in (seeds["ensemble"], seeds["averaged"]):
        assert together["eval/questions"] == 26 and "eval/null_threshold" in together
    tune_forked("export", sweep["sweep"], "--averaged", "--output", "soup", cwd=sweep["work"])
    chosen = json.loads((sweep["work"] / "soup" / "train_config.json").read_text(encoding="utf-8"))["model"]
    assert chosen["null_threshold"] == seeds["averaged"]["eval/null_threshold"]
    load_pretrained(sweep["work"] / "soup")


def test_the_winner_is_read_with_the_settings_that_are_best_on_dev(sweep: dict[str, Any]) -> None:
    found, work, before = sweep["decoding"], sweep["work"], sweep["winner"]["metrics"]["eval/f1"]
    assert (found["tried"], found["before"]) == (20, before)
    assert found["metrics"]["eval/f1"] >= before and bool(found["values"]) == (found["metrics"]["eval/f1"] > before)
    other = {"values": {"max_answer_length": 20, "trim": False}}
    other["metrics"] = found["metrics"] | {"eval/null_threshold": -1.5}
    altered = shutil.copytree(sweep["sweep"], work / "altered")
    result = json.loads((altered / "winner.json").read_text(encoding="utf-8")) | {"decoding": found | other}
    atomic_write_json(altered / "winner.json", sealed({name: result[name] for name in result if name != SEAL}))
    tune_forked("export", altered, "--tuned-decoding", "--output", "decoded", cwd=work)
    model = json.loads((work / "decoded" / "train_config.json").read_text(encoding="utf-8"))["model"]
    assert (model["max_answer_length"], model["trim"], model["null_threshold"]) == (20, False, -1.5)
    assert "max_answer_length 20, trim false" in (work / "decoded" / "README.md").read_text(encoding="utf-8")
    ours, theirs = (load_pretrained(path).model.state_dict() for path in (work / "decoded", Path(sweep["model"])))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_transformers_loads_the_pieces_and_the_boundary_head_lies_beside(sweep: dict[str, Any]) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    theirs, loaded = AutoModelForQuestionAnswering.from_pretrained(sweep["model"], output_loading_info=True)
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    assert (Path(sweep["model"]) / "boundary_head.safetensors").is_file()
    ours = load_pretrained(Path(sweep["model"])).model
    batch = AutoTokenizer.from_pretrained(sweep["model"])("누가 왔나?", "어제 철수가 왔다.", return_tensors="pt")
    assert batch["token_type_ids"].max() == 1
    with torch.no_grad():
        expected, found = theirs.eval()(**batch), ours(**Batch.pack(batch).inputs)
    torch.testing.assert_close(found.start_logits, expected.start_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.end_logits, expected.end_logits, rtol=0, atol=1e-5)


def test_predict_answers_from_the_contexts(sweep: dict[str, Any]) -> None:
    tune_forked("predict", sweep["model"], "test.json", "--output", "answers.jsonl", cwd=sweep["work"])
    rows = [json.loads(line) for line in (sweep["work"] / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    dataset = json.loads((sweep["work"] / "test.json").read_text(encoding="utf-8"))
    contexts = {q["id"]: p["context"] for article in dataset["data"] for p in article["paragraphs"] for q in p["qas"]}
    assert [row["id"] for row in rows] == list(contexts)
    assert all(row["prediction_text"] in contexts[row["id"]] for row in rows)


def test_describe_shows_the_ceiling(sweep: dict[str, Any], shared: Path) -> None:
    model = shared / "models" / "skt-kobert-base-v1"
    done = tune_forked("describe", "test.json", "--task", "korquad", "--model", model, "--json", cwd=sweep["work"])
    assert json.loads(done.stdout)["ceiling"] == {"exact_match": 100.0, "f1": 100.0}
