"""Tracking against a real `mlflow server` that is killed, hangs or fails, and on disks that fail."""

from __future__ import annotations

import json
import operator
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from kobert_core.errors import InputError
from tests.drills.conftest import Drill
from tests.fixtures.commands import ROOT, TUNE, environment, tune, tune_forked
from tests.fixtures.disks import fill, make_read_only, small_disk
from tests.fixtures.gateway import Gateway, gateway_to
from tests.fixtures.mlflow_server import Server
from tests.fixtures.reports import Place, Reporter, count_losses, first_times
from tests.fixtures.sweeps import QUICKSTART, records_of, reported_curves, start_sweep, stored_curves
from tests.fixtures.tracking import closed_port
from tuning.study import dump_study, load_study
from tuning.sweep_dir.opening import open_sweep_dir
from tuning.tracking import Tracker, default_tracking_uri

pytestmark = pytest.mark.usefixtures("short_requests")

Fault = Callable[[Server, Gateway], AbstractContextManager[None]]


@pytest.fixture
def gateway(server: Server) -> Iterator[Gateway]:
    with gateway_to(server.port) as gateway:
        yield gateway


@contextmanager
def killed(server: Server, gateway: Gateway) -> Iterator[None]:
    server.signal(signal.SIGKILL)
    yield
    server.start()


@contextmanager
def hung(server: Server, gateway: Gateway) -> Iterator[None]:
    server.signal(signal.SIGSTOP)
    yield
    server.signal(signal.SIGCONT)


@contextmanager
def unavailable(server: Server, gateway: Gateway) -> Iterator[None]:
    with gateway.answering(503):
        yield
    assert gateway.answered > 1, "nobody asked"


@contextmanager
def another_in_its_place(server: Server, gateway: Gateway) -> Iterator[None]:
    # As a cluster's gateway does while a pod starts: nothing that is sent then may count as refused.
    with gateway.answering(404):
        yield
    assert gateway.answered > 1, "nobody asked"


