"""Pairs, cut texts, numbers and sets of labels: what transformers, scikit-learn or one row after the other gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kobert_core.errors import InputError
from kobert_core.tasks import SPECS, parse_train_config, task_class
from kobert_core.tasks.labelled_texts.cells import labels_in
from kobert_core.tasks.labelled_texts.examples import TextExamples, tokenize
from kobert_core.tasks.labelled_texts.task import LabelledTexts
from kobert_core.tokenization import Tokenizer
from tests.fixtures import tokenizers
from tests.fixtures.tiny import SIZES
from tests.fixtures.tokenizers import TEXTS

PAIRS = [(first * times, second) for times in (1, 3) for first in TEXTS for second in TEXTS]


def task_of(name: str, file: Path, content: str | list[dict[str, Any]], **data: object) -> LabelledTexts:
    """A task on a file; what the study leaves to the file is read from it."""
    lines = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    file.write_text(lines, encoding="utf-8")
    model = data.pop("model", {})
    assert isinstance(model, dict)
    section: dict[str, object] = {"train": str(file), "max_length": 24, "dev_fraction": 0.25} | data
    SPECS[name].infer_data_settings(section)
    model = {"init": "random", "config": SIZES, "tokenizer_vocab_size": 90} | model
    task = task_class(name)(parse_train_config({"task": name, "data": section, "model": model}))
    assert isinstance(task, LabelledTexts)
    return task


@pytest.mark.parametrize("max_length", [6, 7, 12, 13, 64])
@pytest.mark.parametrize("make", [tokenizers.kobert, tokenizers.wordpiece, tokenizers.unigram])
def test_a_pair_is_what_its_tokenizer_makes_of_it(
    make: Callable[[Path], Tokenizer], max_length: int, tmp_path: Path
) -> None:
    tokenizer = make(tmp_path)
    firsts, seconds = ([pair[which] for pair in PAIRS] for which in (0, 1))
    arrays = tokenize(firsts, np.zeros(len(PAIRS)), tokenizer, seconds)
    examples = TextExamples(**arrays, tokenizer=tokenizer, max_length=max_length)
    padded = examples.batch(np.arange(len(PAIRS))).padded(tokenizer.pad_id)
    cut = 0
    for row, (first, second) in enumerate(PAIRS):
        ids, types = tokenizer.encode_pair(first, second, max_length)
        assert padded["input_ids"][row, : len(ids)].tolist() == ids and examples.lengths[row] == len(ids)
        assert padded["token_type_ids"][row, : len(ids)].tolist() == types
        cut += len(tokenizer.encode_pair(first, second)[0]) > max_length
    assert examples.cut == cut and (cut or max_length == 64)


@pytest.mark.parametrize(
    ("truncate", "kept"),
    [
        ("head", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("tail", [4, 5, 6, 7, 8, 9, 10, 11]),
        ("head_tail", [0, 1, 6, 7, 8, 9, 10, 11]),
    ],
)
def test_what_is_kept_of_a_long_text(truncate: Any, kept: list[int], tmp_path: Path) -> None:
    tokenizer = tokenizers.kobert(tmp_path)
    arrays = {"ids": np.arange(12, dtype=np.int32), "starts": np.array([0, 12, 12]), "labels": np.zeros(2)}
    arrays["ids"] = np.concatenate([arrays["ids"], np.arange(100, 105, dtype=np.int32)])
    arrays["starts"] = np.array([0, 12, 17])
    examples = TextExamples(**arrays, tokenizer=tokenizer, max_length=10, truncate=truncate)
    ids = examples.batch(np.array([1, 0])).inputs["input_ids"].tolist()
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert ids == [cls, 100, 101, 102, 103, 104, sep, cls, *kept, sep]
    assert examples.take(np.array([1])).batch(np.array([0])).inputs["input_ids"].tolist() == ids[:7]


def test_no_room_for_texts_is_told(tmp_path: Path) -> None:
    task = task_of(
        "regression",
        tmp_path / "a.tsv",
        "text\tother\tlabel\n" + "좋다\t좋다\t1\n나쁘다\t좋다\t0\n" * 3,
        pair_column="other",
        max_length=4,
        model={"tokenizer_vocab_size": 12},
    )
    with pytest.raises(InputError, match="`max_length: 4` leaves no room for texts"):
        _ = task.train


@pytest.mark.parametrize("name", ["classification", "multilabel", "regression"])
def test_loss_and_gradients_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    rows = [
        {"text": text, "other": other, "label": n % 3, "labels": ["가", "나"][: n % 3]}
        for n, (text, other) in enumerate(PAIRS)
    ]
    model = {"dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    task = task_of(name, tmp_path / "a.jsonl", rows, pair_column="other", model=model)
    ours = task.build_model().train()
    theirs = AutoModelForSequenceClassification.from_config(task.hf_config()).train()
    assert theirs.config.problem_type == task.problem_type and type(theirs).__name__ == "BertForSequenceClassification"
    theirs.load_state_dict(ours.state_dict())
    batch = task.train.batch(np.arange(8))
    given = batch.padded(task.tokenizer.pad_id)
    expected = theirs(**given)
    loss = task.loss(ours, batch) / 8
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours(**batch.inputs).logits, expected.logits, rtol=0, atol=1e-5)
    loss.backward()
    expected.loss.backward()
    for (key, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: key + text)


def test_numbers_are_read_and_scored(tmp_path: Path) -> None:
    content = "text\tlabel\n" + "".join(f"{text}\t{n / 2}\n" for n, text in enumerate(TEXTS * 8))
    content += "좋다\t\n좋다\t많이\n좋다\tnan\n좋다\t1e999\n"
    task = task_of("regression", tmp_path / "a.tsv", content, max_bad_fraction=0.2)
    assert [row.reason for row in task.bad_rows(task.data.train)] == [
        "missing label",
        "label '많이' is no number",
        "label 'nan' is no number",
        "label '1e999' is no number",
    ]
    labels = task.train.labels
    assert labels.dtype == np.float32 and len(task.train) + len(task.dev) == 40
    halves = [(labels < 10).mean(), (task.dev.labels < 10).mean()]
    assert halves == pytest.approx([0.5, 0.5], abs=0.1), "both splits have small and large numbers"
    guess = labels[:, None] * 2.0 + 1
    scores = task.score(task.train, {"logits": guess})
    assert (scores["eval/pearson"], scores["eval/spearman"]) == pytest.approx((1, 1))
    assert scores["eval/mse"] == scores["eval/loss"] == pytest.approx(np.mean((labels + 1) ** 2), rel=1e-6)
    assert scores["eval/mae"] == pytest.approx(np.mean(labels + 1), rel=1e-6)
    for metric, value in {
        "eval/pearson": 0.0,
        "eval/mse": np.var(labels),
        "eval/mae": np.mean(abs(labels - 10)),
    }.items():
        chance = task.chance(task.train, metric)
        assert chance is not None and chance.value == pytest.approx(value, abs=0.1)
    answers = task.answers(["x"], task.train, {"logits": np.array([[0.25]])})
    assert answers == [{"id": "x", "score": 0.25}]
    assert task.describe(task.data.train)["labels"] == {
        "min": 0,
        "mean": 9.75,
        "max": 19.5,
        "std": pytest.approx(5.7717, abs=1e-3),
    }


def test_a_column_of_words_holds_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has '긍정' \(9\): check `data.label_column`, or take `task: classification`"
    ):
        _ = task_of("regression", tmp_path / "a.tsv", "text\tlabel\n" + "좋다\t긍정\n" * 9).train


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("욕설,차별", ["욕설", "차별"]),
        (" 욕설 , ", ["욕설"]),
        ("", []),
        (None, []),
        ('["욕설", "차별"]', ["욕설", "차별"]),
        ("['욕설']", ["욕설"]),
        ("[광고]", ["[광고]"]),
        (["욕설", 2.0, True], ["욕설", "2", "true"]),
        (1.0, ["1"]),
    ],
)
def test_labels_of_a_cell(cell: object, labels: list[str]) -> None:
    assert labels_in(cell, ",") == labels


def test_sets_of_labels_are_read_and_scored(tmp_path: Path) -> None:
    sets = [[], ["욕설"], ["욕설", "차별"], ["차별"]]
    rows = [{"text": f"{TEXTS[n % 5]} {n}", "labels": sets[n % 4]} for n in range(40)]
    task = task_of("multilabel", tmp_path / "a.jsonl", rows)
    assert list(task.data.model_dump()["labels"]) == ["욕설", "차별"]
    assert task.train.labels.dtype == np.float32 and sorted(map(tuple, np.unique(task.dev.labels, axis=0))) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ], "the dev split has all kinds of rows"
    labels = task.train.labels
    perfect = task.score(task.train, {"logits": labels * 20 - 10})
    assert all(
        perfect[f"eval/{name}"] == 1
        for name in ("f1", "f1_micro", "f1_weighted", "exact_match", "roc_auc", "average_precision")
    )
    logits = np.tile(np.array([1.0, -1.0]), (len(labels), 1))
    scores = task.score(task.train, {"logits": logits})
    first, second = labels[:, 0].mean(), labels[:, 1].mean()
    assert scores["eval/f1"] == pytest.approx(first / (1 + first)), "half of 2p / (1 + p): the second label has 0"
    assert scores["eval/exact_match"] == np.mean((labels == [1, 0]).all(axis=1))
    assert (scores["eval/roc_auc"], scores["eval/average_precision"]) == pytest.approx((0.5, (first + second) / 2))
    assert scores["eval/loss"] == pytest.approx(
        (np.log1p(np.exp(-1)) + (1 - first) + np.log1p(np.exp(-1)) + second) / 2
    )
    best = task.chance(task.train, "eval/f1")
    assert best is not None and best.value == pytest.approx(np.mean([2 * p / (1 + p) for p in (first, second)]))
    answers = task.answers(["x"], task.train, {"logits": np.array([[3.0, -3.0]])})
    assert answers[0]["labels"] == ["욕설"] and answers[0]["probability_차별"] == pytest.approx(
        1 / (1 + np.exp(3)), abs=1e-6
    )
    told = task.score_in_detail(task.train, {"logits": logits})["labels"]
    assert told["차별"] == {"precision": 0, "recall": 0, "f1": 0, "support": labels[:, 1].sum()}


def test_a_column_for_each_label(tmp_path: Path) -> None:
    content = "text\t욕설\t차별\n" + "좋다\t1\t0\n나쁘다\tTrue\tfalse\n그냥\t1.0\t\n별로\t0\t1\n또\t2\t1\n" * 4
    names = ["욕설", "차별"]
    task = task_of("multilabel", tmp_path / "a.tsv", content, label_columns=names, max_bad_fraction=0.3)
    rows = task.read_rows(task.data.train)
    assert rows.labels[:4].tolist() == [[1, 0], [1, 0], [1, 0], [0, 1]]
    assert rows.bad[0].reason == "'2' in the column '욕설' is neither 1 nor 0"
    weighted = task_of(
        "multilabel",
        tmp_path / "b.tsv",
        content,
        label_columns=names,
        max_bad_fraction=0.3,
        model={"class_weights": "balanced"},
    )
    with_label = weighted.train.labels.sum(axis=0)
    expected = (len(weighted.train) - with_label) / with_label
    assert weighted.build_model().class_weights.numpy() == pytest.approx(expected)


def test_labels_of_several_columns_with_a_word_for_none(tmp_path: Path) -> None:
    content = (
        "text\tbias\thate\n" + "좋다\tnone\tnone\n나쁘다\tgender\thate\n그냥\tothers\tnone\n별로\t none \thate\n" * 4
    )
    columns = {"label_column": ["bias", "hate"], "no_label": "none"}
    task = task_of("multilabel", tmp_path / "a.tsv", content, **columns)
    assert list(task.data.labels) == ["gender", "hate", "others"], "inferred from all columns, without `none`"
    rows = task.read_rows(task.data.train)
    assert rows.labels[:4].tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]] and not rows.bad
    told = (
        r"label 'others' is none of gender, hate .*'bias, hate' also has 'others' \(4\): `data.labels` must name them"
    )
    with pytest.raises(InputError, match=told):
        _ = task_of("multilabel", tmp_path / "b.tsv", content, labels=["gender", "hate"], **columns).train
    without = {"label_column": ["bias", "hate"], "labels": ["gender", "hate", "others"]}
    with pytest.raises(InputError, match="label 'none' is none of gender, hate, others"):
        _ = task_of("multilabel", tmp_path / "c.tsv", content, **without).train
    with pytest.raises(ValueError, match="`no_label` is 'hate', which is one of `labels`"):
        task_of("multilabel", tmp_path / "d.tsv", content, **without | {"no_label": "hate"})


def test_a_number_may_stand_for_no_label(tmp_path: Path) -> None:
    """As in K-MHaS, where 8 is a comment without hate."""
    rows = [{"text": text, "labels": labels} for text, labels in zip(TEXTS, [[8], [2, 3], [2], [8], [3]], strict=False)]
    task = task_of("multilabel", tmp_path / "a.jsonl", rows * 4, no_label=8, labels=["2", "3"])
    assert task.read_rows(task.data.train).labels[:3].tolist() == [[0, 0], [1, 1], [1, 0]]


def test_labels_that_are_not_known_are_told(tmp_path: Path) -> None:
    rows = [{"text": "좋다", "labels": ["욕설", "광고"]}] * 3 + [{"text": "좋다", "labels": ["욕설"]}] * 3
    with pytest.raises(
        InputError, match=r"label '광고' is none of 욕설, 차별 .*also has '광고' \(3\): `data.labels` must"
    ):
        _ = task_of("multilabel", tmp_path / "a.jsonl", rows, labels=["욕설", "차별"]).train


def test_a_classifier_of_pairs_infers_its_labels_and_reports_all_metrics(tmp_path: Path) -> None:
    names = ["entailment", "neutral", "contradiction"]
    content = "text\tother\tlabel\n" + "".join(f"{a} {n}\t{b}\t{names[n % 3]}\n" for n, (a, b) in enumerate(PAIRS))
    task = task_of("classification", tmp_path / "a.tsv", content, pair_column="other")
    assert list(task.data.model_dump()["labels"]) == sorted(names)
    scores = task.score(task.dev, {"logits": np.eye(3)[task.dev.labels]})
    assert set(task.spec.metrics) <= scores.keys()
    assert all(value == 1 for name, value in scores.items() if name not in ("eval/loss", "eval/examples"))
    survey = task.survey(task.data.train)
    assert ("test texts in train", f"{len(task.train)} of 50 ({len(task.train) / 50:.2%})") in survey.facts
    (inputs,) = task.input_parts(task.data.train)
    assert inputs.texts["pair"][:2] == [TEXTS[0], TEXTS[1]] and len(inputs.examples) == 50


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_that_dev_has_not_and_a_run_that_diverged_are_no_crash(classes: int, tmp_path: Path) -> None:
    content = "text\tlabel\n" + "".join(f"{text} {n}\t{n % classes}\n" for n, text in enumerate(TEXTS * 4))
    task = task_of("classification", tmp_path / "a.tsv", content)
    dev = task.dev.take(np.flatnonzero(task.dev.labels == 1))
    scores = task.score(dev, {"logits": np.eye(classes)[dev.labels]})
    assert scores["eval/balanced_accuracy"] == 1 and all(np.isfinite(value) for value in scores.values())
    diverged = task.score(task.dev, {"logits": np.full((len(task.dev), classes), np.nan)})
    assert np.isnan(diverged["eval/roc_auc"]) and np.isnan(diverged["eval/loss"])


def test_ids_that_name_no_rows_are_told(tmp_path: Path) -> None:
    content = "id\ttext\tlabel\n" + "".join(f"0{n % 3}\t{text}\t{n}\n" for n, text in enumerate(TEXTS * 2))
    told = r"id '00' is already on line 2.*'id' names no rows, write `data.id_column: null`"
    with pytest.raises(InputError, match=told):
        _ = task_of("regression", tmp_path / "a.tsv", content).train
    assert len(task_of("regression", tmp_path / "a.tsv", content, id_column=None).read(tmp_path / "a.tsv")) == 10
