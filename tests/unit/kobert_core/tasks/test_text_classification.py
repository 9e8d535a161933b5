"""Text classification as a task: weights of classes, chance, surveys and predictions on real reviews."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kobert_core.errors import InputError
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.tiny import SAMPLE, tiny_config

REVIEWS = ["정말 좋았다", "별로였다", "다시 보고 싶다", "지루했다", "최고의 영화", "시간이 아깝다"]


def write(path: Path, labels: str, *, texts: list[str] = REVIEWS) -> Path:
    rows = [f"{number}\t{text}\t{label}" for number, (text, label) in enumerate(zip(texts, labels, strict=True))]
    path.write_text("\n".join(["id\tdocument\tlabel", *rows]) + "\n", encoding="utf-8")
    return path


def task_on(train: Path, dev: Path | None = None, **model: object) -> Nsmc:
    tokenizer = {"tokenizer_vocab_size": 60} | model
    data = {"train": train, "dev": dev, "max_length": 6}
    return Nsmc(tiny_config(data=data, model=tokenizer))


def test_classes_weigh_what_the_study_says(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.tsv", "000001"), write(tmp_path / "dev.tsv", "010101")
    every = np.arange(6)
    assert task_on(train, dev).total_weight(task_on(train, dev).train, every) == 6
    given = task_on(train, dev, class_weights=(0.5, 2.0))
    assert given.total_weight(given.train, every) == 5 * 0.5 + 2
    balanced = task_on(train, dev, class_weights="balanced")
    assert balanced.total_weight(balanced.train, every) == pytest.approx(6), "balanced: 5 of 0.6 and 1 of 3"
    assert balanced.total_weight(balanced.dev, every) == pytest.approx(3 * 0.6 + 3 * 3)
    with pytest.raises(InputError, match="3 weights for 2 classes"):
        task_on(train, dev, class_weights=(1.0, 1.0, 1.0)).build_model()


def test_chance_is_what_the_largest_class_scores(tmp_path: Path) -> None:
    task = task_on(write(tmp_path / "train.tsv", "000011"), write(tmp_path / "dev.tsv", "000111"))
    accuracy, loss = task.chance(task.train, "eval/accuracy"), task.chance(task.train, "eval/loss")
    assert accuracy is not None and accuracy.value == pytest.approx(4 / 6)
    assert loss is not None and loss.value == pytest.approx(-(4 * np.log(4 / 6) + 2 * np.log(2 / 6)) / 6)
    assert task.chance(task.train, "eval/none") is None


def test_perfect_logits_score_best() -> None:
    task = Nsmc(tiny_config())
    logits = np.eye(2)[task.dev.labels] * 20
    scores = task.score(task.dev, {"logits": logits})
    assert (scores["eval/accuracy"], scores["eval/f1"], scores["eval/examples"]) == (1, 1, len(task.dev))
    assert scores["eval/loss"] == pytest.approx(np.log1p(np.exp(-20)), rel=1e-6)
    reverse = task.score(task.dev, {"logits": -logits})
    assert (reverse["eval/accuracy"], reverse["eval/loss"]) == (0, pytest.approx(20))
    matrix = task.score_in_detail(task.dev, {"logits": logits})["confusion_matrix"]
    assert matrix == np.diag(np.bincount(task.dev.labels)).tolist()


def test_a_survey_tells_what_is_trained_on_and_what_is_missing(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.tsv", "000011"), write(tmp_path / "dev.tsv", "111111")
    survey = task_on(train, dev).survey(train)
    assert ("classes in train", "4 negative, 2 positive") in survey.facts
    assert ("dev texts in train", "6 of 6 (100.00%)") in survey.facts
    told = "\n".join(survey.warnings)
    assert "all 6 rows of dev are of the class `positive`" in told
    assert "6 of 6 (100.00%) texts of dev are trained on" in told
    assert "the test file has the same content as the train file" in told


def test_what_is_cut_off_and_set_aside_is_counted(tmp_path: Path) -> None:
    train = write(tmp_path / "train.tsv", "0101x1", texts=[*REVIEWS[:5], "가 나 다 라 마 바 사 아 자 차"])
    values = {"data": {"train": train, "max_length": 6, "max_bad_fraction": 0.5, "dev": train}}
    task = Nsmc(tiny_config(**values, model={"tokenizer_vocab_size": 60}))
    assert [row.line for row in task.bad_rows(train)] == [6]
    (cut,) = task.cut_off()
    long = [len(task.tokenizer.encode(text)) > 6 for text in task.read_rows(train).texts]
    assert cut.limit == 6 and cut.share == sum(long) / 5 and long[-1]
    told = task.describe(train)
    assert (told["examples"], told["set_aside"]) == (5, 1) and told["classes"] == {"negative": 2, "positive": 3}
    assert "line 6" in str(told["set_aside_places"])


def test_a_file_to_predict_needs_no_labels(tmp_path: Path) -> None:
    file = tmp_path / "new.tsv"
    file.write_text("id\tdocument\na\t좋다\na\t\nb\t별로\n", encoding="utf-8")
    task = Nsmc(tiny_config(data={"max_bad_fraction": 0.5}))
    (inputs,) = task.input_parts(file)
    assert (inputs.ids, inputs.texts, len(inputs.bad)) == (["a", "b"], {"text": ["좋다", "별로"]}, 1)
    answers = task.answers(inputs.ids, inputs.examples, {"logits": np.array([[0.0, 2.0], [1.0, 1.0]])})
    assert [(row["id"], row["label"]) for row in answers] == [("a", "1"), ("b", "0")]
    assert [row["name"] for row in answers] == ["positive", "negative"]
    assert answers[0]["probability_positive"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    assert answers[1]["probability_positive"] == 0.5


def test_the_sample_is_split_alike_each_time() -> None:
    one, other = (Nsmc(tiny_config(data={"split_seed": seed})) for seed in (0, 1))
    again = Nsmc(tiny_config(data={"split_seed": 0, "train": SAMPLE / "train.tsv"}))
    assert one.dev.rows.tolist() == again.dev.rows.tolist() != other.dev.rows.tolist()