@contextmanager
def locked(server: Server, gateway: Gateway) -> Iterator[None]:
    hold = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], timeout=60); d.execute('BEGIN EXCLUSIVE'); print()"
    command = [sys.executable, "-c", f"{hold}; sys.stdout.flush(); sys.stdin.read()", str(server.folder / "mlflow.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(server.folder / "mlflow.db", timeout=0).execute("SELECT * FROM runs")
        yield
        holder.stdin.close()


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        pytest.param(unavailable, 4, id="503"),
        pytest.param(another_in_its_place, 4, id="404", marks=pytest.mark.slow),
        pytest.param(killed, 60, id="killed", marks=pytest.mark.slow),
        pytest.param(hung, 30, id="hung", marks=pytest.mark.slow),
        pytest.param(locked, 30, id="locked", marks=pytest.mark.slow),
        pytest.param(locked, 30, id="locked, and used without a server", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_fails_for_a_while(
    server: Server,
    gateway: Gateway,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    drill: Drill,
    fault: Fault,
    seconds: int,
) -> None:
    """MLflow's server fails for a while: killed, hung (SIGSTOP), 503, 404 of a gateway, or its database is locked."""
    experiment = request.node.callspec.id.replace(" ", "-")
    drill.title = f"MLflow's server fails for {seconds} s: {request.node.callspec.id}"
    spool = tmp_path / "tracking.jsonl"
    uri = default_tracking_uri(server.folder) if "without" in experiment else gateway.url
    tracker = Tracker(spool=spool, uri=uri, experiment=experiment, sweep="sweep")
    reporter = Reporter(tracker)
    tracker.start_sweep(params={"trials": 5}, tags={})
    for trial in range(2):
        tracker.start_trial(str(trial), params={"trial": trial}, tags={})
    reporter.report(0, range(500), seconds=0.5)
    assert tracker.flush(60) == 0
    reporter.report(1, range(500))
    with fault(server, gateway):
        for trial in (2, 3):
            tracker.start_trial(str(trial), params={"trial": trial}, tags={})
            reporter.report(trial, range(500), seconds=seconds / 4)
            tracker.end_trial(str(trial), status="FINISHED", tags={})
        reporter.report(0, range(400, 1000), seconds=seconds / 4)  # as a trial that went on does
        reporter.report(1, range(400, 1000), seconds=seconds / 4)
    tracker.start_trial("4", params={"trial": 4}, tags={})
    reporter.report(4, range(500))
    for trial in (0, 1, 4):
        tracker.end_trial(str(trial), status="FINISHED", tags={})
    tracker.end_sweep(status="FINISHED")
    drill.lost("records left", tracker.close(120), of=len(spool.read_bytes().splitlines()))
    drill.lost("records refused", tracker.refused, of=len(spool.read_bytes().splitlines()))
    count_losses(drill, server, experiment, reporter.given, first_times(spool.read_bytes().splitlines()))


def test_reports_do_not_wait_for_a_server_that_is_down(tmp_path: Path, drill: Drill) -> None:
    """A report takes less than 1 ms at the 99th percentile while the server is down"""
    tracker = Tracker(
        spool=tmp_path / "tracking.jsonl", uri=f"http://127.0.0.1:{closed_port()}", experiment="down", sweep="sweep"
    )
    reporter = Reporter(tracker)
    for trial in range(10):
        reporter.report(trial, range(1000), seconds=0.2)
    assert tracker.close(0.1) > 10_000
    took = sorted(reporter.took)
    p50, p99 = (1000 * took[int(len(took) * quantile)] for quantile in (0.5, 0.99))
    drill.title += f" (p50 {p50:.3f} ms, p99 {p99:.3f} ms)"
    drill.lost("reports at the 99th percentile above 1 ms", int(p99 >= 1), of=len(took))


DRIVER = """
    import sys, time
    from pathlib import Path
    from tests.fixtures.reports import Reporter
    from tuning.tracking import Tracker, default_tracking_uri
    spool, uri, experiment = sys.argv[1:]
    tracker = Tracker(spool=Path(spool), uri=uri, experiment=experiment, sweep="sweep")
    tracker.start_sweep(params={}, tags={})
    tracker.flush(60)  # from here on it sends
    print("sends", flush=True)
    for trial in range(3):
        tracker.start_trial(str(trial), params={"trial": trial}, tags={})
        Reporter(tracker).report(trial, range(1000), seconds=1)
        tracker.end_trial(str(trial), status="FINISHED", tags={})
    time.sleep(600)
"""


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_the_syncer_is_killed_while_it_sends(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest, drill: Drill, kills: int
) -> None:
    """The process that sends to MLflow is killed (SIGKILL) at random moments, and goes on each time"""
    drill.title += f" ({kills} kills)"
    experiment, spool = request.node.name, tmp_path / "tracking.jsonl"
    moments = random.Random(kills)
    for _ in range(kills):
        command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(spool), server.url, experiment]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment()) as driver:
            assert driver.stdout is not None and driver.stdout.readline() == b"sends\n"
            time.sleep(moments.uniform(0, 4))
            driver.kill()
    if kills > 2:  # and so is `sync` itself, when all is to be sent once more
        (tmp_path / "tracking.jsonl.state.json").unlink()
        command = [*TUNE, "sync", str(tmp_path), "--tracking-uri", server.url]
        for seconds in (3, 5, 7):
            with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as sender:
                time.sleep(seconds)
                sender.kill()
    done = tune_forked("sync", tmp_path, "--tracking-uri", server.url, cwd=tmp_path)
    assert "sent" in done.stdout and "left" not in done.stdout
    times = first_times(spool.read_bytes().splitlines())
    count_losses(drill, server, experiment, set(times), times)
    assert server.runs(experiment)["sweep"]["info"]["status"] == "KILLED"


def test_a_full_disk_at_the_spool(server: Server, tmp_path: Path, request: pytest.FixtureRequest, drill: Drill) -> None:
    """The disk of the spool (a small tmpfs) is full for a while: reports wait in memory, the rest is sent"""
    experiment = request.node.name
    with small_disk(tmp_path / "disk", 1024) as disk:
        spool = disk / "tracking.jsonl"
        tracker = Tracker(spool=spool, uri=server.url, experiment=experiment, sweep="sweep")
        reporter = Reporter(tracker)
        tracker.start_sweep(params={}, tags={})
        tracker.start_trial("0", params={}, tags={})
        reporter.report(0, range(300))
        filler = fill(disk)
        reporter.report(0, range(300, 1300), seconds=0.5)
        waiting = tracker.unwritten
        assert waiting > 900
        deadline = time.monotonic() + 60
        while tracker.flush(0.5) > waiting:  # what the disk did take is sent meanwhile
            assert time.monotonic() < deadline
        filler.unlink()
        deadline = time.monotonic() + 60
        while tracker.unwritten:  # nobody reports anything more
            assert time.monotonic() < deadline
            time.sleep(0.1)
        tracker.end_trial("0", status="FINISHED", tags={})
        tracker.end_sweep(status="FINISHED")
        drill.lost("records left", tracker.close(60), of=1300)
        count_losses(drill, server, experiment, reporter.given, first_times(spool.read_bytes().splitlines()))


def test_flipped_bits_in_the_spool(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest, drill: Drill
) -> None:
    """Bits of the spool flip before it is sent: what is whole is sent, the rest is set aside and told"""
    experiment, spool = request.node.name, tmp_path / "tracking.jsonl"
    tracker = Tracker(spool=spool, uri=f"http://127.0.0.1:{closed_port()}", experiment=experiment, sweep="sweep")
    tracker.start_sweep(params={}, tags={})
    Reporter(tracker).report(0, range(1000))
    assert tracker.close(0.1) > 1000
    lines = spool.read_bytes().splitlines(keepends=True)
    flips, altered = random.Random(0), set[int]()
    flipped = [bytearray(line) for line in lines]
    for number in flips.sample(range(1, len(lines) - 1), 200):
        position = flips.randrange(len(lines[number]))
        flipped[number][position] ^= 1 << flips.randrange(8)
        altered |= {number, number + 1} if position == len(lines[number]) - 1 else {number}  # two become one
    spool.write_bytes(b"".join(flipped))

    done = tune_forked("sync", tmp_path, "--tracking-uri", server.url, cwd=tmp_path, code=1)
    letters = (tmp_path / "tracking.jsonl.dead.jsonl").read_bytes().splitlines()
    assert f"{len(letters)} refused for good, kept in {tmp_path}" in done.stdout
    drill.lost("altered lines without a letter", max(0, 200 - len(letters)), of=200)
    whole = first_times(line for number, line in enumerate(lines) if number not in altered)
    count_losses(drill, server, experiment, whole, first_times(lines))
    again = tune_forked("sync", tmp_path, "--tracking-uri", server.url, cwd=tmp_path, code=1)
    assert f"0 records sent, {len(letters)} refused for good" in again.stdout


def test_a_clock_that_is_set_back(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest, drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set back by an hour, in mid-sweep and before a resume: times never go back"""
    experiment, spool = request.node.name, tmp_path / "tracking.jsonl"
    begin, given = time.time_ns() // 1_000_000, set[Place]()
    for session in range(2):
        tracker = Tracker(spool=spool, uri=server.url, experiment=experiment, sweep="sweep")
        reporter = Reporter(tracker)
        tracker.start_sweep(params={}, tags={})
        tracker.start_trial("0", params={}, tags={})
        reporter.report(0, range(500 * (session + 1)), seconds=0.2)
        clock, back = time.time_ns, (session + 1) * 3_600_000_000_000
        monkeypatch.setattr("tuning.tracking.spool.time.time_ns", lambda clock=clock, back=back: clock() - back)
        reporter.report(0, range(250, 750 * (session + 1)), seconds=0.2)
        tracker.end_trial("0", status="FINISHED" if session else "KILLED", tags={})
        tracker.end_sweep(status="FINISHED" if session else "KILLED")
        assert tracker.close(60) == 0
        given |= reporter.given
    lines = spool.read_bytes().splitlines()
    times = [json.loads(line)["time"] for line in lines]
    drill.lost("times before the one before", sum(map(operator.lt, times[1:], times)), of=len(times))
    drill.lost("times of another hour", sum(not begin <= at < begin + 600_000 for at in times), of=len(times))
    count_losses(drill, server, experiment, given, first_times(lines))
    for run in server.runs(experiment).values():
        assert begin <= run["info"]["start_time"] <= run["info"]["end_time"]


def test_a_read_only_sweep_folder(tmp_path: Path, drill: Drill) -> None:
    """The folder of a sweep is on a read-only disk: one line says so, nothing breaks"""
    with small_disk(tmp_path / "disk", 4096) as disk:
        folder = disk / "quickstart"
        folder.mkdir()
        study = load_study(QUICKSTART)
        dump_study(study, folder / "study.yaml")
        (folder / "tracking.jsonl").touch()
        make_read_only(disk)
        with (
            pytest.raises(InputError, match="Read-only file system"),
            open_sweep_dir(study, disk / "new", resume=False),
        ):
            pass
        commands = (["sweep", QUICKSTART, "--output", disk, "--resume"], ["sync", folder])
        said = [tune_forked(*command, cwd=tmp_path, code=2).stderr for command in commands]
    assert all("Read-only file system" in text for text in said)
    drill.lost("commands with more than a line", sum(len(text.splitlines()) != 1 for text in said), of=len(said))


def test_a_full_tmp(tmp_path: Path, drill: Drill) -> None:
    """The disk of TMPDIR is full when a sweep begins: one line says so"""
    with small_disk(tmp_path / "tmp", 256) as tmp:
        fill(tmp)
        command = [*TUNE, "sweep", str(QUICKSTART), "--trials", "1", "--name", "full", "--output", str(tmp_path)]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment() | {"TMPDIR": str(tmp)}, capture_output=True, text=True, timeout=600
        )
    said = f"error: {tmp}: the disk is full, and Ray's files lie there"
    drill.lost("sweeps without an error line", int(done.returncode != 2 or not done.stderr.startswith(said)), of=1)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("when", ["after its end", "in its middle"])
def test_a_sweep_whose_server_is_down_at_its_start(tmp_path: Path, drill: Drill, when: str) -> None:
    """The MLflow server of a whole sweep is down at its start"""
    drill.title += f", and comes up {when}"
    server, folder = Server(tmp_path), tmp_path / "away"
    sweep = start_sweep(tmp_path, "away", "--trials", 2, "--set", f"tracking.uri={server.url}")
    try:
        if when == "in its middle":
            wait_for_an_evaluation(folder)
            server.start()
        assert sweep.wait(600) == 0
        printed = (tmp_path / "away.out").read_text(encoding="utf-8")
        assert printed.count("cannot send to MLflow") == 1
        if when == "after its end":
            assert f"send them: kobert-tune sync {folder}\n" in printed
            server.start()
            assert "records sent" in tune("sync", folder, cwd=tmp_path).stdout
        assert tune("sync", folder, cwd=tmp_path).stdout.strip() == f"{folder}: 0 records sent"
        count_losses_of_sweep(drill, server, folder)
        assert {run["info"]["status"] for run in server.runs("quickstart").values()} <= {"FINISHED", "KILLED"}
    finally:
        end(sweep)
        server.end()


@pytest.mark.slow
def test_runs_of_a_killed_driver(server: Server, tmp_path: Path, drill: Drill) -> None:
    """A sweep's driver is killed while trials run: `sync` leaves no run RUNNING, a resume takes them up again"""
    folder, experiment = tmp_path / "killed", "killed-driver"
    settings = ("--set", f"tracking.uri={server.url}", "--set", f"tracking.experiment={experiment}")
    sweep = start_sweep(tmp_path, "killed", "--trials", 2, *settings)
    try:
        wait_for_an_evaluation(folder)
        assert "another process runs this sweep" in tune("sync", folder, cwd=tmp_path, code=2).stderr
    finally:
        end(sweep)
    tune("sync", folder, cwd=tmp_path)
    runs = server.runs(experiment)
    drill.lost(
        "runs RUNNING after sync", sum(run["info"]["status"] == "RUNNING" for run in runs.values()), of=len(runs)
    )
    interrupted = [run for run in runs.values() if {"key": "interrupted", "value": "true"} in run["data"]["tags"]]
    assert {run["info"]["status"] for run in interrupted} == {"KILLED"}

    sweep = start_sweep(tmp_path, "killed", "--trials", 2, *settings, "--resume")
    try:
        assert sweep.wait(600) == 0
    finally:
        end(sweep)
    tune("sync", folder, cwd=tmp_path)
    count_losses_of_sweep(drill, server, folder, experiment)
    runs = server.runs(experiment)
    assert runs["killed"]["info"]["status"] == "FINISHED" and len(runs) == 3
    assert not [run for run in runs.values() if "interrupted" in str(run["data"]["tags"])]


def wait_for_an_evaluation(folder: Path) -> None:
    deadline = time.monotonic() + 300
    while not (folder / "trials.json").is_file() or not any(it["progress"] for it in records_of(folder).values()):
        assert time.monotonic() < deadline, "no trial came to an evaluation"
        time.sleep(0.2)


def end(sweep: subprocess.Popen[bytes]) -> None:
    """Kill a driver; its Ray notices that, and gets a little time to end."""
    if sweep.poll() is None:
        started = psutil.Process(sweep.pid).children(recursive=True)
        sweep.kill()
        sweep.wait()
        for process in psutil.wait_procs(started, timeout=30)[1]:
            process.kill()


def count_losses_of_sweep(drill: Drill, server: Server, folder: Path, experiment: str = "quickstart") -> None:
    reported = reported_curves(folder)
    stored, doubled = stored_curves(server.folder, experiment)
    count = sum(map(len, reported.values()))
    lost = sum(name not in stored.get(place, {}) for place, metrics in reported.items() for name in metrics)
    drill.lost("metrics", lost, of=count)
    drill.lost("metrics doubled", doubled, of=count)
    runs = server.runs(experiment)
    drill.lost("runs left RUNNING", sum(run["info"]["status"] == "RUNNING" for run in runs.values()), of=len(runs))
