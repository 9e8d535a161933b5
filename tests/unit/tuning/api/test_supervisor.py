"""The process that a sweep runs in may be ended from the inside or the outside: another one takes its place."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.fixtures.commands import environment
from tuning.api.supervisor import supervised
from tuning.sweep.budget import SECONDS_OF_ONE_SIGNAL

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a sweep has one process")
SWEEP = """
import os, signal, subprocess, sys, time
from pathlib import Path
from tuning.api.supervisor import supervised
with supervised(lambda line: print(line, flush=True), own_ray={own_ray}) as session:
    print("begins", os.getpid(), flush=True)
    {body}
"""


def start(body: str, *, own_ray: bool = True) -> subprocess.Popen[str]:
    code = SWEEP.format(own_ray=own_ray, body=body)
    command = [sys.executable, "-c", code, "sweep", "study.yaml"]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True)


def names_of(processes: list[psutil.Process]) -> list[str]:
    names = []
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            names.append(each.name())
    return names


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    return [line for line in process.communicate(timeout=60)[0].splitlines() if not line.startswith("begins")]


@pytest.mark.parametrize(
    ("end", "what"),
    [
        ("os._exit(1)", "Ray has died"),
        ("os.kill(os.getpid(), 9)", "the sweep's process was killed (SIGKILL)"),
        ("os.abort()", "the sweep's process was killed (SIGABRT)"),
    ],
)
def test_it_goes_on_while_trials_come_further_and_ends_as_the_last_process_did(end: str, what: str) -> None:
    process = start(f"session.count_report(); {end} if session.reports < 6 else sys.exit(7)")
    assert lines_of(process) == [f"{what}: going on from the checkpoints"] * 5
    assert process.returncode == 7


def test_it_gives_up_when_no_trial_comes_further_and_says_how_to_go_on() -> None:
    process = start("os._exit(1)")
    lines = lines_of(process)
    assert lines[:-1] == ["Ray has died: going on from the checkpoints"] * 3
    assert lines[-1] == (
        "Ray has died, and no trial has come any further since 3 such losses; "
        "go on with: kobert-tune sweep study.yaml --resume"
    )
    assert process.returncode == 1


def test_it_does_not_look_for_a_cluster_that_is_gone() -> None:
    process = start("os._exit(1)", own_ray=False)
    assert lines_of(process) == ["the Ray cluster is gone; go on with: kobert-tune sweep study.yaml --resume"]
    assert process.returncode == 1


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_what_comes_to_its_own_end_is_not_run_again(code: int) -> None:
    process = start(f"sys.exit({code})")
    assert lines_of(process) == [] and process.returncode == code


def test_a_signal_is_heard_once_and_ends_the_sweep() -> None:
    wait = "signal.signal(signal.SIGINT, lambda *_: (print('heard', flush=True), time.sleep(0.5), os._exit(1)))"
    process = start(f"{wait}; print('waits', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert [process.stdout.readline().split()[0] for _ in range(2)] == ["begins", "waits"]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert lines_of(process) == ["heard"] and process.returncode == 130


def test_a_signal_to_all_processes_of_a_command_is_one_and_the_next_one_kills() -> None:
    """As Ray's job server ends a job, and systemd a service."""
    body = """
    from types import SimpleNamespace
    from tuning.sweep.budget import stopping_cleanly
    with stopping_cleanly(SimpleNamespace(interrupted=False)) as budget:
        print("works", flush=True)
        while not budget.interrupted: time.sleep(0.05)
        print("interrupted", flush=True)
        time.sleep(1)
        print("has written", flush=True)
        time.sleep(60)
    """
    process = start(body)
    assert process.stdout is not None
    assert [process.stdout.readline().split()[0] for _ in range(2)] == ["begins", "works"]
    for each in (parent := psutil.Process(process.pid), *parent.children(recursive=True)):
        each.terminate()
    assert [process.stdout.readline() for _ in range(2)] == ["interrupted\n", "has written\n"]
    time.sleep(SECONDS_OF_ONE_SIGNAL)
    begin = time.monotonic()
    process.terminate()
    assert lines_of(process) == [] and process.returncode == 130
    assert time.monotonic() - begin < 30


def test_nothing_outlives_the_sweep(tmp_path: Path) -> None:
    """Neither what a process that died has started, in whatever session, nor the process itself its parent."""
    orphan = f"Path({str(tmp_path)!r}, str(os.getpid())).touch(); "
    orphan += "subprocess.Popen(['sleep', '600'], start_new_session=True); "
    process = start(orphan + "session.count_report(); os._exit(1) if session.reports < 3 else time.sleep(60)")
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 3 or "sleep" not in names_of(parent.children(recursive=True)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    below = parent.children(recursive=True)
    assert names_of(below).count("sleep") == 1, "the orphans of both processes that died are gone"
    child = psutil.Process(max(int(path.name) for path in tmp_path.iterdir()))
    process.kill()
    assert not psutil.wait_procs([child], timeout=60)[1]
    for each in below:
        if each.is_running():
            each.kill()


def test_the_end_of_a_daemon_of_ray_is_seen_at_once(tmp_path: Path) -> None:
    raylet = tmp_path / "raylet"
    shutil.copy(shutil.which("bash") or "/bin/bash", raylet)
    code = f"""
import subprocess, time
from tuning.cluster.ray_watch import ending_with_ray
daemon = subprocess.Popen(["{raylet}", "-c", "read", "--log_dir=/logs"], stdin=subprocess.PIPE)
with ending_with_ray():
    time.sleep(1.5)
    print("lives", flush=True)
    daemon.kill()
    time.sleep(30)
"""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "lives\n", "Ray's raylet has died: its log is in /logs\n")
    assert time.monotonic() - begin < 25


def test_a_process_with_threads_of_libraries_is_not_split() -> None:
    import torch  # noqa: F401

    here = os.getpid()
    with supervised(print, own_ray=True) as session:
        assert os.getpid() == here and session.descriptor is None
