"""Worker groups that follow a cluster: nodes come and go, an autoscaler starts some, one leaves with a notice."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.drills.conftest import Drill
from tests.fixtures.disks import Mount
from tests.fixtures.nodes import Nodes, ray_nodes
from tests.fixtures.sweeps import records_of, reported_curves, start_sweep
from tests.fixtures.undisturbed import count_other_evaluations

pytestmark = pytest.mark.slow
SECONDS_TO_FOLLOW = 60.0
SECONDS_TO_START, SECONDS_TO_BE_BUSY = 45.0, 5.0
"""Of a worker's process to import what it needs, on a busy machine; and of a group, until it is idle while trials
wait."""
LEFT_OVER = """
held = ray.cluster_resources().get("CPU", 0) - ray.available_resources().get("CPU", 0)
places = [each for each in ray.util.placement_group_table().values() if each["state"] != "REMOVED"]
print(json.dumps({"held": held, "places": len(places)}))
"""


class Watched:
    """A sweep on nodes."""

    def __init__(self, nodes: Nodes, driver: subprocess.Popen[bytes], sweep: Path, trials: int) -> None:
        self.nodes, self.driver, self.sweep, self.trials = nodes, driver, sweep, trials
        self.looks = self.idle = 0
        self._seen: dict[int, float] = {}
        self._busy_at = time.monotonic()

    def groups(self) -> int:
        return len(self.nodes.worker_processes())

    def look(self) -> None:
        """Count whether a group idles while a trial waits."""
        states = [record["state"] for record in records_of(self.sweep).values()]
        waits = len(states) < self.trials or "INTERRUPTED" in states
        now, there = time.monotonic(), {each.pid for each in self.nodes.worker_processes()}
        self._seen = {pid: self._seen.get(pid, now) for pid in there}
        ready = sum(now - since > SECONDS_TO_START for since in self._seen.values())
        if states.count("RUNNING") >= ready or not waits:
            self._busy_at = now
        self.looks += 1
        self.idle += now - self._busy_at > SECONDS_TO_BE_BUSY

    def until(self, holds: Callable[[], bool], seconds: float) -> float:
        """Wait until something holds: the seconds it took."""
        begin = time.monotonic()
        while not holds():
            assert self.driver.poll() is None, "the sweep has ended"
            assert time.monotonic() - begin < seconds, "it did not come to pass"
            self.look()
            time.sleep(0.5)
        return time.monotonic() - begin

    def follows(self, groups: int) -> float:
        """Wait until there are so many groups: the seconds it took."""
        taken = self.until(lambda: self.groups() == groups, SECONDS_TO_FOLLOW)
        print(f"{groups} groups after {taken:.1f} s")
        return taken

    def end(self) -> None:
        """Wait until the sweep has come to its end."""
        deadline = time.monotonic() + 500
        while self.driver.poll() is None and time.monotonic() < deadline:
            self.look()
            time.sleep(0.5)
        assert self.driver.poll() == 0, self.printed()

    def printed(self) -> str:
        return self.sweep.with_name(f"{self.sweep.name}.out").read_text(encoding="utf-8")


@contextmanager
def sweep_on(nodes: Nodes, folder: Path, *, trials: int, epochs: int, more: tuple[str, ...] = ()) -> Iterator[Watched]:
    options = ("--trials", trials, "--set", f"train.epochs={epochs}", "--set", "scheduler={name: none}", *more)
    driver = start_sweep(folder, "elastic", "--address", nodes.address, *options, RAY_AUTH_MODE="disabled")
    try:
        yield Watched(nodes, driver, folder / "elastic", trials)
    finally:
        driver.kill()


def check(watched: Watched, drill: Drill, cache: Path) -> None:
    """All trials have ended once, and came to the numbers that they come to undisturbed."""
    records = records_of(watched.sweep)
    assert {record["state"] for record in records.values()} == {"COMPLETE"}, watched.printed()
    drill.lost("trials", len(set(range(watched.trials)) ^ records.keys()), of=watched.trials)
    differing, evaluations, besides = count_other_evaluations(watched.sweep, cache)
    drill.lost("evaluations that are other than undisturbed", differing, of=evaluations)
    drill.lost("evaluations that nobody made", besides, of=evaluations)


def count_leaks(nodes: Nodes, drill: Drill) -> None:
    """What a sweep that has ended still holds of its cluster."""
    left = nodes.ask(LEFT_OVER)
    drill.lost("CPUs and places that are held at the end", left["held"] + left["places"], of=1)
    drill.lost("processes of workers at the end", len(nodes.worker_processes()), of=1)


def test_groups_follow_nodes(tmp_path: Path, cache: Path, drill: Drill) -> None:
    """Nodes 0, 4, 1, 3 under a sweep that waits for them."""
    with ray_nodes(tmp_path, head_cpus=0) as nodes:
        options = ("--set", "resources.concurrent={max: 8}")
        with sweep_on(nodes, tmp_path / "sweeps", trials=10, epochs=60, more=options) as watched:
            watched.until(lambda: "waiting for machines to join" in watched.printed(), 120)
            for _ in range(4):
                nodes.join(1)
            slowest = [watched.follows(4)]
            watched.until(lambda: sum(r["progress"] > 0 for r in records_of(watched.sweep).values()) >= 4, 200)
            for index in (0, 1, 2):
                nodes.kill_worker_node(index)
            slowest.append(watched.follows(1))
            nodes.join(1)
            nodes.join(1)
            slowest.append(watched.follows(3))
            watched.end()
        count_leaks(nodes, drill)
    drill.lost("times that groups did not follow", sum(each > SECONDS_TO_FOLLOW for each in slowest), of=3)
    drill.lost("moments at which a group idled while trials waited", watched.idle, of=watched.looks)
    check(watched, drill, cache)


def test_a_node_that_joins_with_too_small_a_disk_is_told(tmp_path: Path, mount_small_disk: Mount) -> None:
    """Nodes below whose TMPDIR no checkpoint finds room; a sweep in an object store looks at each as it joins."""
    small = mount_small_disk(tmp_path / "small", 8 * 1024)
    with ray_nodes(tmp_path, head_cpus=0, TMPDIR=str(small), RAY_TMPDIR="/tmp") as nodes:
        options = ("--set", "resources.concurrent={max: 1}", "--set", f"storage=file://{tmp_path}/store")
        with sweep_on(nodes, tmp_path / "sweeps", trials=1, epochs=1, more=options) as watched:
            watched.until((watched.sweep / "tracking.jsonl").is_file, 120)
            assert "warning" not in watched.printed()
            nodes.join(1)
            told = f"a trial takes up to [\\d.]+MiB in {small}/kobert-tune-\\d+, but [\\d.]+[KM]iB are free"
            watched.until(lambda: bool(re.search(f"warning: node [\\d.]+.*: {told}", watched.printed())), 60)


def test_an_autoscaler_starts_what_trials_need(tmp_path: Path, cache: Path, drill: Drill) -> None:
    """Nodes from zero up by Ray's autoscaler, which ends them again."""
    with ray_nodes(tmp_path, head_cpus=0, autoscaled=3) as nodes:
        with sweep_on(nodes, tmp_path / "sweeps", trials=5, epochs=20) as watched:
            watched.until(lambda: "waiting for the cluster's autoscaler" in watched.printed(), 120)
            watched.follows(3)
            watched.end()
        count_leaks(nodes, drill)
        alive = "print(json.dumps(sum(node['Alive'] and node['Resources'].get('CPU', 0) > 0 for node in ray.nodes())))"
        begin = time.monotonic()
        while (left := nodes.ask(alive)) and time.monotonic() - begin < 90:
            time.sleep(1)
        drill.lost("nodes that are still there a while later", left, of=3)
    drill.lost("moments at which a group idled while trials waited", watched.idle, of=watched.looks)
    check(watched, drill, cache)


