"""`kobert-tune sync`: a sweep whose driver is gone, with records that MLflow does not have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kobert_core.errors import InputError
from tests.fixtures.sweeps import QUICKSTART
from tests.fixtures.tracking import client_of, closed_port, history, open_tracker, runs_of, spool_of
from tuning.cli.app import app
from tuning.study import dump_study, load_study
from tuning.sweep.sync import sync_sweep
from tuning.sweep_dir.lock import sweep_lock
from tuning.sweep_dir.trial_status import run_ends
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable


@pytest.fixture
def killed(output: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep with no server, whose driver was killed: no run in its spool has an end."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = load_study(QUICKSTART)
    folder = spool_of(output).parent
    folder.mkdir()
    dump_study(study, folder / "study.yaml")
    tracker = open_tracker(output, uri=f"http://127.0.0.1:{closed_port()}")
    tracker.start_sweep(params={}, tags={})
    table = TrialTable(folder, study.objective)
    states = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAILED": "FAILED", "RUNNING": "KILLED"}
    for number, state in enumerate(states):
        tracker.start_trial(str(number), params={}, tags={})
        tracker.log_metrics(str(number), {"loss": 1.0}, step=1)
        table.put(TrialRecord(number, state, {}, reason="a\nNaN" if state == "FAILED" else None))  # type: ignore[arg-type]
    assert tracker.close(0.1) > 0
    return folder


def test_runs_left_open_end_as_the_ledger_says_or_interrupted(killed: Path, output: Path) -> None:
    records = [json.loads(line) for line in spool_of(output).read_text("utf-8").splitlines()]
    done = CliRunner().invoke(app, ["sync", str(killed), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["sent"], found["left"], found["refused"]) == (len(records) + 5, 0, 0)

    runs = runs_of(output)
    assert {name: run.info.status for name, run in runs.items()} == {
        "first": "KILLED",
        "first/00": "FINISHED",
        "first/01": "KILLED",
        "first/02": "FAILED",
        "first/03": "KILLED",
    }
    assert runs["first/01"].data.tags["pruned"] == runs["first/03"].data.tags["interrupted"] == "true"
    assert runs["first/02"].data.tags["reason"] == "NaN"
    assert {run.info.end_time for run in runs.values()} == {records[-1]["time"]}, (
        "as long as the driver is known to live"
    )
    assert CliRunner().invoke(app, ["sync", str(killed)]).stdout == f"{killed}: 0 records sent\n"


def test_a_resumed_sweep_takes_its_runs_up_again(killed: Path, output: Path) -> None:
    assert sync_sweep(killed).left == 0
    tracker = open_tracker(output)
    tracker.end_left_open(run_ends(TrialTable(killed, load_study(QUICKSTART).objective)))
    tracker.start_sweep(params={}, tags={})
    tracker.start_trial("3", params={}, tags={})
    tracker.log_metrics("3", {"loss": 2.0}, step=1)
    tracker.log_metrics("3", {"loss": 2.0}, step=2)
    tracker.end_trial("3", status="FINISHED", tags={})
    tracker.end_sweep(status="FINISHED")
    assert tracker.close(60) == 0 == tracker.refused
    runs = runs_of(output)
    assert {runs[name].info.status for name in ("first", "first/00", "first/03")} == {"FINISHED"}
    assert not {"interrupted", "pruned", "reason"} & runs["first/03"].data.tags.keys()
    assert [point[:2] for point in history(output, runs["first/03"], "loss")] == [(1, 1.0), (2, 2.0)]


def test_a_resume_ends_what_it_will_not_run_again(killed: Path, output: Path) -> None:
    tracker = open_tracker(output)
    tracker.end_left_open(run_ends(TrialTable(killed, load_study(QUICKSTART).objective)))
    assert tracker.close(60) == 0
    states = [runs_of(output)[f"first/{number:02d}"].info.status for number in range(4)]
    assert states == ["FINISHED", "KILLED", "FAILED", "RUNNING"]


def test_a_broken_ledger_keeps_nothing_back(killed: Path, output: Path) -> None:
    (killed / "trials.json").write_text("[")
    assert sync_sweep(killed).left == 0
    assert {run.info.status for run in runs_of(output).values()} == {"KILLED"}


def test_what_is_left_or_refused_is_told(killed: Path, output: Path) -> None:
    nowhere = CliRunner().invoke(app, ["sync", str(killed), "--tracking-uri", f"http://127.0.0.1:{closed_port()}"])
    assert nowhere.exit_code == 1
    assert "0 records sent, 15 left ([Errno 111] Connection refused)" in nowhere.stdout
    with open(spool_of(output), "ab") as file:
        file.write(b'{"kind":"metrics"}\n')
    letters = f"{killed / 'tracking.jsonl.dead.jsonl'}"
    for sent in (16, 0):  # it is told until the file is gone
        refused = CliRunner().invoke(app, ["sync", str(killed)])
        assert refused.exit_code == 1
        assert f"{sent} records sent, 1 refused for good, kept in {letters}" in refused.stdout
    assert f"MLflow refused 1 records for good: {letters}" in CliRunner().invoke(app, ["list", str(killed)]).stdout
    assert runs_of(output)["first"].info.status == "KILLED"


def test_a_sweep_that_runs_sends_for_itself(killed: Path, output: Path) -> None:
    with sweep_lock(killed), pytest.raises(InputError, match="another process runs this sweep"):
        sync_sweep(killed)
    assert client_of(output).get_experiment_by_name("실험") is None
