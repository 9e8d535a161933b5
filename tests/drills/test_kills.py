"""Sweeps whose processes are killed at any moment, and which come to what an undisturbed one comes to, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kobert_core.checkpoint import load_state, newest_checkpoint
from tests.drills.conftest import Drill
from tests.fixtures.commands import environment
from tests.fixtures.helpers import kill_one_of_each, wait_for_kinds
from tests.fixtures.outcomes import Outcome, count_differences
from tests.fixtures.sweeps import ONE_AT_A_TIME, children_of, ending_all, progress_of, records_of, start_sweep, wait_for

SHORT = (*ONE_AT_A_TIME, "--trials", "3", "--set", "train.epochs=2")
LONGER = (*ONE_AT_A_TIME, "--trials", "6", "--set", "train.epochs=4")
FEW_EVALUATIONS = (*ONE_AT_A_TIME, "--trials", "2", "--set", "train.epochs=20", "--set", "train.eval_percent=50")
CONFIRMED = (*ONE_AT_A_TIME, "--trials", "3", "--set", "train.epochs=2", "--set", "confirm={top: 2, seeds: 2}")
PROMOTED = (*SHORT, "--trials", "8", "--set", "scheduler={name: promotion, reduction_factor: 2}")
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
    """Run the sweep to its end, or once more if it was killed right after that."""
    arguments = (*arguments, "--resume") if (output / "one" / "winner.json").exists() else arguments
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


def kill_often(output: Path, *arguments: str, kills: int, lines: int, seconds: float = 0) -> None:
    """Start a sweep again and again, and kill its driver so often: when it has written up to so many lines since it
    was started, or after up to so many `seconds`. It goes on by the same command, or by `--resume`."""
    chance, sweep = random.Random(kills), output / "one"
    while kills:
        needed, possible = (sweep / "winner.json").exists(), (sweep / "study.yaml").exists()
        resume = ["--resume"] if needed or (possible and chance.random() < 0.5) else []
        process = start_sweep(output, "one", *arguments, *resume)
        limit, before = chance.randrange(1, lines), lines_in(sweep)
        if chance.random() < 0.3 and seconds:
            end = time.monotonic() + chance.uniform(0, seconds)
            wait_for(process, lambda end=end: time.monotonic() > end)  # type: ignore[misc]
        else:
            wait_for(process, lambda most=before + limit: lines_in(sweep) >= most)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.1))
        kills -= process.poll() is None
        kill_driver(process)


@pytest.mark.slow
def test_an_actor_a_daemon_and_the_driver_killed(tmp_path: Path, undisturbed: Undisturbed, drill: Drill) -> None:
    """2, 12. In one sweep the process of an actor killed, then a daemon of Ray, then the command itself.

    All kinds of processes, and pairs of them, are killed in `test_helpers_killed.py`, which takes half an hour.
    """
    sweep, chance = tmp_path / "one", random.Random(0)
    process = start_sweep(tmp_path, "one", *SHORT)
    with ending_all(process):
        for percent, kind in ((20, "Broker"), (60, "raylet/raylet")):
            assert wait_for(process, lambda least=percent: progress_of(sweep) >= least)  # type: ignore[misc]
            wait_for_kinds(process, (kind,))
            assert kill_one_of_each(process, (kind,), chance) == [kind]
        assert wait_for(process, lambda: progress_of(sweep) >= 150)
        kill_driver(process)
    printed = (tmp_path / "one.out").read_text()
    assert "the process `Broker` has died: going on" in printed and "Ray has died: going on" in printed
    assert "Traceback" not in printed
    finish(tmp_path, *SHORT)
    count_differences(drill, Outcome.of(sweep), undisturbed(*SHORT))


@pytest.mark.slow
def test_a_driver_killed_while_it_confirms(tmp_path: Path, undisturbed: Undisturbed, drill: Drill) -> None:
    """2. The driver killed three times while it confirms: the verdict is the same."""
    sweep, kills = tmp_path / "one", 0
    for least in (30, 250, 450):  # percent of all six runs together
        process = start_sweep(tmp_path, "one", *CONFIRMED)
        with ending_all(process):
            assert wait_for(process, lambda least=least: confirmed(sweep) >= least)  # type: ignore[misc]
            kills += process.poll() is None
            kill_driver(process)
    finish(tmp_path, *CONFIRMED)
    expected = undisturbed(*CONFIRMED)
    assert expected.result["verdict"]["runs"] == 4 and expected.result["verdict"]["chosen_by"] == 2
    drill.lost("kills", 3 - kills, of=3)
    count_differences(drill, Outcome.of(sweep), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RayTrainWorker", "raylet/raylet", "gcs/gcs_server"])
def test_a_process_of_ray_killed_while_it_confirms(
    tmp_path: Path, undisturbed: Undisturbed, drill: Drill, kind: str
) -> None:
    """2. A worker, or a daemon of Ray, killed twice while the sweep confirms: the verdict is the same."""
    sweep, chance = tmp_path / "one", random.Random(0)
    process = start_sweep(tmp_path, "one", *CONFIRMED)
    with ending_all(process):
        for least in (50, 450):  # percent of all six runs together: as it chooses, and as it judges
            assert wait_for(process, lambda least=least: confirmed(sweep) >= least)  # type: ignore[misc]
            wait_for_kinds(process, (kind,))
            assert kill_one_of_each(process, (kind,), chance) == [kind]
        assert process.wait(timeout=500) == 0, (tmp_path / "one.out").read_text()
    printed = (tmp_path / "one.out").read_text()
    assert "Traceback" not in printed and "confirm: trial" in printed
    failed = [run for run in json.loads((sweep / "confirm" / "runs.json").read_text()) if run["state"] != "COMPLETE"]
    drill.lost("runs that confirm", len(failed), of=6)
    count_differences(drill, Outcome.of(sweep), undisturbed(*CONFIRMED))


def confirmed(sweep: Path) -> int:
    """Percent that the runs which confirm have come to, together."""
    ledger = sweep / "confirm" / "runs.json"
    return sum(run["progress"] for run in json.loads(ledger.read_text())) if ledger.is_file() else 0


@pytest.mark.slow
def test_a_driver_killed_twenty_times(tmp_path: Path, undisturbed: Undisturbed, drill: Drill) -> None:
    """2. The driver killed at 20 random moments, from its start to its export, and resumed."""
    kill_often(tmp_path, *LONGER, kills=20, lines=25, seconds=10)
    finish(tmp_path, *LONGER)
    count_differences(drill, Outcome.of(tmp_path / "one"), undisturbed(*LONGER))


@pytest.mark.slow
def test_the_driver_and_a_worker_killed_while_trials_are_paused(
    tmp_path: Path, undisturbed: Undisturbed, drill: Drill
) -> None:
    """1, 2. The driver killed three times while trials are paused, and a worker that trains a promoted one."""
    sweep, chance, paused = tmp_path / "one", random.Random(0), list[int]()
    for least in (1, 3, 5):
        process = start_sweep(tmp_path, "one", *PROMOTED)
        with ending_all(process):
            assert wait_for(process, lambda least=least: paused_in(sweep) >= least)  # type: ignore[misc]
            paused += [paused_in(sweep)] if process.poll() is None else []
            kill_driver(process)
    process = start_sweep(tmp_path, "one", *PROMOTED)
    with ending_all(process):
        assert wait_for(process, lambda: trains_promoted(sweep))
        assert kill_one_of_each(process, ("RayTrainWorker",), chance) == ["RayTrainWorker"]
        assert process.wait(timeout=400) == 0, (tmp_path / "one.out").read_text()
    found = Outcome.of(sweep)
    drill.lost("kills of the driver", 3 - len(paused), of=3)
    drill.lost("runs left SCHEDULED", found.statuses.count("SCHEDULED"), of=len(found.statuses))
    count_differences(drill, found, undisturbed(*PROMOTED))


def paused_in(sweep: Path) -> int:
    return sum(record["state"] == "PAUSED" for record in records_of(sweep).values())


def trains_promoted(sweep: Path) -> bool:
    """Whether a trial runs that has passed the first rung."""
    records = records_of(sweep).values()
    return any(each["state"] == "RUNNING" and each["trial"] and 10 < each["progress"] < 90 for each in records)


@pytest.mark.slow
def test_a_worker_killed_in_mid_epoch(tmp_path: Path, undisturbed: Undisturbed, drill: Drill) -> None:
    """1. A worker killed in mid-epoch."""
    sweep = tmp_path / "one"
    process = start_sweep(tmp_path, "one", *FEW_EVALUATIONS, "--set", "train.checkpoint_interval=1s")
    with ending_all(process):
        assert wait_for(process, lambda: newest_checkpoint(sweep / "trials" / "0000" / "checkpoints") is not None)
        assert records_of(sweep)[0]["progress"] == 0
        for worker in children_of(process):
            if "RayTrainWorker" in worker.name() + "".join(worker.cmdline()):
                worker.kill()
                killed = worker
        assert process.wait(timeout=400) == 0, (tmp_path / "one.out").read_text()
    assert not killed.is_running()
    count_differences(drill, Outcome.of(sweep), undisturbed(*FEW_EVALUATIONS))


@pytest.mark.slow
def test_every_process_of_ray_killed(tmp_path: Path, undisturbed: Undisturbed, drill: Drill) -> None:
    """3. Every process under the command killed at once: it goes on by itself."""
    process = start_sweep(tmp_path, "one", *SHORT)
    with ending_all(process):
        assert wait_for(process, lambda: lines_in(tmp_path / "one") > 50)
        under = children_of(process)
        for each in under:
            each.kill()
        assert process.wait(timeout=300) == 0, (tmp_path / "one.out").read_text()
    assert len(under) > 4
    assert "going on from the checkpoints" in (tmp_path / "one.out").read_text()
    count_differences(drill, Outcome.of(tmp_path / "one"), undisturbed(*SHORT))


@pytest.mark.slow
def test_sigterm_with_a_grace_period(tmp_path: Path, undisturbed: Undisturbed, drill: Drill) -> None:
    """10. SIGTERM with a grace period: a checkpoint is written within it, between two evaluations."""
    sweep = tmp_path / "one"
    process = start_sweep(tmp_path, "one", *FEW_EVALUATIONS)
    with ending_all(process):
        assert wait_for(process, lambda: records_of(sweep).get(0, {}).get("progress") == 50)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        code = process.wait(timeout=300)
        seconds = time.monotonic() - begin
    printed = (tmp_path / "one.out").read_text()
    assert code == 130 and "go on with" in printed, printed
    record = records_of(sweep)[0]
    assert (record["state"], record["progress"]) == ("INTERRUPTED", 50)
    newest = newest_checkpoint(sweep / "trials" / "0000" / "checkpoints")
    assert newest is not None
    drill.lost("checkpoints", int(load_state(newest)["progress"]["step"] <= record["step"]), of=1)
    drill.lost(f"grace periods of {GRACE:.0f} s", int(seconds > GRACE), of=1)
    finish(tmp_path, *FEW_EVALUATIONS, "--resume")
    count_differences(drill, Outcome.of(sweep), undisturbed(*FEW_EVALUATIONS))


@pytest.mark.slow
def test_the_clock_set_back(tmp_path: Path, undisturbed: Undisturbed, drill: Drill) -> None:
    """11. The clock set back by an hour in the middle of a sweep, and a driver killed after it."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(SETS_THE_CLOCK)
    shift = tmp_path / "shift"
    paths = f"{tmp_path / 'clock'}{os.pathsep}{environment()['PYTHONPATH']}"
    variables = {"PYTHONPATH": paths, "CLOCK_SHIFT": str(shift)}
    process = start_sweep(tmp_path, "one", *SHORT, **variables)
    with ending_all(process):
        assert wait_for(process, lambda: lines_in(tmp_path / "one") > 45)
        shift.write_text("-3600")
        assert wait_for(process, lambda: lines_in(tmp_path / "one") > 70)
        kill_driver(process)
    finish(tmp_path, *SHORT, **variables)
    found = Outcome.of(tmp_path / "one")
    drill.lost("durations below 0", sum(duration < 0 for duration in found.durations), of=len(found.durations))
    count_differences(drill, found, undisturbed(*SHORT))
