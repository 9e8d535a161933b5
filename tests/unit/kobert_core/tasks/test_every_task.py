"""What the loop, a sweep and an export ask of a task, asked of each one that there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kobert_core.config import Objective
from kobert_core.data.batching import filled_shape
from kobert_core.evaluation import evaluate_on_dev, predict
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import SPECS, parse_train_config, task_class
from kobert_core.tasks.base import Task
from kobert_core.tasks.text_classification.config import NSMC
from kobert_core.tasks.text_classification.task import Nsmc
from kobert_core.training import train
from tests.fixtures import entities, questions
from tests.fixtures.tiny import SIZES, tiny_config

MINIMUM = "eval/least"
REVIEWS = ["정말 좋았다", "별로였다", "다시 보고 싶다", "지루했다", "최고의 영화였던 것 같다", "시간이 아깝다"]


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


def nsmc(folder: Path) -> dict[str, Any]:
    return tiny_config().model_dump(mode="json")


def table(folder: Path, task: str, header: str, rows: list[str], **model: object) -> dict[str, Any]:
    file = folder / "data.tsv"
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    sections = {name: tiny_config().model_dump(mode="json")[name] for name in ("optim", "train")}
    return sections | {
        "task": task,
        "data": {"train": str(file), "max_length": 16, "dev_fraction": 0.25},
        "model": {"init": "random", "config": SIZES, "tokenizer_vocab_size": 100} | model,
    }


def pairs(folder: Path) -> dict[str, Any]:
    rows = [f"{REVIEWS[n % 6]}\t{REVIEWS[n % 5]} {n}\t{n % 3}" for n in range(60)]
    values = table(folder, "classification", "text\tother\tlabel", rows, class_weights="balanced")
    return values | {"data": values["data"] | {"pair_column": "other", "labels": ["0", "1", "2"]}}


def multilabel(folder: Path) -> dict[str, Any]:
    sets = ["", "욕설", "욕설,차별", "차별", "광고, 욕설"]
    rows = [f"{REVIEWS[n % 6]} {n}\t{sets[n % 5]}" for n in range(60)]
    values = table(folder, "multilabel", "text\tlabels", rows, class_weights="balanced")
    return values | {"data": values["data"] | {"labels": ["욕설", "차별", "광고"]}}


def regression(folder: Path) -> dict[str, Any]:
    rows = [f"{REVIEWS[n % 6]} {n}\t{n % 11 / 2}" for n in range(60)]
    return table(folder, "regression", "text\tlabel", rows)


def korquad(folder: Path) -> dict[str, Any]:
    file = questions.write(folder / "train.json", questions.articles(0, 12, every=5))
    return questions.config_of(file).model_dump(mode="json")


def tokens(folder: Path) -> dict[str, Any]:
    return entities.config_of(entities.write(folder / "train.tsv", range(80))).model_dump(mode="json")


@pytest.fixture(params=[nsmc, pairs, multilabel, regression, tokens, korquad, least_certain])
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
