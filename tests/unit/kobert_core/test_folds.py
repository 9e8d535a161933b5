"""A run over folds: each is a run of its own, their mean is what it reports, and it goes on from anywhere."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kobert_core.checkpoint import WEIGHTS, load_weights
from kobert_core.folds import FOLDS, train_folds
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.tasks.text_classification.task import Nsmc
from kobert_core.training import train
from tests.fixtures import questions
from tests.fixtures.tiny import tiny_config

CONFIG = tiny_config(
    data={"folds": 3, "max_train_examples": 32, "max_dev_examples": 24},
    optim={"batch_size": 8},
    train={"eval_percent": 50, "checkpoint_interval": 1e-9},
)
CPU = torch.device("cpu")


class Killed(BaseException):
    pass


class Cut(LocalRuntime):
    """Ends a run at the n-th time that it is asked or told something: it stops, or dies at once."""

    def __init__(self, left: int, *, dies: bool, **fields: Any) -> None:
        super().__init__(device=CPU, **fields)
        self.left, self.dies = left, dies

    def count(self) -> bool:
        self.left -= 1
        if self.left < 0 and self.dies:
            raise Killed
        return self.left < 0

    def should_stop(self) -> bool:
        return self.count()

    def report(self, report: Report) -> bool:
        return super().report(report) and not self.count()


def steady(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "train/examples_per_second"}


def same(report: Report) -> Report:
    """A report without what is another one in a run that was cut."""
    name = report.checkpoint and Path(report.checkpoint).name
    return replace(report, metrics=steady(report.metrics), checkpoint=name)


def run(cache: Path, runtime: LocalRuntime, evaluated: Callable[[], object] = lambda: None) -> list[Report]:
    """What a run, or a part of it, has reported."""
    reports: list[Report] = []
    runtime.on_report = lambda report: reports.append(same(report))
    with contextlib.suppress(Killed):
        train_folds(CONFIG, Nsmc(CONFIG, cache=cache), runtime, on_evaluation=lambda fold, report: evaluated())
    return reports


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Report], Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(cache, LocalRuntime(device=CPU, checkpoints=folder)), folder


def test_a_fold_is_a_run_of_its_own_and_the_mean_is_reported(
    cache: Path, tmp_path: Path, undisturbed: tuple[list[Report], Path]
) -> None:
    alone: list[list[Report]] = []
    for fold in Nsmc(CONFIG, cache=cache).folds():
        heard: list[Report] = []
        folder = tmp_path / str(fold.fold)
        train(CONFIG, fold, LocalRuntime(device=CPU, checkpoints=folder, on_report=heard.append))
        alone.append(heard)
    best = [max(heard, key=lambda report: report.metrics["eval/accuracy"]) for heard in alone]
    reports, kept = undisturbed
    assert [report.progress for report in reports] == [33, 66, 100]
    for count, report in enumerate(reports, start=1):
        scores = [steady(each.metrics) for each in best[:count]]
        means = {name: np.mean([metrics[name] for metrics in scores]) for name in scores[0]}
        spread = np.std([metrics["eval/accuracy"] for metrics in scores])
        assert report.metrics == pytest.approx(means | {"folds/std": spread}, rel=1e-12)
        assert report.step == sum(heard[-1].step for heard in alone[:count]) and report.is_best
    assert {report.checkpoint for report in reports} == {Path(best[0].checkpoint or "").name}
    assert sorted(file.name for file in kept.iterdir()) == [FOLDS, Path(best[0].checkpoint or "").name]
    weights, expected = (
        load_weights(kept / (reports[-1].checkpoint or "")),
        load_weights(Path(best[0].checkpoint or "")),
    )
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_a_run_without_checkpoints_comes_to_the_same(cache: Path, undisturbed: tuple[list[Report], Path]) -> None:
    reports = run(cache, LocalRuntime(device=CPU))
    assert reports == [replace(report, checkpoint=None) for report in undisturbed[0]]


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "stops"])
def test_a_run_that_is_cut_anywhere_goes_on_bit_for_bit(
    cache: Path, tmp_path: Path, dies: bool, undisturbed: tuple[list[Report], Path]
) -> None:
    """Within a fold, between two, at an evaluation and at a report; and again and again."""
    whole, kept = undisturbed
    weights = (kept / (whole[-1].checkpoint or "") / WEIGHTS).read_bytes()

    def lives(folder: Path, *events: int) -> int:
        """Begin a run that lives for so many events, then take it up for the next ones, then to its end."""
        heard = dict[int, Report]()
        for left in (*events, 1000):
            runtime = Cut(left, dies=dies, checkpoints=folder, resume=True)
            torch.manual_seed(left)
            heard |= {report.progress: report for report in run(cache, runtime, runtime.count)}
        assert list(heard.values()) == whole
        assert (folder / (whole[-1].checkpoint or "") / WEIGHTS).read_bytes() == weights
        assert sorted(file.name for file in folder.iterdir()) == sorted(file.name for file in kept.iterdir())
        return 1000 - runtime.left

    every = lives(tmp_path / "whole")
    assert every > 20
    for events in range(0, every, 2 if dies else 5):
        lives(tmp_path / str(events), events)
    lives(tmp_path / "again", *[4] * 20)


@pytest.mark.parametrize("damage", ["{}", "[1]", '{"finished": [], "best": 3}', "{"])
def test_folds_whose_record_is_damaged_are_trained_again(
    cache: Path, tmp_path: Path, damage: str, undisturbed: tuple[list[Report], Path], caplog: pytest.LogCaptureFixture
) -> None:
    cut = Cut(12, dies=True, checkpoints=tmp_path)
    assert [report.progress for report in run(cache, cut)] == [33, 66]
    (tmp_path / FOLDS).write_text(damage, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        reports = run(cache, LocalRuntime(device=CPU, checkpoints=tmp_path, resume=True))
    assert reports == undisturbed[0] and "passed over" in caplog.text


def test_what_is_chosen_on_dev_is_that_of_the_weights_that_are_kept(cache: Path, tmp_path: Path) -> None:
    """The threshold of questions without an answer belongs to the first fold's model."""
    file = questions.write(tmp_path / "train.json", questions.articles(0, 6, every=5))
    values = questions.config_of(file).model_dump(mode="json")
    values["data"] |= {"folds": 2}
    del values["data"]["dev_fraction"]
    config = parse_train_config(values)
    task = task_class(config.task)(config, cache=cache)
    alone: list[Report] = []
    train(config, task, LocalRuntime(device=CPU, on_report=alone.append))
    reports: list[Report] = []
    train_folds(config, task, LocalRuntime(device=CPU, on_report=reports.append))
    best = max(alone, key=lambda report: report.metrics[task.objective.metric])
    assert reports[-1].metrics["eval/null_threshold"] == best.metrics["eval/null_threshold"]
    assert reports[-1].metrics["eval/f1"] != best.metrics["eval/f1"]
