"""Killed drivers, broken files, absent and sick servers, full disks: nothing is lost or doubled."""

from __future__ import annotations

import http.server
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kobert_core.errors import InputError
from tests.fixtures.tracking import client_of, closed_port, history, open_tracker, report_sweep, runs_of, spool_of
from tuning.tracking import default_tracking_uri, send_spool
from tuning.tracking.mlflow_store import MlflowStore

ROOT = Path(__file__).resolve().parents[4]


def test_a_torn_last_line_is_cut_off(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = open_tracker(output)
    tracker.log_metrics("0", {"loss": 1.0}, step=1)
    assert tracker.close(60) == 0
    with open(spool_of(output), "ab") as file:
        file.write(b'{"kind":"metrics","time":1,"trial":"0","st')

    tracker = open_tracker(output)
    assert "torn" in caplog.text
    tracker.log_metrics("0", {"loss": 2.0}, step=2)
    assert tracker.close(60) == 0 == tracker.refused
    assert [point[:2] for point in history(output, runs_of(output)["first/00"], "loss")] == [
        (1, 1.0),
        (2, 2.0),
    ]


def test_a_spool_whose_header_was_torn_begins_anew(output: Path) -> None:
    spool_of(output).parent.mkdir()
    spool_of(output).write_bytes(b'{"kind":"spool","ver')
    tracker = open_tracker(output)
    tracker.start_sweep(params={}, tags={})
    assert tracker.close(60) == 0
    assert list(runs_of(output)) == ["first"]


def test_the_end_waits_while_the_store_takes_records(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = open_tracker(output)
    tracker.start_sweep(params={}, tags={})
    assert tracker.flush(60) == 0
    start_run = MlflowStore.start_run

    def slowly(*arguments: Any, **settings: Any) -> None:
        time.sleep(1)
        start_run(*arguments, **settings)

    monkeypatch.setattr(MlflowStore, "start_run", slowly)
    for trial in range(8):
        tracker.start_trial(str(trial), params={}, tags={})
    assert tracker.close(6) == 0
    assert len(runs_of(output)) == 9


def test_what_mlflow_refuses_goes_to_the_dead_letters(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = open_tracker(output)
    tracker.start_trial("0", params={}, tags={})
    assert tracker.flush(60) == 0
    client_of(output).log_param(runs_of(output)["first/00"].info.run_id, "taken", "1")
    tracker.start_trial("0", params={"good": 1, "taken": 2}, tags={"good": "1"})
    for step in range(20):
        tracker.log_metrics("0", {"loss": 1.0}, step=step)
    tracker.log_artifact(output / "missing.csv")
    tracker.end_trial("0", status="FINISHED", tags={"last": "1"})
    assert tracker.close(60) == 0
    with pytest.raises(ValueError, match="closed"):
        tracker.start_sweep(params={}, tags={})
    spool = spool_of(output)
    with open(spool, "ab") as file:
        file.write(b'not json\r\n{"kind":"metrics"}\n\xff\n')
    again = open_tracker(output)
    assert again.close(60) == 0

    assert (tracker.refused, again.refused) == (2, 3)
    letters = [json.loads(line) for line in Path(f"{spool}.dead.jsonl").read_text("utf-8").splitlines()]
    assert len(letters) == 5
    assert letters[0]["record"]["refused"] == ["taken", "2"]
    assert letters[1]["record"]["path"].endswith("missing.csv")
    assert all(letter["reason"] for letter in letters)
    assert caplog.text.count("refuses a record for good") == 2, "once a process, whatever the number"
    run = runs_of(output)["first/00"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"good": "1", "taken": "1"}
    assert (run.data.tags["good"], run.data.tags["last"]) == ("1", "1")
    assert len(history(output, run, "loss")) == 20


def test_a_server_that_is_not_there_is_one_warning(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"http://user:geheim@127.0.0.1:{closed_port()}"
    tracker = open_tracker(output, uri=uri)
    report_sweep(tracker, output)
    started = time.monotonic()
    left = tracker.flush(4)
    assert time.monotonic() - started < 30
    assert left == len(spool_of(output).read_text("utf-8").splitlines())
    assert tracker.close(1) == left
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "cannot send to MLflow at http://***@127.0.0.1" in warnings[0].getMessage()
    assert "geheim" not in caplog.text

    result = send_spool(spool_of(output), uri=uri, attempts=1)
    assert (result.sent, result.left) == (0, left)
    assert result.reason and "geheim" not in result.reason
    # To another store it goes from the beginning.
    assert send_spool(spool_of(output), uri=default_tracking_uri(output)).sent == left
    assert len(runs_of(output)) == 5
    for file in spool_of(output).parent.iterdir():
        assert "geheim" not in file.read_text("utf-8")


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_a_sick_or_wrong_server_refuses_nothing_for_good(output: Path, status: int) -> None:
    class Sick(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>no</html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sick) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracker = open_tracker(output, uri=f"http://127.0.0.1:{server.server_port}")
        tracker.start_sweep(params={}, tags={})
        assert tracker.close(2) == 2
        server.shutdown()
    assert tracker.refused == 0


def test_a_killed_driver_loses_nothing(output: Path) -> None:
    code = f"""
        import sys, time
        from pathlib import Path
        from tuning.tracking import Tracker
        tracker = Tracker(spool=Path({str(spool_of(output))!r}), uri={default_tracking_uri(output)!r},
                          experiment="실험", sweep="first")
        tracker.start_trial("0", params={{}}, tags={{}})
        for step in range(100_000):
            tracker.log_metrics("0", {{"loss": float(step)}}, step=step)
            print(step, flush=True)
            time.sleep(0.0005)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    deadline, last = time.monotonic() + 3, -1
    while time.monotonic() < deadline:
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    last = max([last, *(int(line) for line in process.stdout.read().splitlines())])
    process.wait()

    tracker = open_tracker(output)
    tracker.log_metrics("0", {"loss": -1.0}, step=0)
    tracker.log_metrics("0", {"loss": -1.0}, step=1_000_000)
    assert tracker.close(60) == 0
    points = history(output, runs_of(output)["first/00"], "loss")
    written = [point[0] for point in points[:-1]]
    assert written == list(range(len(written)))
    assert len(written) >= last + 1
    assert points[0][1] == 0.0 and points[-1][:2] == (1_000_000, -1.0)


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("file_size_limit")
def test_a_full_disk_costs_no_record(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    # The system's limit on the size of a file refuses a write in its middle, as a full disk does.
    tracker = open_tracker(output, uri=f"http://127.0.0.1:{closed_port()}")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = spool_of(output).stat().st_size + 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    for step in range(50):
        tracker.log_metrics("0", {"loss": float(step)}, step=step)
    assert spool_of(output).stat().st_size == room
    assert tracker.unwritten == 51 - spool_of(output).read_bytes().count(b"\n")  # one is the header
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    tracker.end_trial("0", status="FINISHED", tags={})
    assert caplog.text.count("cannot be written") == 1
    assert (tracker.close(1), tracker.unwritten) == (52, 0)
    records = [json.loads(line) for line in spool_of(output).read_text("utf-8").splitlines()]
    assert [record["step"] for record in records if record["kind"] == "metrics"] == list(range(50))


@pytest.mark.usefixtures("file_size_limit")
def test_a_disk_without_room_for_a_header_is_told(output: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    with pytest.raises(InputError, match="cannot be written"):
        open_tracker(output)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert open_tracker(output).close(60) == 0


def test_a_slow_disk_keeps_no_report_waiting(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, sync_to_disk, sizes = threading.Event(), os.fdatasync, list[int]()

    def slow(fd: int) -> None:
        answered.wait(60)
        sync_to_disk(fd)
        sizes.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fdatasync", slow)
    with socket.create_server(("127.0.0.1", 0)) as hung:  # takes connections, and never answers
        tracker = open_tracker(output, uri=f"http://127.0.0.1:{hung.getsockname()[1]}")
        begin = time.monotonic()
        tracker.start_trial("0", params={}, tags={})
        tracker.log_metrics("0", {"loss": 1.0}, step=1)
        tracker.end_trial("0", status="FINISHED", tags={})
        assert time.monotonic() - begin < 30
        answered.set()
        while spool_of(output).stat().st_size not in sizes:  # on the disk, though nothing can be sent
            assert time.monotonic() - begin < 60
            time.sleep(0.01)
        assert tracker.close(0.1) == 4


def test_a_spool_has_one_writer(output: Path, tmp_path: Path) -> None:
    tracker = open_tracker(output)
    with pytest.raises(InputError, match="in use"):
        send_spool(spool_of(output), uri=default_tracking_uri(output))
    assert tracker.close(60) == 0
    assert send_spool(spool_of(output), uri=default_tracking_uri(output)).left == 0
    with pytest.raises(InputError, match="no tracking spool"):
        send_spool(tmp_path / "missing.jsonl", uri=default_tracking_uri(output))
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="not a tracking spool"):
        send_spool(strange, uri=default_tracking_uri(output))


@pytest.mark.parametrize("state", ["", "{}", "[]", '{"offset": 5}', "\x00"])
def test_a_broken_state_file_means_sending_again(output: Path, state: str) -> None:
    tracker = open_tracker(output)
    tracker.log_metrics("0", {"loss": 1.0}, step=1)
    assert tracker.close(60) == 0
    spool_of(output).with_name("tracking.jsonl.state.json").write_text(state)
    tracker = open_tracker(output)
    assert tracker.close(60) == 0
    assert len(history(output, runs_of(output)["first/00"], "loss")) == 1
