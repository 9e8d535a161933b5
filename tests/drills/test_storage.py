"""A sweep whose home is an object store: its driver's machine is lost, and a second driver comes while the first one is
stopped."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from tests.drills.conftest import Drill
from tests.fixtures.commands import ROOT, TUNE, UNCONFIRMED, environment
from tests.fixtures.object_store import ObjectStoreServer
from tests.fixtures.outcomes import Outcome, count_differences
from tests.fixtures.sweeps import ONE_AT_A_TIME, children_of, ending_all, progress_of, start_sweep, wait_for
from tuning.storage.records import HEAD, LEASE_SECONDS
from tuning.storage.store import Store

pytestmark = pytest.mark.slow
SHORT = (*ONE_AT_A_TIME, "--trials", "3", "--set", "train.epochs=2")
LONGER = (*ONE_AT_A_TIME, "--trials", "6", "--set", "train.epochs=4")
LOSSES = 20
SOON_AFTER_ITS_START = 12.0
"""Seconds."""


NewMachine = Callable[[str], "Machine"]


class Machine:
    """A machine on which a driver runs: all folders that it writes in are its own."""

    def __init__(self, folder: Path, temporary: Path, home: str) -> None:
        """`temporary`: has a short path, since Ray's sockets lie there; `home`: the address of all sweeps."""
        self.home = home
        self.folder, self.output, self.temporary = folder, folder / "sweeps", temporary / folder.name
        self.sweep, self.printed = self.output / "one", self.output / "one.out"
        self.temporary.mkdir()

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        stored = ("--set", f"storage={self.home}")
        return start_sweep(self.output, "one", *stored, *arguments, TMPDIR=str(self.temporary), **variables)

    def start_job(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The command of docker/kuberay/rayjob.yaml, without a cluster, in a container that has nothing."""
        home = self.folder / "home"
        home.mkdir(parents=True)
        job = YAML(typ="safe").load((ROOT / "docker" / "kuberay" / "rayjob.yaml").read_text(encoding="utf-8"))
        here = {"/opt/kobert-tuning": str(ROOT), "s3://my-bucket/sweeps": self.home}
        here |= {"/tmp/sweeps": str(self.output), "--address auto ": "", "--name quickstart": "--name one"}
        line = job["spec"]["entrypoint"]
        for what, this in here.items():
            assert what in line
            line = line.replace(what, this)
        with open(self.folder / "one.out", "wb") as printed:
            self.printed = Path(printed.name)
            return subprocess.Popen(
                [*TUNE, *line.split()[1:], *arguments],
                cwd=home,
                env=environment() | {"HOME": str(home), "TMPDIR": str(self.temporary)},
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, *arguments: str) -> None:
        process = self.start(*arguments)
        with ending_all(process):
            assert process.wait(timeout=500) == 0, self.printed.read_text()
        assert "Traceback" not in self.printed.read_text()

    def lines(self) -> int:
        """How far its sweep is: each line is a moment after which it may be lost."""
        files = (self.sweep / "optuna_journal.log", self.sweep / "tracking.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files if file.is_file())

    def lose(self, process: subprocess.Popen[bytes]) -> None:
        """Everything that ran on it is killed at once, and its folders are gone."""
        left = [psutil.Process(process.pid), *children_of(process)]
        for each in left:
            each.kill()
        process.wait()
        psutil.wait_procs(left, timeout=10)
        shutil.rmtree(self.folder)
        shutil.rmtree(self.temporary)


@pytest.fixture
def machine(object_store: ObjectStoreServer, tmp_path: Path, drill: Drill) -> Iterator[NewMachine]:
    drill.title = f"{drill.title} ({object_store.scheme}://)"
    with tempfile.TemporaryDirectory(prefix="drill-", ignore_cleanup_errors=True) as temporary:
        yield lambda name: Machine(tmp_path / name, Path(temporary), f"{object_store.address}/team")


def undisturbed(folder: Path, *arguments: str) -> Outcome:
    """What a sweep comes to in a folder of this machine."""
    process = start_sweep(folder, "one", *arguments)
    with ending_all(process):
        assert process.wait(timeout=400) == 0, (folder / "one.out").read_text()
    return Outcome.of(folder / "one")


def test_the_drivers_machine_lost_twenty_times(machine: NewMachine, tmp_path: Path, drill: Drill) -> None:
    """The driver's machine lost with all of its folders at 20 moments; each time another one goes on."""
    chance, lines, lost = random.Random(0), 0, 0
    while lost < LOSSES:
        here = machine(f"machine-{lost}")
        process = here.start(*LONGER)
        with ending_all(process):
            if chance.random() < 0.25:
                end = time.monotonic() + chance.uniform(0, SOON_AFTER_ITS_START)
                wait_for(process, lambda end=end: time.monotonic() > end)  # type: ignore[misc]
            else:
                least = lines + chance.randrange(1, 25)
                wait_for(process, lambda here=here, least=least: here.lines() >= least)  # type: ignore[misc]
                time.sleep(chance.uniform(0, 0.1))
            lines = max(lines, here.lines())
            if process.poll() is not None:
                break
            here.lose(process)
        lost += 1
    last = machine("last")
    last.finish(*LONGER, "--resume")
    assert lost >= LOSSES // 2, "the sweep had come to its end before"
    count_differences(drill, Outcome.of(last.sweep), undisturbed(tmp_path / "undisturbed", *LONGER))


@pytest.mark.parametrize("seconds", [0, pytest.param(300, marks=pytest.mark.long)])
def test_two_drivers_of_which_the_first_is_stopped(
    machine: NewMachine, tmp_path: Path, drill: Drill, seconds: int
) -> None:
    """Two drivers, the first stopped for longer than its lease: one commits, the other ends with one line."""
    drill.title = f"{drill.title}; stopped until the other has ended, and for {seconds} s at least"
    first, second = machine("first"), machine("second")
    process = first.start(*SHORT)
    with ending_all(process):
        assert wait_for(process, lambda: progress_of(first.sweep) >= 60)
        stopped = [psutil.Process(process.pid), *children_of(process)]
        for each in stopped:
            each.suspend()
        since = time.monotonic()
        second.finish(*SHORT)
        time.sleep(max(0.0, since + seconds - time.monotonic()))
        store = Store.at(f"{first.home}/one")
        committed, there = store.get(HEAD), store.objects()
        for each in stopped:
            each.resume()
        assert process.wait(timeout=120) == 2, first.printed.read_text()
    said = [line for line in first.printed.read_text().splitlines() if line.startswith("error:")]
    assert len(said) == 1 and ("another process runs" in said[0] or "is in use" in said[0]), first.printed.read_text()
    assert "Traceback" not in first.printed.read_text()
    drill.lost("heads that the first one changed", int(store.get(HEAD) != committed), of=1)
    drill.lost("objects that the first one removed", len(there.keys() - store.objects().keys()), of=len(there))
    count_differences(drill, Outcome.of(second.sweep), undisturbed(tmp_path / "undisturbed", *SHORT))


def test_a_job_that_is_tried_again(machine: NewMachine, tmp_path: Path, drill: Drill) -> None:
    """The command of a RayJob in a fresh container, killed in its midst, twice, and tried again."""
    told: list[str] = []
    for try_, percent in enumerate((30, 110, None)):
        container = machine(f"try-{try_}")
        process = container.start_job(*ONE_AT_A_TIME, "--trials", "3", "--set", "train.epochs=2", *UNCONFIRMED)
        with ending_all(process):
            if percent is None:
                assert process.wait(timeout=500) == 0, container.printed.read_text()
            else:
                assert wait_for(process, lambda c=container, p=percent: progress_of(c.sweep) >= p)  # type: ignore[misc]
                told.append(container.printed.read_text())
                container.lose(process)
    told.append(container.printed.read_text())
    assert "Traceback" not in "".join(told)
    drill.lost("tries that found the name in use", sum("in use" in each for each in told), of=len(told))
    drill.lost("tries that began anew", sum("are taken from" not in each for each in told[1:]), of=len(told) - 1)
    count_differences(drill, Outcome.of(container.sweep), undisturbed(tmp_path / "undisturbed", *SHORT))


def test_a_second_driver_does_not_get_in(machine: NewMachine, tmp_path: Path, drill: Drill) -> None:
    """Two drivers at once on two machines: the second is refused, and the first does not notice."""
    first, second = machine("first"), machine("second")
    process = first.start(*SHORT)
    with ending_all(process):
        assert wait_for(process, lambda: progress_of(first.sweep) >= 20)
        other = second.start(*SHORT)
        with ending_all(other):
            assert other.wait(timeout=LEASE_SECONDS + 60) == 2, second.printed.read_text()
        assert process.wait(timeout=400) == 0, first.printed.read_text()
    drill.lost("second drivers", int("another process runs this sweep" not in second.printed.read_text()), of=1)
    count_differences(drill, Outcome.of(first.sweep), undisturbed(tmp_path / "undisturbed", *SHORT))
