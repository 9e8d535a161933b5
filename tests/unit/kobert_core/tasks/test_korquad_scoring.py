"""Scores are those of the official script on the answers that are written, over all questions of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kobert_core.config import Objective
from kobert_core.errors import InputError
from kobert_core.evaluation import evaluate, evaluate_on_dev, predict
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks.question_answering.decoding import decode
from kobert_core.tasks.question_answering.task import Korquad
from tests.fixtures.questions import articles, config_of, official, write

RUNTIME = LocalRuntime(device=torch.device("cpu"))
NO_CONTEXT = [" ", None, 5, "\0"]


def answers_of(task: Korquad, examples: Any, outputs: dict[str, np.ndarray]) -> dict[str, str]:
    """What `evaluate --predictions` writes."""
    rows = task.answers(examples.ids, examples, outputs)
    return {row["id"]: row["prediction_text"] for row in rows if row["id"]}


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    return write(tmp_path / "train.json", articles(0, 8, every=20))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Half of the questions have no answer; and everything is in it that a question can lack."""
    data = articles(50, 8, every=2)
    asked = [question for article in data for question in article["paragraphs"][0]["qas"]]
    answered = [question for question in asked if question["answers"]]
    answered[0]["answers"][0]["answer_start"] += 1
    answered[1]["answers"][0]["answer_start"] = None
    answered[2]["answers"][0]["text"] = "nowhere"
    answered[3]["answers"].append({"text": "(", "answer_start": 0})
    answered[4]["answers"][0]["text"] = ""
    answered[5]["answers"][0]["text"] = "\ud800개"
    answered[6]["is_impossible"] = True
    answered[7]["answers"] = []
    answered[8]["question"] = " "
    answered[9]["id"] = answered[0]["id"]
    answered[10]["id"] = 7
    asked[-1]["id"] = asked[-3]["id"]
    for article, context in zip(data[4:], NO_CONTEXT, strict=False):
        article["paragraphs"].append({"context": context, "qas": article["paragraphs"][0]["qas"][:2]})
        article["paragraphs"][0]["qas"] = article["paragraphs"][0]["qas"][2:]
    return write(tmp_path / "hostile.json", data)


def test_every_question_of_a_file_counts_as_in_the_official_script(train_file: Path, hostile: Path) -> None:
    """Whatever is wrong with it: a wrong offset is of no concern, and what cannot be asked has an empty answer."""
    task = Korquad(config_of(train_file))
    torch.manual_seed(1)
    model, examples = task.build_model(), task.read(hostile)
    outputs = predict(model, task, examples, RUNTIME)
    middle = {"eval/null_threshold": float(np.median(decode(examples, outputs).null_scores[examples.asked]))}
    # Of 80 questions 12 are not asked; 3 of these have no id of their own, and so no answer of their own either.
    for used, empty in ((task, 9), (task.with_chosen(middle), 9 + 34)):
        written, scores = answers_of(used, examples, outputs), used.score(examples, outputs)
        assert sum(not text for text in written.values()) == empty
        expected = official(hostile, written)
        assert expected["questions"] == 80 and 0 < expected["f1"] < 100
        assert {name: scores[f"eval/{name}"] for name in expected} == pytest.approx(expected, abs=1e-9)
        assert scores["eval/not_asked"] == 12 and used.set_aside(hostile) == 0


def test_the_threshold_is_chosen_on_dev_alone(train_file: Path, hostile: Path) -> None:
    """A model without one answers every question; what would be best for the scored file stands beside the scores."""
    config = config_of(train_file)
    task = Korquad(config)
    torch.manual_seed(2)
    model = task.build_model()
    on_dev = evaluate_on_dev(model, task, RUNTIME)
    assert on_dev["eval/f1"] == pytest.approx(on_dev["eval/best_f1"])
    assert on_dev["eval/null_threshold"] == on_dev["eval/best_f1_thresh"]

    test_file = write(hostile.with_name("test.json"), articles(80, 4, every=2))
    examples = task.read(test_file)
    outputs = predict(model, task, examples, RUNTIME)
    for used in (task, task.with_chosen(on_dev)):
        scores = used.score(examples, outputs)
        expected = official(test_file, answers_of(used, examples, outputs))
        assert {name: scores[f"eval/{name}"] for name in expected} == pytest.approx(expected)
        assert "eval/null_threshold" not in scores and scores["eval/best_f1"] >= scores["eval/f1"]
        best = used.with_chosen({"eval/null_threshold": scores["eval/best_f1_thresh"]})
        assert best.score(examples, outputs)["eval/f1"] == pytest.approx(scores["eval/best_f1"])
    given = Korquad(config_of(train_file, model={"null_threshold": 0.5}), tokenizer=task.tokenizer)
    assert given.choose(examples, outputs) == {}, "what the study gives is not chosen"


def test_a_dev_question_whose_place_is_not_known_is_scored_and_has_no_loss(tmp_path: Path) -> None:
    good = articles(0, 4)
    file = write(tmp_path / "good.json", good)
    task = Korquad(config_of(write(tmp_path / "train.json", articles(10, 4)), data={"dev": file}))
    torch.manual_seed(3)
    model = task.build_model()
    before = evaluate(model, task, task.dev, RUNTIME)

    for question in good[2]["paragraphs"][0]["qas"] + good[3]["paragraphs"][0]["qas"]:
        question["answers"][0]["answer_start"] += 1
    bad = write(tmp_path / "bad.json", good)
    known = task.read(file).take(np.arange(20))
    after = evaluate(model, task, task.read(bad), RUNTIME)
    assert after | {"eval/loss": 0} == before | {"eval/loss": 0}
    assert after["eval/loss"] == pytest.approx(evaluate(model, task, known, RUNTIME)["eval/loss"])
    assert task.bad_rows(bad) == [] and len(task.bad_rows(bad, "training")) == 20


def test_what_cannot_be_trained_on_is_not_and_counts_on_dev(tmp_path: Path) -> None:
    data = articles(0, 8)
    for article in data:
        article["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1
    task = Korquad(config_of(write(tmp_path / "train.json", data)))
    assert (task.train.items, task.dev.items) == (54, 20)
    assert evaluate(task.build_model(), task, task.dev, RUNTIME)["eval/questions"] == 20


def test_a_dev_file_without_offsets_cannot_be_compared_by_its_loss(tmp_path: Path) -> None:
    data = articles(0, 2)
    for article in data:
        for question in article["paragraphs"][0]["qas"]:
            del question["answers"][0]["answer_start"]
    files = {"dev": write(tmp_path / "dev.json", data)}
    config = config_of(write(tmp_path / "train.json", articles(10, 2)), data=files)
    task = Korquad(config)
    scores = evaluate(task.build_model(), task, task.dev, RUNTIME)
    assert scores["eval/questions"] == 20 and "eval/loss" not in scores
    by_loss = config.model_copy(update={"objective": Objective(metric="eval/loss", mode="min")})
    with pytest.raises(InputError, match=r"no `eval/loss` to compare by.*objective\.metric: eval/f1"):
        _ = Korquad(by_loss).dev