@pytest.mark.parametrize(("workers", "notice"), [(1, "drain-node"), (2, "SIGTERM")])
def test_a_trial_moves_before_its_node_leaves(
    tmp_path: Path, cache: Path, drill: Drill, workers: int, notice: str
) -> None:
    """A node is to leave: what it trains goes on elsewhere, and no failure is counted."""
    with ray_nodes(tmp_path, head_cpus=0, worker_cpus=[workers, workers]) as nodes:
        options = ("--set", f"resources={{max_failures: 0, workers: {workers}}}")
        with sweep_on(nodes, tmp_path / "sweeps", trials=3, epochs=40, more=options) as watched:
            watched.until(lambda: sum(r["progress"] > 0 for r in records_of(watched.sweep).values()) >= 2, 200)
            if notice == "SIGTERM":
                nodes.workers[0].terminate()
            else:
                nodes.drain()
            watched.until(lambda: "is about to be taken away: it goes on elsewhere" in watched.printed(), 30)
            watched.follows(workers)
            watched.end()
        count_leaks(nodes, drill)
        if workers == 1:
            check(watched, drill, cache)
            return
        with sweep_on(nodes, tmp_path / "undisturbed", trials=3, epochs=40, more=options) as other:
            other.end()
    told, undisturbed = reported_curves(watched.sweep), reported_curves(other.sweep)
    drill.lost("evaluations that are other than undisturbed", int(told != undisturbed), of=len(undisturbed))


def test_a_node_that_is_to_leave_dies_at_once(tmp_path: Path, cache: Path, drill: Drill) -> None:
    """A node is gone before what it trains could move: that goes on elsewhere, as after any loss."""
    with ray_nodes(tmp_path, head_cpus=0, worker_cpus=[1, 1]) as nodes:
        with sweep_on(nodes, tmp_path / "sweeps", trials=3, epochs=40) as watched:
            watched.until(lambda: sum(r["progress"] > 0 for r in records_of(watched.sweep).values()) >= 2, 200)
            nodes.kill_worker_node(nodes.drain())
            watched.follows(1)
            watched.end()
        count_leaks(nodes, drill)
        check(watched, drill, cache)
