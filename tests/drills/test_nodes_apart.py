"""A sweep whose home is an object store, on nodes that have no folder in common: one of them is killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from kobert_core.checkpoint import WEIGHTS
from tests.drills.conftest import Drill
from tests.fixtures.commands import ROOT, TUNE, UNCONFIRMED, environment
from tests.fixtures.nodes import Nodes, may_mount, ray_nodes
from tests.fixtures.object_store import BUCKET, S3Server
from tests.fixtures.outcomes import Outcome, count_differences
from tests.fixtures.sweeps import records_of, sweep_to_its_end
from tests.fixtures.undisturbed import count_other_evaluations
from tuning.storage.store import Store
from tuning.sweep_dir.layout import CHECKPOINTS, trial_folder

pytestmark = pytest.mark.slow
TRIALS = 12
EPOCHS = 20


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The quickstart's, with data that only the driver's machine has."""
    shutil.copytree(ROOT / "search_spaces" / "sample", tmp_path / "sample")
    study = tmp_path / "quickstart.yaml"
    text = (ROOT / "search_spaces" / "quickstart.yaml").read_text(encoding="utf-8")
    study.write_text(f"{text}\nstorage: s3://{BUCKET}/team\n", encoding="utf-8")
    return study


def until(true: Callable[[], bool], driver: subprocess.Popen[bytes], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert driver.poll() is None and time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


@pytest.mark.skipif(not may_mount(), reason="gives each node a /tmp of its own, which takes root's rights")
def test_no_trial_is_lost_with_a_node(s3: S3Server, study: Path, tmp_path: Path, cache: Path, drill: Drill) -> None:
    """A node of two without any common folder is killed in a sweep of 12 trials."""
    output = tmp_path / "output.txt"
    with ray_nodes(tmp_path, head_cpus=0, worker_cpus=[1, 1], apart=True, **s3.environment()) as nodes:
        sweep = run_and_kill(study, nodes, output)
    records = records_of(sweep)
    assert {record["state"] for record in records.values()} <= {"COMPLETE", "PRUNED"}, output.read_text()
    drill.lost("trials", len(set(range(TRIALS)) ^ records.keys()), of=TRIALS)

    ends = Counter(
        record["trial"]
        for record in map(json.loads, (sweep / "tracking.jsonl").read_text(encoding="utf-8").splitlines())
        if record["kind"] == "end" and record["trial"] is not None
    )
    drill.lost("trials that ended twice", sum(count > 1 for count in ends.values()), of=len(ends))
    store = Store.at(f"s3://{BUCKET}/team/{sweep.name}")
    logs = [(store.get(f"trials/{trial:04d}/log.txt") or b"").decode() for trial in range(TRIALS)]
    assert sorted(log.count("worker(s):") for log in logs)[-1] == 2, "one trial went on after its node was killed"

    differing, evaluations, besides = count_other_evaluations(sweep, cache)
    drill.lost("evaluations that are other than undisturbed", differing, of=evaluations)
    drill.lost("evaluations that nobody made", besides, of=evaluations)

    kept = {each for each in store.folders("trials") if f"/{CHECKPOINTS}/" in each}
    wanted = {
        f"{trial_folder(Path(), trial)}/{CHECKPOINTS}/{record['checkpoint']}"
        for trial, record in records.items()
        if record["checkpoint"]
    }
    drill.lost("checkpoints that are to be kept", len(wanted - kept), of=len(wanted))
    drill.lost("checkpoints that are to be removed", len(kept - wanted), of=len(kept))
    winner = json.loads((sweep / "winner.json").read_text(encoding="utf-8"))["winner"]["trial"]
    key = f"{trial_folder(Path(), winner)}/{CHECKPOINTS}/{records[winner]['checkpoint']}"
    assert store.download_folder(key, tmp_path / "checkpoint")
    there, exported = load_file(tmp_path / "checkpoint" / WEIGHTS), load_file(sweep / "model" / WEIGHTS)
    assert there.keys() == exported.keys()
    drill.lost("exported tensors", sum(bool((there[name] != exported[name]).any()) for name in there), of=len(there))


@pytest.mark.skipif(not may_mount(), reason="gives each node a /tmp of its own, which takes root's rights")
def test_trials_of_workers_on_two_nodes(s3: S3Server, study: Path, tmp_path: Path, drill: Drill) -> None:
    """Trials whose two workers are on nodes without any common folder: one of three nodes is killed under a trial."""
    options = ["--trials", "3", "--set", "train.epochs=8", "--set", "resources={workers: 2, concurrent: 1}"]
    output = tmp_path / "output.txt"
    with ray_nodes(tmp_path, head_cpus=0, worker_cpus=[1, 1, 1], apart=True, **s3.environment()) as nodes:
        driver = start_driver(study, nodes, output, *options, *UNCONFIRMED)
        try:
            until(lambda: any(20 <= each["progress"] < 70 for each in running(study.parent)), driver)
            used = [number for number, node in enumerate(nodes.workers) if has_a_worker(node)]
            assert len(used) == 2, "each worker has a node"
            nodes.kill_worker_node(used[0])
            assert driver.wait(400) == 0, output.read_text()
        finally:
            driver.kill()
    sweep = sweep_folder(study.parent)
    store = Store.at(f"s3://{BUCKET}/team/{sweep.name}")
    logs = [(store.get(f"trials/{trial:04d}/log.txt") or b"").decode() for trial in range(3)]
    assert sum(log.count("2 worker(s):") for log in logs) == 4, "the trial went on after its node was killed"
    sweep_to_its_end(tmp_path / "local", "one", *options, study=ROOT / "search_spaces" / "quickstart.yaml")
    count_differences(drill, Outcome.of(sweep), Outcome.of(tmp_path / "local" / "one"))


def has_a_worker(node: subprocess.Popen[bytes]) -> bool:
    """Whether a worker of a group runs on a node."""
    lines = (" ".join(child.cmdline()) for child in psutil.Process(node.pid).children(recursive=True))
    return any("TrainWorker" in line for line in lines)


def start_driver(study: Path, nodes: Nodes, output: Path, *options: str) -> subprocess.Popen[bytes]:
    with open(output, "wb") as printed:
        return subprocess.Popen(
            [*TUNE, "sweep", str(study), "--address", nodes.address, *options, "--name", "apart"],
            cwd=study.parent,
            env=environment(),
            stdout=printed,
            stderr=subprocess.STDOUT,
        )


def run_and_kill(study: Path, nodes: Nodes, output: Path) -> Path:
    """Run a sweep on the nodes, and kill one in which a trial has come to its second evaluation; the sweep's folder."""
    options = ["--trials", str(TRIALS), "--set", f"train.epochs={EPOCHS}", *UNCONFIRMED]
    driver = start_driver(study, nodes, output, *options)
    try:
        until(lambda: sum(20 <= each["progress"] < 60 for each in running(study.parent)) == 2, driver)
        nodes.kill_worker_node(1)
        assert driver.wait(400) == 0, output.read_text()
    finally:
        driver.kill()
    return sweep_folder(study.parent)


def sweep_folder(here: Path) -> Path:
    return here / "sweeps" / "apart"


def running(here: Path) -> list[dict[str, Any]]:
    return [each for each in records_of(sweep_folder(here)).values() if each["state"] == "RUNNING"]
