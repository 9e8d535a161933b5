"""What a sweep becomes in a real MLflow store (sqlite)."""

from __future__ import annotations

import getpass
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures.tracking import client_of, dump, history, open_tracker, report_sweep, runs_of, spool_of
from tuning.tracking import DESCRIPTION_TAG, Tracker, default_tracking_uri, send_spool


def test_a_sweep_becomes_a_parent_and_a_child_a_trial(output: Path) -> None:
    before = time.time_ns() // 1_000_000
    tracker = open_tracker(output)
    report_sweep(tracker, output)
    assert tracker.close(60) == 0
    after = time.time_ns() // 1_000_000

    runs = runs_of(output)
    assert {name: run.info.status for name, run in runs.items()} == {
        "first": "FINISHED",
        "first/00": "FINISHED",
        "first/01": "KILLED",
        "first/02": "FAILED",
        "first/03": "FINISHED",
    }
    parent = runs.pop("first")
    assert parent.data.params == {"objective": "eval/accuracy"}
    assert parent.data.tags["study"] == "nsmc"
    (dataset,) = parent.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("nsmc", "ab" * 16)
    assert json.loads(dataset.dataset.profile) == {"num_rows": 150_000, "sha256": "ab" * 32}
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "training"}
    for trial, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["kobert_tune.trial"] == str(int(trial.removeprefix("first/")))
        assert run.data.tags["kobert_tune.sweep_id"] == parent.data.tags["kobert_tune.sweep_id"]
        assert run.data.params == {"optim.backbone_lr": "1e-05", "data": "{'a': [1]}"}
        assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == ["ab" * 16]
        points = history(output, run, "eval/accuracy")
        assert [point[:2] for point in points] == [(10, 0.1), (20, 0.2), (30, 0.3)]
        times = [before, run.info.start_time, *(point[2] for point in points), run.info.end_time, after]
        assert times == sorted(times)
    assert runs["first/01"].data.tags["pruned"] == "true"
    assert runs["first/02"].data.tags["reason"] == "NaN: 나쁨"
    for run in (parent, *runs.values()):
        assert run.info.user_id == run.data.tags["mlflow.user"] == getpass.getuser()
        assert (run.data.tags["mlflow.source.name"], run.data.tags["mlflow.source.type"]) == ("kobert-tune", "LOCAL")
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        assert run.data.tags.get("mlflow.source.git.commit", "") == commit


def test_artifacts_and_the_winner_lie_beside_the_store(output: Path) -> None:
    tracker = open_tracker(output)
    report_sweep(tracker, output)
    assert tracker.close(60) == 0
    client, runs = client_of(output), runs_of(output)
    (found,) = client.list_artifacts(runs["first"].info.run_id, "study")
    assert found.path == "study/config.json"
    (model,) = client.search_logged_models([runs["first"].info.experiment_id])
    assert (model.name, str(model.status), model.source_run_id) == (
        "winner",
        "READY",
        runs["first/00"].info.run_id,
    )
    assert model.params == {"lr": "1e-05"}
    assert [(metric.key, metric.value) for metric in model.metrics] == [("test/accuracy", 0.9)]
    assert runs["first"].data.metrics == {"test/accuracy": 0.9}
    assert [file.name for file in (output / "mlartifacts").rglob("config.json")] == ["config.json"] * 2


