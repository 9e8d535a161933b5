"""The task from end to end: it splits by article, shares its features, learns, and its export loads anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kobert_core.checkpoint import load_weights
from kobert_core.config import TrainConfig
from kobert_core.errors import InputError
from kobert_core.evaluation import evaluate, predict
from kobert_core.pretrained import keep_chosen, load_pretrained, read_train_config, save_model_files, save_weights
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import parse_train_config
from kobert_core.tasks.question_answering.task import Korquad, QuestionAnsweringData
from kobert_core.training import train

SIZES = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}


def config_of(file: Path, model: dict[str, Any], **sections: dict[str, Any]) -> TrainConfig:
    values: dict[str, dict[str, Any]] = {
        "data": {"train": file, "max_seq_length": 256},
        "model": {"init": "random", "config": SIZES, **NO_DROPOUT, **model},
        "optim": {"backbone_lr": 2e-3, "classifier_lr": 2e-3, "batch_size": 16},
        "train": {"epochs": 1, "eval_percent": 100},
    }
    merged = {name: value | sections.get(name, {}) for name, value in values.items()}
    return parse_train_config({"task": "korquad"} | merged)


@pytest.fixture
def korquad(shared: Path) -> Path:
    return shared / "data/korquad/KorQuAD_v1.0_dev.json"


@pytest.fixture
def skt(shared: Path) -> dict[str, str]:
    return {"backbone": str(shared / "models/skt-kobert-base-v1")}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three articles, and with every answer a question that has none."""
    articles = []
    for number, (name, year) in enumerate([("세종", "1443년"), ("이순신", "1592년"), ("장영실", "1441년")]):
        answer = {"text": year, "answer_start": len(name) + 2}
        qas = [
            {"id": f"{number}a", "question": "언제 했나?", "answers": [answer], "is_impossible": False},
            {"id": f"{number}b", "question": "왜 했나?", "answers": [], "is_impossible": True},
        ]
        articles.append({"title": name, "paragraphs": [{"context": f"{name}은 {year}에 큰 일을 했다.", "qas": qas}]})
    path = tmp_path / "small.json"
    path.write_text(json.dumps({"version": "v2.0", "data": articles}), encoding="utf-8")
    return path


def test_no_article_is_in_both_splits(korquad: Path, skt: dict[str, str], cache: Path) -> None:
    task = Korquad(config_of(korquad, skt), cache=cache)
    articles = task.train.texts["article"]
    train_articles, dev_articles = set(articles[task.train.questions]), set(articles[task.dev.questions])
    assert not train_articles & dev_articles
    assert len(train_articles | dev_articles) == 140
    assert len(task.dev.questions) == pytest.approx(577, abs=100)


def test_a_sample_counts_questions_and_keeps_all_their_windows(korquad: Path, skt: dict[str, str], cache: Path) -> None:
    task = Korquad(config_of(korquad, skt, data={"max_train_examples": 100}), cache=cache)
    whole = task.read(korquad)
    assert len(task.train.questions) == 100
    windows = np.isin(whole.question, task.train.questions)
    assert len(task.train) == windows.sum() > 100


def test_features_are_built_once_and_shared(korquad: Path, skt: dict[str, str], tmp_path: Path) -> None:
    """Contexts lie in the cache once for all lengths, and are read from its files."""
    Korquad(config_of(korquad, skt), cache=tmp_path).read(korquad)
    first = set(tmp_path.rglob("*.npy"))
    times = {file: file.stat().st_mtime_ns for file in first}
    examples = Korquad(config_of(korquad, skt, data={"max_seq_length": 384}), cache=tmp_path).read(korquad)
    assert {file.name for file in set(tmp_path.rglob("*.npy")) - first} == {
        f"{name}.npy" for name in ("question", "first", "count", "positions", "windows")
    }
    assert times == {file: file.stat().st_mtime_ns for file in first}
    assert isinstance(examples.pieces["pieces"], np.memmap)
    assert not examples.pieces["pieces"].flags.writeable


def test_windows_that_leave_tokens_out_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must hold, or tokens between windows are lost, but got 128 > 61"):
        QuestionAnsweringData(train=Path("x.json"), max_seq_length=128)


def test_one_article_cannot_be_split(small: Path, skt: dict[str, str]) -> None:
    content = json.loads(small.read_text(encoding="utf-8"))
    small.write_text(json.dumps(content | {"data": content["data"][:1]}), encoding="utf-8")
    with pytest.raises(InputError, match=r"give `data\.dev`"):
        _ = Korquad(config_of(small, skt)).train


def test_the_loss_of_a_window_does_not_depend_on_what_else_is_in_the_batch(small: Path, skt: dict[str, str]) -> None:
    task = Korquad(config_of(small, skt, data={"dev": small}))
    torch.manual_seed(0)
    model = task.build_model().double().eval()
    alone = sum(task.loss(model, task.train.batch(np.array([row]))) for row in range(6))
    assert torch.allclose(task.loss(model, task.train.batch(np.arange(6))), alone, atol=1e-12)


