"""What a student learns from its teacher: the formulas of Hinton et al. (2015), row by row, on the right texts."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import SPECS, parse_train_config, task_class
from kobert_core.tasks.labelled_texts.task import LabelledTexts
from kobert_core.training import train
from tests.fixtures.tiny import SIZES

WEIGHT, TEMPERATURE = 0.3, 2.5
TEXTS = [f"{word} {number}번째 영화" for number in range(12) for word in ("재미있는", "지루한", "무서운")]
NAMES = {"classification": ["0", "1", "2"], "multilabel": ["가", "나"], "regression": []}


def labelled(name: str) -> list[dict[str, Any]]:
    label = {"classification": lambda n: n % 3, "multilabel": lambda n: ["가", "나"][: n % 3], "regression": float}
    column = "labels" if name == "multilabel" else "label"
    return [{"text": text, column: label[name](n)} for n, text in enumerate(TEXTS)]


def said_of(name: str, texts: list[str]) -> list[dict[str, Any]]:
    """A teacher's predictions, each another one."""
    generator = np.random.default_rng(0)
    if name == "regression":
        return [{"text": text, "score": float(generator.normal())} for text in texts]
    shares = generator.dirichlet([1] * 3, len(texts)) if name == "classification" else generator.random((len(texts), 2))
    return [
        {"text": text} | {f"probability_{label}": value for label, value in zip(NAMES[name], row, strict=True)}
        for text, row in zip(texts, shares.tolist(), strict=True)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def student(name: str, folder: Path, said: list[dict[str, Any]], cache: Path | None = None, **train: Any) -> Any:
    data = {"train": write(folder / "train.jsonl", labelled(name)), "max_length": 24, "dev_fraction": 0.25}
    SPECS[name].infer_data_settings(data)
    soft_labels = write(folder / "said.jsonl", said)
    config = parse_train_config(
        {
            "task": name,
            "data": data,
            "model": {"init": "random", "config": SIZES, "tokenizer_vocab_size": 60},
            "distill": {"soft_labels": soft_labels, "weight": WEIGHT, "temperature": TEMPERATURE},
            "train": train,
        }
    )
    task = task_class(name)(config, cache=cache)
    assert isinstance(task, LabelledTexts)
    return task


def texts_of(task: LabelledTexts) -> list[str]:
    """What is trained on, as pieces without special tokens."""
    ids = [task.train.batch(np.array([row])).inputs["input_ids"].tolist()[1:-1] for row in range(len(task.train))]
    by_ids = {tuple(task.tokenizer.encode_batch_flat([text])[0].tolist()): text for text in [*TEXTS, *OTHERS]}
    return [by_ids[tuple(pieces)] for pieces in ids]


OTHERS = ["볼만한 13번째 영화", "볼만한 14번째 영화"]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_label_and_teacher_row_by_row(name: str, tmp_path: Path) -> None:
    half = TEXTS[::2]
    task = student(name, tmp_path, said_of(name, [*half, *OTHERS]))
    model = task.build_model().eval()
    rows = {text: row for row, text in enumerate(texts_of(task))}
    said = {row["text"]: list(row.values())[1:] for row in said_of(name, [*half, *OTHERS])}
    assert set(OTHERS) < set(rows) and len(rows) == len(task.train)
    expected = []
    for text, row in rows.items():
        batch = task.train.batch(np.array([row]))
        logits = model(**batch.inputs).logits
        hard, soft = None, None
        if text in TEXTS:
            hard = model(**batch.inputs, labels=batch.targets["labels"], reduction="sum").loss
        if text in said:
            teacher = torch.tensor([said[text]], dtype=torch.float32)
            if name == "classification":
                at = (teacher.log() / TEMPERATURE).softmax(1)
                soft = (at * (at.log() - (logits / TEMPERATURE).log_softmax(1))).sum() * TEMPERATURE**2
            elif name == "multilabel":
                at, ours = (teacher.logit() / TEMPERATURE).sigmoid(), (logits / TEMPERATURE).sigmoid()
                apart = at * (at.log() - ours.log()) + (1 - at) * ((1 - at).log() - (1 - ours).log())
                soft = apart.mean() * TEMPERATURE**2
            else:
                soft = F.mse_loss(logits, teacher)
        known = [each for each in (hard, soft) if each is not None]
        expected.append((1 - WEIGHT) * hard + WEIGHT * soft if len(known) == 2 else known[0])
    everything = task.train.batch(np.array(list(rows.values())))
    loss = task.loss(model, everything)
    torch.testing.assert_close(loss, torch.stack([each.reshape(()) for each in expected]).sum(), rtol=1e-4, atol=1e-5)
    mean = model(**everything.inputs, **everything.targets, reduction="mean").loss
    torch.testing.assert_close(mean, loss / len(rows))
    loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def test_a_step_that_is_filled_up_has_the_same_loss(tmp_path: Path) -> None:
    task = student("classification", tmp_path, said_of("classification", [*TEXTS[:9], *OTHERS]))
    model, batch = task.build_model().eval(), task.train.batch(np.arange(len(task.train)))
    filled = batch.fill(int(task.train.lengths.max()))
    assert len(filled.inputs["lengths"]) > len(batch.inputs["lengths"])
    torch.testing.assert_close(task.loss(model, filled), task.loss(model, batch), rtol=1e-5, atol=1e-6)


def test_of_the_other_texts_none_is_one_that_runs_are_judged_by(tmp_path: Path, cache: Path) -> None:
    said = said_of("classification", [*TEXTS, *OTHERS, OTHERS[0], f" {OTHERS[1]} "])
    task = student("classification", tmp_path, said, cache)
    trained_on = texts_of(task)
    assert len(trained_on) == 27 + 2 and set(trained_on[27:]) == set(OTHERS)
    assert not set(trained_on[:27]) & {TEXTS[row] for row in task._split["dev"]}
    assert not np.isnan(task.train.batch(np.arange(29)).targets["soft_labels"].numpy()).any()
    assert task.train.labels[27:].tolist() == [-100, -100]
    again = student("classification", tmp_path, said, cache)
    assert (
        again.train.batch(np.arange(29))
        .targets["soft_labels"]
        .equal(task.train.batch(np.arange(29)).targets["soft_labels"])
    )
    facts = dict(task.survey(None).facts)
    assert facts["soft labels"] == "of 27 of 27 (100.00%) training texts, and of 2 others"


@pytest.mark.parametrize(
    "written", [lambda text: unicodedata.normalize("NFD", text), lambda text: f" {text.replace(' ', '  ')}"]
)
def test_a_text_is_known_however_its_blanks_and_its_hangul_are_written(
    written: Callable[[str], str], tmp_path: Path
) -> None:
    task = student("classification", tmp_path, said_of("classification", [*map(written, TEXTS), *OTHERS]))
    facts = dict(task.survey(None).facts)
    assert facts["soft labels"] == "of 27 of 27 (100.00%) training texts, and of 2 others"


def test_other_texts_that_stand_in_the_test_file_are_a_leak(tmp_path: Path) -> None:
    task = student("classification", tmp_path, said_of("classification", OTHERS))
    rows = [{"text": OTHERS[0], "label": 1}, {"text": "새로운 영화", "label": 0}]
    test = Source.of(write(tmp_path / "test.jsonl", rows))
    assert task.leaks(test)["test"].found == 1
    survey = task.survey(test)
    assert dict(survey.facts)["soft labels"] == "of 0 of 27 (0.00%) training texts, and of 2 others"
    assert any("none of the texts of the training split" in warning for warning in survey.warnings)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_is_trained_and_judged_like_any_other_run(name: str, tmp_path: Path) -> None:
    task = student(name, tmp_path, said_of(name, [*TEXTS, *OTHERS]), epochs=2, eval_percent=50)
    reports: list[Report] = []
    train(task.config, task, LocalRuntime(on_report=reports.append))
    assert [report.progress for report in reports] == [50, 100]
    metrics = reports[-1].metrics
    assert metrics["eval/examples"] == 9 and math.isfinite(metrics["train/loss"])


@pytest.mark.parametrize("score", ["nan", "inf", "1e39", -1e300, None])
def test_a_score_that_is_no_number_of_32_bits_is_told(score: object, tmp_path: Path) -> None:
    task = student("regression", tmp_path, [{"text": TEXTS[0], "score": score}])
    with pytest.raises(InputError, match="in the column 'score' is no number"):
        _ = task.train


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "좋다", "label": 1}], "no label column 'probability_0'"),
        (
            [{"text": "좋다", "probability_0": 0.5, "probability_1": 0.2, "probability_2": 0.1}],
            "add up to 0.8, not to 1",
        ),
        ([{"text": "좋다", "probability_0": 1.5, "probability_1": 0, "probability_2": 0}], "'1.5' in the column"),
        ([{"text": "좋다", "probability_0": "많이", "probability_1": 0, "probability_2": 0}], "is no probability"),
        ([{"probability_0": 1, "probability_1": 0, "probability_2": 0}], "no text column 'text'"),
    ],
)
def test_what_are_no_soft_labels_is_told(rows: list[dict[str, Any]], says: str, tmp_path: Path) -> None:
    task = student("classification", tmp_path, rows)
    with pytest.raises(InputError) as error:
        _ = task.train
    assert says in str(error.value) and "said.jsonl" in str(error.value)
