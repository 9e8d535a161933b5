"""What the loop, a sweep and an export ask of a task, asked of each one that there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from kobert_core.config import Objective
from kobert_core.data.batching import filled_shape
from kobert_core.errors import InputError
from kobert_core.evaluation import evaluate_on_dev, predict
from kobert_core.inference import Predictor
from kobert_core.pretrained import Pretrained
from kobert_core.pseudo_values import pseudo_values
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import SPECS, parse_train_config, task_class
from kobert_core.tasks.base import Task
from kobert_core.tasks.question_answering import decoding as question_decoding
from kobert_core.tasks.text_classification.config import NSMC
from kobert_core.tasks.text_classification.task import Nsmc
from kobert_core.tasks.token_classification import decoding as token_decoding
from kobert_core.training import train
from tests.fixtures.tasks import CONFIGS
from tests.fixtures.tiny import tiny_config

MINIMUM = "eval/least"


class LeastCertain(Nsmc):
    """A third task, known from nowhere else: it is compared by its least certain answer."""

    spec = replace(
        NSMC,
        name="least-certain",
        metrics=(*NSMC.metrics, MINIMUM),
        objective=Objective(metric=MINIMUM),
        implementation=f"{__name__}:LeastCertain",
    )

    def score(self, examples: Any, outputs: dict[str, np.ndarray]) -> dict[str, float]:
        return super().score(examples, outputs) | {MINIMUM: float(np.ptp(outputs["logits"], axis=1).min())}


def least_certain(folder: Path) -> dict[str, Any]:
    return tiny_config().model_dump(mode="json") | {"task": LeastCertain.spec.name}


@pytest.fixture(params=[*CONFIGS, least_certain])
def task(request: pytest.FixtureRequest, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Task[Any]:
    monkeypatch.setitem(SPECS, LeastCertain.spec.name, LeastCertain.spec)
    monkeypatch.setattr("kobert_core.tasks.import_module", importing_this_file_too())
    make: Callable[[Path], dict[str, Any]] = request.param
    config = parse_train_config(make(tmp_path))
    return task_class(config.task)(config, cache=cache)


def importing_this_file_too() -> Callable[[str], Any]:
    """Tests are imported by path: their modules have no name that `import_module` finds."""
    import importlib
    import sys

    return lambda name: sys.modules[name] if name in sys.modules else importlib.import_module(name)


def test_its_examples_are_those_of_its_batches(task: Task[Any]) -> None:
    examples = task.train
    assert len(examples) == len(examples.lengths) >= examples.items > 0
    chosen = np.array([2, 0, 1])
    batch = examples.batch(chosen)
    assert batch.inputs["lengths"] == examples.lengths[chosen].tolist()
    assert batch.shape.tokens == sum(batch.inputs["lengths"]) and max(examples.lengths) <= task.longest
    assert all(len(target) == len(chosen) for target in batch.targets.values())
    assert all(len(target) == batch.shape.tokens for target in batch.token_targets.values())
    few = examples.take(np.arange(2))
    assert few.items == 2 and len(few) >= 2


def test_the_losses_of_a_batch_add_up_over_its_examples(task: Task[Any]) -> None:
    torch.manual_seed(0)
    model = task.build_model().double().eval()
    all_at_once = task.loss(model, task.train.batch(np.arange(6)))
    one_by_one = sum(task.loss(model, task.train.batch(np.array([n]))) for n in range(6))
    torch.testing.assert_close(all_at_once, one_by_one)
    assert all_at_once.shape == () and task.total_weight(task.train, np.arange(6)) > 0
    full = task.train.batch(np.arange(6)).fill(task.longest)
    assert full.shape == filled_shape(task.train.batch(np.arange(6)).shape, task.longest)
    torch.testing.assert_close(task.loss(model, full), all_at_once)


def test_it_reports_what_it_says_it_reports(task: Task[Any]) -> None:
    runtime = LocalRuntime(device=torch.device("cpu"))
    model = task.build_model()
    outputs = predict(model, task, task.dev, runtime)
    assert all(len(rows) == len(task.dev) for rows in outputs.values())
    metrics = evaluate_on_dev(model, task, runtime)
    assert set(task.spec.metrics) <= metrics.keys() and task.objective.metric in task.spec.metrics
    assert all(isinstance(value, int | float) and np.isfinite(value) for value in metrics.values())
    for name, value in task.chosen_values(metrics).items():
        assert name in type(task.model).model_fields and getattr(task.with_chosen(metrics).model, name) == value


def test_its_rows_are_those_of_its_splits_and_expect_what_its_review_does(task: Task[Any]) -> None:
    assert len(task.split_rows("train")) == task.train.items
    rows, (said,) = (
        task.split_rows("dev"),
        {"label", "labels", "entities", "answers"} & task.split_rows("dev")[0].keys(),
    )
    outputs = predict(task.build_model(), task, task.dev, LocalRuntime(device=torch.device("cpu")))
    records = task.review(task.dev, outputs)
    assert [(row["id"], row[said]) for row in rows] == [(record["id"], record["expected"]) for record in records]


def test_its_review_has_a_record_an_item_whose_scores_are_the_metrics(task: Task[Any]) -> None:
    outputs = predict(task.build_model(), task, task.dev, LocalRuntime(device=torch.device("cpu")))
    metrics = task.score(task.dev, outputs)
    records: Any = json.loads(json.dumps(task.review(task.dev, outputs)))
    assert len(records) == task.dev.items and len({record["id"] for record in records}) == len(records)
    text = {"korquad": "question"}.get(task.name, "text")
    (texts,) = (rows for kind, rows in task.texts_of_splits(None)["dev"].items() if kind in (text, "pair"))
    assert [record[text] for record in records] == [parts[0] for parts in texts]
    sure = [record["confidence"] for record in records]
    assert all(value is None if task.name == "regression" else 0 <= value <= 1 for value in sure)
    mean = float(np.mean([record["score"] for record in records]))
    match task.name:
        case "korquad":
            assert mean == pytest.approx(metrics["eval/f1"] / 100)
            assert np.mean([record["exact_match"] for record in records]) == pytest.approx(
                metrics["eval/exact_match"] / 100
            )
            assert len({record["group"] for record in records}) > 1
        case "tokens":
            right = sum(entity in record["expected"] for record in records for entity in record["predicted"])
            total = sum(len(record["expected"]) + len(record["predicted"]) for record in records)
            assert 2 * right / total == pytest.approx(metrics["eval/f1"])
        case "regression":
            assert -mean == pytest.approx(metrics["eval/mae"], abs=1e-5)
        case "multilabel":
            assert mean == pytest.approx(metrics["eval/exact_match"])
        case _:
            assert mean == pytest.approx(metrics["eval/accuracy"])
    some = task.dev.take(np.array([1, 0]))
    again = task.review(some, predict(task.build_model(), task, some, LocalRuntime(device=torch.device("cpu"))))
    assert [record["id"] for record in again] == [records[1]["id"], records[0]["id"]]


def test_the_review_of_a_perfect_model_is_right_everywhere(task: Task[Any]) -> None:
    match task.name:
        case "korquad":
            outputs = question_decoding.perfect_outputs(task.dev)
        case "tokens":
            outputs = token_decoding.perfect_outputs(task.dev)
        case "regression":
            outputs = {"logits": task.dev.labels[:, None]}
        case "multilabel":
            outputs = {"logits": 40 * task.dev.labels - 20}
        case _:
            outputs = {"logits": 20.0 * (task.dev.labels[:, None] == np.arange(len(task.data.labels)))}
    for record in task.with_chosen(task.choose(task.dev, outputs)).review(task.dev, outputs):
        expected, predicted = record["expected"], record["predicted"]
        assert record["score"] == (0 if task.name == "regression" else 1)
        assert predicted in (expected or [""]) if task.name == "korquad" else predicted == expected


def with_holdout(task: Task[Any], fraction: float) -> Task[Any]:
    values = task.config.model_dump(mode="json")
    values["data"]["holdout_fraction"] = fraction
    return type(task)(parse_train_config(values), cache=task._cache)


def test_the_holdout_is_a_part_of_dev_that_nothing_else_sees(task: Task[Any]) -> None:
    parted = with_holdout(task, 0.4)
    assert task.holdout.items == 0 and parted.dev.items + parted.holdout.items == task.dev.items
    assert 0.2 <= parted.holdout.items / task.dev.items <= 0.6
    assert np.array_equal(parted._split["train"], task._split["train"])
    parts = [set(parted._split[name].tolist()) for name in ("dev", "holdout")]
    assert parts[0] | parts[1] == set(task._split["dev"].tolist()) and not parts[0] & parts[1]
    if task.name == "korquad":  # by whole articles
        assert not set(parted.dev.clusters) & set(parted.holdout.clusters)
    assert np.array_equal(parted._split["holdout"], with_holdout(task, 0.4)._split["holdout"])


def test_pseudo_values_have_the_metric_as_their_mean(task: Task[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    metric = "eval/accuracy" if isinstance(task, LeastCertain) else task.objective.metric
    outputs = predict(task.build_model(), task, task.dev, LocalRuntime(device=torch.device("cpu")))
    found = pseudo_values(task, task.dev, outputs, metric)
    parts = len(np.unique(task.dev.clusters))
    assert found.shape == (min(parts, 50),) and found.mean() == pytest.approx(task.score(task.dev, outputs)[metric])
    monkeypatch.setattr(type(task), "item_scores", lambda *_: None)  # all parts scored again
    assert pseudo_values(task, task.dev, outputs, metric) == pytest.approx(found)
    some = np.arange(0, task.dev.items, 2)
    assert np.array_equal(task.dev.take(some).lengths, task.dev.lengths[task.dev.rows_of(some)])


def test_the_loop_trains_it(task: Task[Any]) -> None:
    reports: list[Report] = []
    train(task.config, task, LocalRuntime(device=torch.device("cpu"), on_report=reports.append))
    assert [report.progress for report in reports] == [50, 100]
    assert all(task.objective.metric in report.metrics for report in reports)


def test_its_folds_hold_out_each_item_once(task: Task[Any]) -> None:
    values = task.config.model_dump(mode="json", exclude={"data": {"dev_fraction"}})
    config = parse_train_config(values | {"data": values["data"] | {"folds": 3}})
    folds = type(task)(config, cache=task._cache).folds()
    splits = [fold._split for fold in folds]
    held_out = np.concatenate([split["dev"] for split in splits])
    assert sorted(held_out.tolist()) == list(range(len(held_out))) and len(folds) == 3
    for split in splits:
        assert not np.isin(split["train"], split["dev"]).any() and len(split["train"]) > len(split["dev"]) > 0
    assert [fold.with_chosen({}).fold for fold in folds] == [0, 1, 2] and task.folds() == [task]


def test_its_config_comes_back_from_json(task: Task[Any]) -> None:
    again = parse_train_config(task.config.model_dump(mode="json"))
    assert again == task.config and type(again.data) is task.spec.Data and type(again.model) is task.spec.Model
    assert task_class(task.name) is type(task)


def test_its_texts_are_those_that_leaks_and_unknown_pieces_are_counted_in(task: Task[Any]) -> None:
    splits = task.texts_of_splits(task.data.train)
    assert all(rows for kinds in splits.values() for rows in kinds.values()) and len(splits) == 3
    leaks = task.leaks(task.data.train)
    if task.name != "korquad":  # which counts questions on contexts
        assert leaks == Task.leaks(task, task.data.train)
    assert leaks["dev"].found <= leaks["dev"].total and leaks["test"].found > 0
    items = np.array([1, 0])
    for purpose in ("training", "scoring"):
        some = task.texts(task.data.train, purpose, items)
        assert {kind: len(rows) for kind, rows in some.items()} in (
            {"text": 2},
            {"pair": 2},
            {"context": 1, "question": 2},
        )
    batch = task.train.batch(np.arange(len(task.train)))
    ids = [
        number
        for number in batch.inputs["input_ids"].tolist()
        if number not in (task.tokenizer.cls_id, task.tokenizer.sep_id)
    ]
    assert task.unknown_rate() == pytest.approx(ids.count(task.tokenizer.unk_id) / len(ids))
    assert 0.0 <= task.unknown_rate(3) < 1.0 and task.few_labels() == {}
    assert task.shares.keys() <= set(task.spec.metrics)
    for metric, whole in task.shares.items():
        chance = task.chance(task.dev, metric)
        assert chance is not None and 0 <= chance.value <= whole


def test_rows_in_memory_get_the_answers_of_the_file(task: Task[Any]) -> None:
    runtime = LocalRuntime(device=torch.device("cpu"))
    torch.manual_seed(0)
    predictor = Predictor(Pretrained(task, task.build_model()), device="cpu")
    (inputs,) = task.input_parts(task.data.train)
    outputs = predict(predictor.model, task, inputs.examples, runtime)
    wanted = task.answers(inputs.ids, inputs.examples, outputs)
    file = task.read(task.data.train)
    review = task.review(file, predict(predictor.model, task, file, runtime), task.data.train)
    texts = {record["id"]: {name: record[name] for name in predictor.columns} for record in review}
    rows = [texts[one] | {"another column": 1} for one in inputs.ids]
    assert [{"id": one} | answer for one, answer in zip(inputs.ids, predictor.predict(rows), strict=True)] == wanted
    types = {"id": str} | task.answer_types
    for answer in wanted:
        assert list(answer) == list(types)
        assert all(
            TypeAdapter(types[name]).validate_python(value, strict=True) == value for name, value in answer.items()
        )
    for row, answer in zip(rows, wanted, strict=True):
        found_in: Any = answer.get("entities", [answer] if "start" in answer else [])
        for found in found_in:
            text = found["text" if "text" in found else "prediction_text"]
            assert row[predictor.columns[0]][found["start"] : found["end"]] == text
    for name in predictor.columns:
        lacking = {**rows[0], name: None}
        assert predictor.problem(rows[0]) is None and "missing" in str(predictor.problem(lacking))
        for bad in (1, "", " \t", "\0", "\ud800", ["가"]):
            assert predictor.problem({**rows[0], name: bad})
        with pytest.raises(InputError, match=rf"row 3: .*{name}.*missing|row 3: missing {name}"):
            predictor.predict([*rows[:2], lacking])
    assert predictor.predict([]) == []