def test_the_reported_loss_is_the_one_of_the_pieces(small: Path, skt: dict[str, str]) -> None:
    task = Korquad(config_of(small, skt | {"boundary_head": False}, data={"dev": small}))
    model = task.build_model().eval()
    reported = evaluate(model, task, task.dev, LocalRuntime(device=torch.device("cpu")))["eval/loss"]
    assert reported == pytest.approx(task.loss(model, task.dev.batch(np.arange(6))).item() / 6, abs=1e-6)


@pytest.mark.slow
def test_64_questions_are_memorised(korquad: Path, skt: dict[str, str], cache: Path, tmp_path: Path) -> None:
    """A small model from random weights reaches 100 EM on what it saw; its export gives the same scores and logits."""
    data = {"max_train_examples": 64, "max_dev_examples": 8}
    config = config_of(korquad, skt, data=data, train={"epochs": 26})
    task = Korquad(config, cache=cache)
    runtime = LocalRuntime(device=torch.device("cpu"), checkpoints=tmp_path / "checkpoints")
    model = train(config, task, runtime)
    scores = evaluate(model, task, task.train, runtime)
    assert scores["eval/exact_match"] == 100
    assert scores["eval/f1"] == 100

    folder = tmp_path / "model"
    save_model_files(folder, task)
    save_weights(folder, Korquad, load_weights(next((tmp_path / "checkpoints").glob("update-*"))))
    loaded = load_pretrained(folder)
    assert evaluate(loaded.model, loaded.task, task.train, runtime) == pytest.approx(scores)
    assert_transformers_gives_the_same_logits(folder, loaded.model, task.train, np.arange(4))


def assert_transformers_gives_the_same_logits(folder: Path, model: torch.nn.Module, examples, rows) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForQuestionAnswering

    theirs, loading = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert set(load_file(folder / "boundary_head.safetensors")) == {
        f"boundary.{side}.{kind}" for side in ("start", "end") for kind in ("weight", "bias")
    }
    padded = examples.batch(rows).padded()
    inputs = {name: padded[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    token = inputs["attention_mask"].bool()
    with torch.no_grad():
        got, expected = model.eval()(**examples.batch(rows).inputs), theirs.eval()(**inputs)
    for name in ("start_logits", "end_logits"):
        assert torch.allclose(getattr(got, name)[token], getattr(expected, name)[token], atol=1e-5)
        assert (getattr(got, name)[~token] == -torch.inf).all(), "what is no token is never chosen"


def test_a_changed_boundary_head_is_noticed(small: Path, skt: dict[str, str], tmp_path: Path) -> None:
    task = Korquad(config_of(small, skt))
    save_model_files(tmp_path / "model", task)
    save_weights(tmp_path / "model", Korquad, task.build_model().state_dict())
    file = tmp_path / "model" / "boundary_head.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"boundary_head\.safetensors: the file is damaged"):
        load_pretrained(tmp_path / "model")


def test_the_null_threshold_is_chosen_on_dev_and_kept(small: Path, skt: dict[str, str], tmp_path: Path) -> None:
    """A trained model tells questions with and without an answer apart by a threshold, which its export keeps."""
    reports: list[Report] = []
    config = config_of(small, skt, data={"dev": small}, train={"epochs": 60})
    task = Korquad(config)
    model = train(config, task, LocalRuntime(device=torch.device("cpu"), on_report=reports.append))
    metrics = reports[-1].metrics
    assert metrics["eval/f1"] == metrics["eval/HasAns_f1"] == metrics["eval/NoAns_exact"] == 100

    folder = tmp_path / "model"
    save_model_files(folder, task)
    save_weights(folder, Korquad, model.state_dict())
    keep_chosen(folder, Korquad, metrics)
    kept = read_train_config(folder).model
    assert kept.null_threshold == metrics["eval/null_threshold"]
    loaded = load_pretrained(folder)
    (inputs,) = loaded.task.input_parts(small)
    assert list(inputs.texts) == ["question"] and len(inputs.texts["question"]) == len(inputs.ids)
    outputs = predict(loaded.model, loaded.task, inputs.examples, LocalRuntime())
    answers = loaded.task.answers(inputs.ids, inputs.examples, outputs)
    assert {one["id"]: one["prediction_text"] for one in answers} == {
        "0a": "1443년", "0b": "", "1a": "1592년", "1b": "", "2a": "1441년", "2b": ""
    }  # fmt: skip


def test_what_was_set_aside_is_told_with_its_place(small: Path, skt: dict[str, str]) -> None:
    content = json.loads(small.read_text(encoding="utf-8"))
    content["data"][2]["paragraphs"][0]["qas"][1]["id"] = "0a"
    small.write_text(json.dumps(content), encoding="utf-8")
    task = Korquad(config_of(small, skt, data={"max_bad_fraction": 0.5}))
    assert [str(bad) for bad in task.bad_rows(small)] == [
        "data[2].paragraphs[0].qas[1]: id '0a' is already at data[0].paragraphs[0].qas[0]"
    ]


def test_a_tokenizer_of_the_training_texts(korquad: Path, cache: Path) -> None:
    config = config_of(korquad, {"tokenizer_vocab_size": 2000}, data={"max_train_examples": 200})
    task = Korquad(config, cache=cache)
    assert len(task.tokenizer) == 2000
    assert len(task.train.questions) == 200
