"""Any process under a sweep's driver is killed: no trial fails, and the sweep comes to what an undisturbed one does.

Which processes there are is found by looking. With several trials at a time and no scheduler, each trial is exact.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.drills.conftest import Drill
from tests.fixtures.helpers import kill_one_of_each, kinds_under, names_of_one_kind, wait_for_kinds
from tests.fixtures.outcomes import Outcome, count_differences
from tests.fixtures.sweeps import ending_all, progress_of, start_sweep, wait_for

pytestmark = pytest.mark.slow
TWO_AT_A_TIME = (
    *("--trials", "4", "--set", "resources.concurrent=2", "--set", "train.epochs=2"),
    *("--set", "search.algorithm=random", "--set", "scheduler.name=none"),
)
MOMENTS = (0, 150, 350)
"""Percents of all trials together: as soon as a trial runs, in mid-sweep, near the end."""
LOOKS = 40
PAIRS = 27
"""So many of all pairs of kinds, in sweeps of three: more would take too long."""


@dataclass
class Killing:
    """One sweep under which processes were killed."""

    outcome: Outcome
    ends: list[str] = field(default_factory=list)
    """What was killed when, and how the command ended."""
    commands: int = 1
    """How often it had to be given."""
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    """Processes that outlived the sweep."""


def sweep_under_fire(output: Path, victims: list[tuple[str, ...]]) -> Killing:
    """Run a sweep, and at each moment kill a process of each kind, until it has come to its end."""
    sweep, chance, begin = output / "one", random.Random(str(victims)), time.monotonic()
    pending, seen, ends, commands = list(zip(MOMENTS, victims, strict=True)), set[psutil.Process](), list[str](), 0
    while True:
        commands += 1
        resume = ["--resume"] if commands > 1 else []
        process = start_sweep(output, "one", *TWO_AT_A_TIME, *resume)
        with ending_all(process):
            while pending and wait_for(process, lambda: progress_of(sweep) >= pending[0][0], seconds=900):
                moment, kinds = pending.pop(0)
                wait_for_kinds(process, kinds)
                seen |= {each for group in kinds_under(process).values() for each in group}
                killed = kill_one_of_each(process, kinds, chance)
                ends.append(f"{' + '.join(killed) or f'no {kinds}'} at {moment}%")
            code = process.wait(timeout=900)
            left = [each for each in psutil.wait_procs(seen, timeout=20)[1] if each.status() != psutil.STATUS_ZOMBIE]
        printed = (output / "one.out").read_text(encoding="utf-8")
        assert "Traceback" not in printed and "(raylet)" not in printed, printed
        ends.append(f"exit code {code}")
        if code == 0:
            break
        assert "go on with: kobert-tune" in printed and commands < 4, printed
    assert not pending, "the sweep had ended before all was killed"
    said = [line for line in printed.splitlines() if re.search("died|lost|monitor", line)]
    print(f"{ends}, {commands} command(s), {time.monotonic() - begin:.0f} s; said: {said}", flush=True)
    return Killing(Outcome.of(sweep), ends, commands, time.monotonic() - begin, [str(each) for each in left])


@dataclass
class Peace:
    """An undisturbed sweep, and the kinds of processes that it had."""

    outcome: Outcome
    kinds: list[str]


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Peace:
    output = tmp_path_factory.mktemp("peace")
    process = start_sweep(output, "one", *TWO_AT_A_TIME)
    with ending_all(process):
        assert wait_for(process, lambda: progress_of(output / "one") >= MOMENTS[1], seconds=900)
        kinds = names_of_one_kind([kinds_under(process) for _ in range(LOOKS) if not time.sleep(0.05)])
        assert process.wait(timeout=900) == 0, (output / "one.out").read_text()
    print(f"kinds of processes: {kinds}")
    assert len(kinds) > 5
    return Peace(Outcome.of(output / "one"), kinds)


def count(drill: Drill, killings: list[Killing], peace: Peace) -> None:
    for killing in killings:
        count_differences(drill, killing.outcome, peace.outcome)
    failed = sum(record["state"] == "FAILED" for each in killings for record in each.outcome.ledger.values())
    drill.lost("trials FAILED", failed, of=4 * len(killings))
    drill.lost("processes left", sum(len(each.left) for each in killings), of=len(killings))


def test_each_kind_of_process_killed_three_times(tmp_path: Path, peace: Peace, drill: Drill) -> None:
    """12. A process of each kind under the driver killed alone, at three moments."""
    killings = [sweep_under_fire(tmp_path / str(n), [(kind,)] * 3) for n, kind in enumerate(peace.kinds)]
    count(drill, killings, peace)


def test_pairs_of_processes_killed_at_once(tmp_path: Path, peace: Peace, drill: Drill) -> None:
    """12. Pairs of processes of two kinds killed at once, three pairs in each sweep."""
    pairs = random.Random(0).sample(list(itertools.combinations(peace.kinds, 2)), k=PAIRS)
    killings = [sweep_under_fire(tmp_path / str(n), pairs[n : n + 3]) for n in range(0, PAIRS, 3)]
    count(drill, killings, peace)
