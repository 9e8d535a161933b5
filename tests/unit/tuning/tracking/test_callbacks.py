"""What others than MLflow hear of a sweep, by its spool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tuning.tracking import Callback, Listener, callbacks_named, make_backend, read_reports
from tuning.tracking.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "tracking.jsonl", sweep="첫째", experiment="실험")
    yield opened
    opened.close()


class Hears(Callback):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_trial_start(self, trial: Any, params: Any) -> None:
        self.heard.append(("start", trial, dict(params)))

    def on_report(self, trial: Any, step: int, metrics: Any) -> None:
        self.heard.append(("report", trial, step, dict(metrics)))

    def on_result(self, trial: Any, metrics: Any) -> None:
        self.heard.append(("result", trial, dict(metrics)))

    def on_trial_end(self, trial: Any, state: str) -> None:
        self.heard.append(("end", trial, state))

    def on_sweep_end(self, state: str) -> None:
        self.heard.append(("end", None, state))


def report(spool: Spool, trial: str, step: int, value: float) -> None:
    metrics = {"eval/accuracy": value, "progress": float(step), "best/eval/accuracy": value}
    spool.append("metrics", trial=trial, step=step, metrics=metrics)


def a_trial(spool: Spool) -> None:
    spool.append("start", trial="0", params={"optim.batch_size": "16"}, tags={})
    report(spool, "0", 10, 0.5)
    spool.append("metrics", trial="0", step=20, metrics={"eval/loss": "nan", "progress": 20.0})
    spool.append("metrics", trial="confirm/00", step=0, metrics={"holdout/accuracy": 0.25})
    spool.append("end", trial="0", status="KILLED", tags={"state": "PRUNED"})
    spool.append("end", trial=None, status="FINISHED", tags={})


def test_they_hear_all_of_it_once_and_in_order(spool: Spool) -> None:
    hears, lines = Hears(), list[str]()
    listener = Listener(spool.path, [hears], say=lines.append)
    a_trial(spool)
    listener.close()
    start, first, second, *rest = hears.heard
    assert start == ("start", 0, {"optim.batch_size": "16"})
    assert first == ("report", 0, 10, {"eval/accuracy": 0.5, "progress": 10.0})
    assert second[:3] == ("report", 0, 20) and second[3]["eval/loss"] != second[3]["eval/loss"]
    assert rest == [
        ("result", "confirm/00", {"holdout/accuracy": 0.25}),
        ("end", 0, "PRUNED"),
        ("end", None, "finished"),
    ]
    assert lines == []


def test_a_later_session_goes_on_where_the_one_before_ended(spool: Spool, tmp_path: Path) -> None:
    first, second, third = Hears(), Hears(), Hears()
    a_trial(spool)
    Listener(spool.path, [first], say=pytest.fail, heard=tmp_path / "heard").close()
    report(spool, "0", 10, 0.5)  # a resumed trial reports it again
    report(spool, "0", 30, 0.75)
    listener = Listener(spool.path, [third], say=pytest.fail)  # hears what comes from now on
    Listener(spool.path, [second], say=pytest.fail, heard=tmp_path / "heard").close()
    report(spool, "1", 10, 0.5)
    listener.close()
    assert len(first.heard) == 6
    assert [each[:3] for each in second.heard] == [("report", 0, 30)]
    assert [each[:3] for each in third.heard] == [("report", 1, 10)]


def test_one_that_raises_is_left_out_with_one_line(spool: Spool) -> None:
    hears, lines = Hears(), list[str]()

    def broken(trial: Any, step: int, metrics: Any) -> None:
        raise KeyError(f"no {step}\nof it")

    listener = Listener(spool.path, [broken, hears], say=lines.append)
    a_trial(spool)
    listener.close()
    assert len(lines) == 1 and lines[0].startswith("warning: the callback broken is left out from here on (KeyError: ")
    assert len(hears.heard) == 6


def test_a_torn_line_waits_for_its_rest(spool: Spool) -> None:
    hears = Hears()
    a_trial(spool)
    spool.settle()
    content = spool.path.read_bytes()
    cut = spool.path.with_name("cut.jsonl")
    cut.write_bytes(content[: content.index(b'"end"') - 5])
    listener = Listener(cut, [hears], say=pytest.fail, heard=cut.with_name("heard"))
    cut.write_bytes(content)
    listener.close()
    assert len(hears.heard) == 6


def test_reports_are_read_back_each_once(spool: Spool) -> None:
    a_trial(spool)
    report(spool, "0", 10, 0.75)
    found = [(trial, step, metrics.get("eval/accuracy")) for trial, step, metrics, _ in read_reports(spool.path)]
    assert found == [(0, 10, 0.5), (0, 20, None), ("confirm/00", 0, None)]


def test_those_that_a_study_names_are_made_or_refused() -> None:
    import calendar

    assert callbacks_named(["calendar:isleap"]) == [calendar.isleap]
    with pytest.raises(ValueError, match="`calendar:nothing` cannot be made"):
        callbacks_named(["calendar:nothing"])


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.tracking.backends.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wandb is not installed: pip install 'kobert-tuning\[wandb\]'"):
        make_backend("wandb", tmp_path, project="p", spool=tmp_path / "tracking.jsonl")


@pytest.mark.slow
def test_weights_and_biases_has_a_run_for_each_trial(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    lines = list[str]()
    backend = make_backend("wandb", tmp_path / "wandb", project="실험", spool=spool.path)
    listener = Listener(spool.path, [backend], say=lines.append)
    a_trial(spool)
    spool.append("start", trial="1", params={}, tags={})
    report(spool, "1", 10, 0.5)
    spool.append("end", trial="1", status="FINISHED", tags={"state": "COMPLETE"})
    listener.close(timeout=120)
    assert lines == []
    files = sorted((tmp_path / "wandb" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and all(file.stat().st_size > 0 for file in files)
