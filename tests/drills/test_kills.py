"""Sweeps whose processes are killed at any moment, and which come to what an undisturbed one comes to, bit for bit."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drills.conftest import Drill
from tests.fixtures.outcomes import Outcome, count_differences
from tests.fixtures.sweeps import ONE_AT_A_TIME, ending_all, start_sweep, wait_for

SHORT = (*ONE_AT_A_TIME, "--trials", "3", "--set", "train.epochs=3")
FEW_EVALUATIONS = (*ONE_AT_A_TIME, "--trials", "2", "--set", "train.epochs=40", "--set", "train.eval_percent=50")
GRACE = 30.0
"""Seconds that a spot machine gives."""
SETS_THE_CLOCK = """
import os, time
_time, _time_ns = time.time, time.time_ns
def _shift():
    try:
        with open(os.environ["CLOCK_SHIFT"]) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
time.time = lambda: _time() + _shift()
time.time_ns = lambda: _time_ns() + _shift() * 10**9
"""

Undisturbed = Callable[..., Outcome]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What a sweep with these arguments comes to; each is run once."""
    known: dict[tuple[str, ...], Outcome] = {}

    def outcome(*arguments: str) -> Outcome:
        if arguments not in known:
            output = tmp_path_factory.mktemp("undisturbed")
            finish(output, *arguments)
            known[arguments] = Outcome.of(output / "one")
        return known[arguments]

    return outcome


def finish(output: Path, *arguments: str, **variables: str) -> None:
    """Run the sweep to its end."""
    process = start_sweep(output, "one", *arguments, **variables)
    with ending_all(process):
        assert process.wait(timeout=400) == 0, (output / "one.out").read_text()


def lines_in(sweep: Path) -> int:
    """How far a sweep is: each line is a moment after which it may be killed."""
    files = (sweep / "optuna_journal.log", sweep / "tracking.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files if file.is_file())


def kill_driver(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def kill_often(output: Path, *arguments: str, lines: list[int], seconds: list[float]) -> int:
    """Run a sweep and kill its driver: once for each number of `lines` that it has written since it was started, and
    for each number of `seconds`; half of the time it goes on by `--resume`, else by the same command. How often it
    was killed."""
    chance, sweep = random.Random(6), output / "one"
    kills = 0
    for limit, is_time in [*((n, False) for n in lines), *((s, True) for s in seconds)]:
        resume = ["--resume"] if (sweep / "study.yaml").exists() and chance.random() < 0.5 else []
        process = start_sweep(output, "one", *arguments, *resume)
        begin, before = time.monotonic(), lines_in(sweep)
        try:
            if is_time:
                wait_for(process, lambda begin=begin, limit=limit: time.monotonic() - begin > limit)  # type: ignore[misc]
            else:
                wait_for(process, lambda before=before, limit=limit: lines_in(sweep) - before >= limit)  # type: ignore[misc]
                time.sleep(chance.uniform(0, 0.1))
        finally:
            kills += process.poll() is None
            kill_driver(process)
    return kills


def test_a_driver_killed_three_times(tmp_path: Path, undisturbed: Undisturbed, drill: Drill) -> None:
    """2. The driver killed at 3 random moments, and resumed."""
    chance = random.Random(2)
    kills = kill_often(tmp_path, *SHORT, lines=[chance.randrange(10, 60) for _ in range(3)], seconds=[])
    finish(tmp_path, *SHORT)
    assert kills == 3
    count_differences(drill, Outcome.of(tmp_path / "one"), undisturbed(*SHORT))
