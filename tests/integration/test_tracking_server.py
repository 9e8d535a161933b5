"""Tracking against a real `mlflow server` on a real sqlite store, read back through its REST API."""

from __future__ import annotations

import re
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest

from kobert_core.config import Objective
from kobert_core.inference import Predictor
from tests.fixtures.browser import listed_columns, listed_runs, need_browser, page_html, screenshot
from tests.fixtures.mlflow_server import Server
from tests.fixtures.tasks import exported_model, tokens
from tests.fixtures.tracking import report_sweep
from tuning.tracking import Registry, Tracker, default_tracking_uri, logged_model, reach, send_spool
from tuning.tracking.ui import sweep_page

pytestmark = pytest.mark.usefixtures("short_requests")


@pytest.fixture
def open_tracker(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Tracker]:
    experiment = request.node.name
    return lambda: Tracker(spool=tmp_path / "s.jsonl", uri=server.url, experiment=experiment, sweep="sweep")


def test_a_sweep_is_read_back_through_rest(
    server: Server, open_tracker: Callable[[], Tracker], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tracker = open_tracker()
    report_sweep(tracker, tmp_path)
    assert tracker.close(60) == 0 == tracker.refused

    runs = server.runs(request.node.name)
    assert {name: run["info"]["status"] for name, run in runs.items()} == {
        "sweep": "FINISHED",
        "sweep/00": "FINISHED",
        "sweep/01": "KILLED",
        "sweep/02": "FAILED",
        "sweep/03": "FINISHED",
    }
    parent = runs["sweep"]
    assert parent["inputs"]["dataset_inputs"][0]["dataset"]["digest"] == "ab" * 16
    for trial in range(4):
        run = runs[f"sweep/{trial:02d}"]
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        assert tags["mlflow.parentRunId"] == parent["info"]["run_id"]
        params = {param["key"]: param["value"] for param in run["data"]["params"]}
        assert params == {"optim.backbone_lr": "1e-05", "data": "{'a': [1]}"}
        points = server.history(run, "eval/accuracy")
        assert [point[:2] for point in points] == [(10, 0.1), (20, 0.2), (30, 0.3)]
        assert run["info"]["start_time"] <= points[0][2] <= points[-1][2] <= run["info"]["end_time"]
    files = server.get(f"artifacts/list?run_id={parent['info']['run_id']}&path=study")["files"]
    assert [file["path"] for file in files] == ["study/config.json"]

    spool = tmp_path / "s.jsonl"
    spool.with_name("s.jsonl.state.json").unlink()
    assert send_spool(spool, uri=server.url).left == 0
    assert server.runs(request.node.name) == runs
    assert len(server.history(runs["sweep/03"], "eval/accuracy")) == 3
    experiments = [server.experiment_id(request.node.name)]
    assert len(server.post("logged-models/search", experiment_ids=experiments)["models"]) == 1


def test_a_model_is_sent_registered_and_loaded_over_http(
    server: Server, open_tracker: Callable[[], Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    name = "over http"
    model = exported_model(tokens(tmp_path), tmp_path / "model")
    tracker = open_tracker()
    tracker.start_sweep(params={}, tags={})
    tracker.log_winner(model, name="sweep", trial="0", params={}, metrics={}, tags={"task": "tokens"})
    assert tracker.close(60) == 0 == tracker.refused
    winner = {"trial": "0", "params": {}, "metrics": {}, "tags": {"task": "tokens"}}
    model_id = logged_model(tmp_path / "s.jsonl", uri=server.url, model_dir=model, **winner)  # type: ignore[arg-type]
    registry = Registry(name, uri=server.url)
    assert registry.versions() == []
    for _ in range(2):
        assert registry.register(model_id, card="# A card", tags={"task": "tokens"}) == 1
    registry.give("champion", 1, instead_of=None)
    version = server.get(f"registered-models/alias?name={quote(name)}&alias=champion")["model_version"]
    assert (version["description"], version["source"]) == ("# A card", f"models:/{model_id}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    rows = [{"text": "민수는 부산에서 사과를 샀다."}]
    found = mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(pd.DataFrame(rows))
    assert found.to_dict("records") == Predictor.load(model).predict(rows)


@pytest.mark.slow
def test_a_server_killed_again_and_again_loses_and_doubles_nothing(
    server: Server, open_tracker: Callable[[], Tracker], request: pytest.FixtureRequest
) -> None:
    steps, took = 400, []
    tracker = open_tracker()
    tracker.start_sweep(params={}, tags={})
    assert tracker.flush(30) == 0
    for trial in range(6):
        if trial in (3, 5):
            server.start()
            assert tracker.flush(60) == 0
        tracker.start_trial(str(trial), params={"trial": trial}, tags={})
        for step in range(steps):
            if trial in (1, 4) and step == steps // 2:
                server.signal(signal.SIGKILL)
            started = time.perf_counter()
            tracker.log_metrics(str(trial), {"train/loss": 1 / (step + 1), "lr": step / steps}, step=step)
            took.append(time.perf_counter() - started)
            time.sleep(0.002)
        tracker.end_trial(str(trial), status="FINISHED", tags={})
    tracker.end_sweep(status="FINISHED")
    assert tracker.close(60) == 0 == tracker.refused

    took.sort()
    assert took[int(len(took) * 0.99)] < 0.01, "logging waits for the server"
    runs = server.runs(request.node.name)
    assert len(runs) == 7
    assert {run["info"]["status"] for run in runs.values()} == {"FINISHED"}
    for trial in range(6):
        for key, value in (("train/loss", lambda step: 1 / (step + 1)), ("lr", lambda step: step / steps)):
            points = server.history(runs[f"sweep/{trial:02d}"], key)
            assert [point[:2] for point in points] == [(step, value(step)) for step in range(steps)]


@pytest.mark.slow
def test_a_hung_server_leaves_no_double_runs(
    server: Server, open_tracker: Callable[[], Tracker], request: pytest.FixtureRequest
) -> None:
    tracker = open_tracker()
    tracker.start_sweep(params={}, tags={})
    assert tracker.flush(30) == 0
    server.signal(signal.SIGSTOP)
    try:
        # The kernel takes these requests, and the server answers them when nobody waits any more.
        report = time.monotonic()
        for trial in range(3):
            tracker.start_trial(str(trial), params={"trial": trial}, tags={})
            tracker.log_metrics(str(trial), {"loss": 1.0}, step=1)
            tracker.end_trial(str(trial), status="FINISHED", tags={})
        assert time.monotonic() - report < 5
        assert tracker.flush(8) > 0
    finally:
        server.signal(signal.SIGCONT)
    tracker.end_sweep(status="FINISHED")
    assert tracker.close(60) == 0 == tracker.refused
    runs = server.runs(request.node.name)
    assert set(runs) == {"sweep", "sweep/00", "sweep/01", "sweep/02"}
    assert {run["info"]["status"] for run in runs.values()} == {"FINISHED"}


@pytest.mark.slow
def test_the_page_shows_trials_their_states_and_artifacts(tmp_path: Path) -> None:
    # The store of a user without a server: written directly, then looked at. Another sweep is in it.
    need_browser()
    other = Tracker(spool=tmp_path / "o.jsonl", uri=default_tracking_uri(tmp_path), experiment="실험", sweep="other")
    other.log_metrics("0", {"best/eval/accuracy": 1.0}, step=1)
    other.end_trial("0", status="FINISHED", tags={})
    other.end_sweep(status="FINISHED")
    assert other.close(60) == 0
    tracker = Tracker(spool=tmp_path / "s.jsonl", uri=default_tracking_uri(tmp_path), experiment="실험", sweep="sweep")
    report_sweep(tracker, tmp_path)
    for rank, trial in enumerate("3012", 1):
        tracker.log_result(trial, metrics={}, step=30, tags={"rank": str(rank)})
    assert tracker.close(60) == 0
    server = Server(tmp_path)
    server.start()
    try:
        (experiment,) = (
            found["experiment_id"]
            for found in server.post("experiments/search", max_results=10)["experiments"]
            if found["name"] == "실험"
        )
        found = server.post("runs/search", experiment_ids=[experiment])["runs"]
        own = {tag["value"] for run in found for tag in run["data"]["tags"] if run["info"]["run_name"] == "sweep"}
        runs = {
            run["info"]["run_name"]: run["info"]["run_id"]
            for run in found
            if own & {tag["value"] for tag in run["data"]["tags"] if tag["key"] == "kobert_tune.sweep_id"}
        }
        artifact = f"{server.url}/get-artifact?path=study/config.json&run_uuid={runs['sweep']}"
        assert urllib.request.urlopen(artifact, timeout=30).read() == b"{}"

        objective = Objective(metric="eval/accuracy", mode="max")
        page = sweep_page(reach(server.url), server.url, tmp_path / "s.jsonl", objective, ["optim.backbone_lr"])
        assert page is not None
        html = page_html(page)
        assert {"best/eval/accuracy", "optim.backbone_lr", "state", "rank"} <= set(listed_columns(html))
        assert "Request error" not in html and "share key" not in html
        charts = page_html(f"{page}&compareRunsMode=CHART")
        assert "sweep (2)" in re.sub("<[^>]*>", "", charts) and "Parallel Coordinates" in charts
        assert listed_runs(html) == ["sweep/03", "sweep/00", "sweep/01", "sweep/02"]
        for trial, status in (("sweep/00", "Finished"), ("sweep/01", "Killed"), ("sweep/02", "Failed")):
            html = page_html(f"{server.url}/#/experiments/{experiment}/runs/{runs[trial]}")
            assert status in html
            assert ("pruned" in html) == (trial == "sweep/01")
        assert screenshot(page, tmp_path / "runs.png").stat().st_size > 20_000
    finally:
        server.signal(signal.SIGKILL)