def test_the_load_of_the_machine_is_there_where_it_was_asked_for(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.tracking.system_metrics.SECONDS", 1.0)
    uri = default_tracking_uri(output)
    tracker = Tracker(spool=spool_of(output), uri=uri, experiment="실험", sweep="first", system_metrics=True)
    tracker.start_sweep(params={}, tags={})
    deadline = time.monotonic() + 60
    while b"system/" not in spool_of(output).read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    tracker.end_sweep(status="FINISHED")
    assert tracker.close(60) == 0 == tracker.refused
    (run,) = runs_of(output).values()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert {name.partition("/")[0] for name in run.data.metrics} == {"system"}


def test_a_name_is_of_one_run_of_an_experiment(output: Path) -> None:
    tracker = open_tracker(output)
    report_sweep(tracker, output)
    tracker.start_trial("confirm/3/1001", params={"train.seed": 1001}, tags={"state": "RUNNING"})
    tracker.log_metrics("confirm/3/1001", {"eval/accuracy": 0.5}, step=10)
    tracker.end_trial("confirm/3/1001", status="FINISHED", tags={"state": "COMPLETE"})
    assert tracker.close(60) == 0 == tracker.refused
    (output / "elsewhere").mkdir()
    uri = default_tracking_uri(output)  # the same name, of a sweep in another folder
    other = Tracker(spool=output / "elsewhere" / "s.jsonl", uri=uri, experiment="실험", sweep="first")
    other.start_sweep(params={}, tags={})
    other.start_trial("12", params={}, tags={})
    assert other.close(60) == 0 == other.refused
    sweep_id = json.loads((output / "elsewhere" / "s.jsonl").read_text("utf-8").splitlines()[0])["sweep_id"]
    second = f"first-{sweep_id[:4]}"
    trials = [f"first/{number:02d}" for number in range(4)]
    assert sorted(runs_of(output)) == sorted(["first", *trials, "first/confirm/3/1001", second, f"{second}/12"])


def test_a_sweep_with_names_of_an_earlier_version_goes_on(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_trial("0", params={"lr": 1}, tags={})
    assert tracker.close(60) == 0
    client, run = client_of(output), runs_of(output)["first/00"]
    client.update_run(run.info.run_id, name="trial-0")
    tracker = open_tracker(output)
    for trial in "01":
        tracker.start_trial(trial, params={"lr": 1}, tags={"state": "RUNNING"})
    assert tracker.close(60) == 0 == tracker.refused
    assert runs_of(output).keys() == {"first", "trial-0", "first/01"}
    assert runs_of(output)["trial-0"].info.run_id == run.info.run_id


def test_a_description_that_somebody_edits_is_theirs(output: Path) -> None:
    tracker = open_tracker(output)
    for trial in "01":
        tracker.start_trial(trial, params={}, tags={DESCRIPTION_TAG: "running"})
    assert tracker.flush(60) == 0
    client_of(output).set_tag(runs_of(output)["first/01"].info.run_id, DESCRIPTION_TAG, "look at this one")
    for trial in "01":
        tracker.end_trial(trial, status="FINISHED", tags={DESCRIPTION_TAG: "ended", "state": "COMPLETE"})
    assert tracker.close(60) == 0 == tracker.refused
    tags = [runs_of(output)[f"first/0{trial}"].data.tags for trial in "01"]
    assert [each[DESCRIPTION_TAG] for each in tags] == ["ended", "look at this one"]
    assert [each["state"] for each in tags] == ["COMPLETE", "COMPLETE"]


def test_sending_everything_again_changes_nothing(output: Path) -> None:
    tracker = open_tracker(output)
    report_sweep(tracker, output)
    assert tracker.close(60) == 0
    first = dump(output)
    spool_of(output).with_name("tracking.jsonl.state.json").unlink()

    result = send_spool(spool_of(output), uri=default_tracking_uri(output))

    assert (result.left, result.refused) == (0, 0)
    assert result.sent == len(spool_of(output).read_text("utf-8").splitlines())
    assert dump(output) == first
    assert len(client_of(output).search_logged_models([runs_of(output)["first"].info.experiment_id])) == 1


def test_a_resumed_trial_repeats_its_steps_and_changes_its_params(output: Path) -> None:
    for value in (0.1, 0.9):
        tracker = open_tracker(output)
        tracker.start_sweep(params={"trials": value}, tags={})
        tracker.start_trial("7", params={"lr": value, f"only-{value}": 1}, tags={})
        tracker.log_metrics("7", {"loss": value}, step=1)
        tracker.log_metrics("7", {"loss": value, f"new-{value}": value}, step=2)
        tracker.log_metrics("7", {"loss": 0.5}, step=2)
        assert tracker.close(60) == 0 == tracker.refused
        assert runs_of(output)["first/07"].info.status == "RUNNING"
    tracker = open_tracker(output)
    tracker.end_trial("7", status="FAILED", tags={})
    tracker.start_trial("7", params={}, tags={})
    tracker.end_trial("7", status="FINISHED", tags={})
    assert tracker.close(60) == 0
    run = runs_of(output)["first/07"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "only-0.1": "1", "only-0.9": "1"}
    assert [point[:2] for point in history(output, run, "loss")] == [(1, 0.1), (2, 0.1)]
    assert [point[:2] for point in history(output, run, "new-0.9")] == [(2, 0.9)]


def test_nan_and_infinity_arrive(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.log_metrics("0", {"nan": math.nan, "inf": math.inf, "ninf": -math.inf, "whole": 3}, step=0)
    assert tracker.close(60) == 0 == tracker.refused
    metrics = runs_of(output)["first/00"].data.metrics
    assert math.isnan(metrics["nan"])
    assert (metrics["inf"], metrics["ninf"]) == (sys.float_info.max, -sys.float_info.max)
    assert metrics["whole"] == 3
    for line in spool_of(output).read_text("utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_thousands_of_metrics_and_hundreds_of_params_fit_into_requests(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_trial("0", params={f"p{i}": i for i in range(250)}, tags={f"t{i}": "x" for i in range(150)})
    tracker.log_metrics("0", {f"m{i}": float(i) for i in range(2300)}, step=1)
    for step in range(1500):
        tracker.log_metrics("0", {"loss": float(step)}, step=step)
    assert tracker.close(60) == 0 == tracker.refused
    run = runs_of(output)["first/00"]
    assert len(run.data.params) == 250
    assert len(run.data.metrics) == 2301
    assert [point[0] for point in history(output, run, "loss")] == list(range(1500))


def test_a_run_deleted_in_the_page_does_not_stop_the_others(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_trial("0", params={}, tags={})
    tracker.start_trial("1", params={}, tags={})
    assert tracker.flush(60) == 0
    client_of(output).delete_run(runs_of(output)["first/00"].info.run_id)
    tracker.log_metrics("0", {"loss": 1.0}, step=1)
    tracker.start_trial("0", params={"lr": 1}, tags={})
    tracker.log_metrics("1", {"loss": 1.0}, step=1)
    assert tracker.close(60) == 0
    assert tracker.refused == 2
    assert runs_of(output)["first/01"].data.metrics == {"loss": 1.0}


def test_a_double_that_a_slow_answer_left_is_deleted(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_trial("0", params={"lr": 1}, tags={})
    assert tracker.close(60) == 0
    client, run = client_of(output), runs_of(output)["first/00"]
    client.create_run(run.info.experiment_id, tags=run.data.tags)
    tracker = open_tracker(output)
    tracker.log_metrics("0", {"loss": 1.0}, step=1)
    assert tracker.close(60) == 0
    assert runs_of(output)["first/00"].info.run_id == run.info.run_id


def test_requests_that_took_effect_late_are_undone_at_the_end(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_sweep(params={}, tags={})
    tracker.start_trial("0", params={"lr": 1}, tags={})
    tracker.end_trial("0", status="FINISHED", tags={})
    assert tracker.flush(60) == 0
    client, run = client_of(output), runs_of(output)["first/00"]
    client.update_run(run.info.run_id, status="RUNNING")  # what a server that hung does with a start sent before
    client.create_run(run.info.experiment_id, tags=run.data.tags)
    tracker.end_sweep(status="FINISHED")
    assert tracker.close(60) == 0
    ended = runs_of(output)["first/00"].info
    assert (ended.run_id, ended.status, ended.end_time) == (run.info.run_id, "FINISHED", run.info.end_time)


def test_a_model_that_a_killed_driver_left_pending_is_finished(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_trial("0", params={}, tags={})
    assert tracker.close(60) == 0
    client, run = client_of(output), runs_of(output)["first/00"]
    tags = {key: run.data.tags[key] for key in ("kobert_tune.sweep_id", "kobert_tune.trial")}
    left = client.create_logged_model(run.info.experiment_id, name="winner", source_run_id=run.info.run_id, tags=tags)
    tracker = open_tracker(output)
    report_sweep(tracker, output)
    assert tracker.close(60) == 0
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.model_id, str(model.status)) == (left.model_id, "READY")


def test_a_deleted_experiment_is_restored_with_a_warning(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = client_of(output)
    client.delete_experiment(client.get_experiment_by_name("other").experiment_id)
    tracker = open_tracker(output, experiment="other")
    tracker.start_sweep(params={}, tags={})
    assert tracker.close(60) == 0
    assert "restored" in caplog.text
    assert "first" in runs_of(output, "other")
