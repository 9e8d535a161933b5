"""`submit`, `status`, `stop` and `doctor` on a real head with worker nodes, as a user runs them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT, UNCONFIRMED, tune
from tests.fixtures.nodes import Nodes, may_mount, ray_nodes

pytestmark = pytest.mark.slow
QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with ray_nodes(tmp_path_factory.mktemp("nodes"), head_cpus=1, worker_cpus=[1], dashboard=True) as nodes:
        yield nodes


def test_the_doctor_finds_a_shared_folder_and_room(cluster: Nodes, tmp_path: Path) -> None:
    done = tune("doctor", QUICKSTART, "--address", cluster.address, "--json", cwd=tmp_path)
    findings = json.loads(done.stdout)["findings"]
    assert {finding["level"] for finding in findings} <= {"ok", "warning"}
    said = [finding["what"] for finding in findings]
    assert "sweeps is one folder on all machines" in said
    assert "2 trial(s) of `quickstart` run at once" in said
    too_much = tmp_path / "study.yaml"
    content = QUICKSTART.read_text().replace("sample/", f"{ROOT}/search_spaces/sample/")
    too_much.write_text(content + "resources: {workers: 9}\n")
    done = tune("doctor", too_much, "--address", cluster.address, cwd=tmp_path, code=1)
    assert "asks for 9 worker(s)" in done.stdout
    done = tune("sweep", too_much, "--dry-run", "--address", cluster.address, cwd=tmp_path, code=2)
    assert "asks for 9 worker(s)" in done.stderr and "on 2 machine(s)" in done.stderr


def test_a_submitted_sweep_is_followed_to_its_winner(cluster: Nodes, tmp_path: Path) -> None:
    sweeps = tmp_path / "sweeps"
    options = ["--address", cluster.jobs, "--trials", 3, "--name", "sent", "--output", sweeps, *UNCONFIRMED]
    done = tune("submit", QUICKSTART, *options, "--follow", cwd=tmp_path)
    assert "winner: trial" in done.stdout
    winner = json.loads((sweeps / "sent" / "winner.json").read_text())
    assert sum(winner["states"].values()) == 3
    assert (sweeps / "sent" / "model" / "model.safetensors").is_file()
    (job,) = json.loads(tune("status", "--address", cluster.jobs, "--json", cwd=tmp_path).stdout)["jobs"]
    assert (job["state"], job["exit_code"], job["folder"]) == ("SUCCEEDED", 0, str(sweeps / "sent"))
    assert "the sweep name `sent` is in use" in tune("submit", QUICKSTART, *options, cwd=tmp_path, code=2).stderr
    sweeps.rename(tmp_path / "out-of-sight")  # then the record of its job says so
    assert "the sweep name `sent` is in use" in tune("submit", QUICKSTART, *options, cwd=tmp_path, code=2).stderr


def test_stop_is_as_clean_as_ctrl_c_and_resume_goes_on(cluster: Nodes, tmp_path: Path) -> None:
    sweeps = tmp_path / "sweeps"
    options = ["--address", cluster.jobs, "--trials", 2, "--name", "long", "--output", sweeps, *UNCONFIRMED]
    long = ["--set", "train.epochs=60", "--set", "scheduler.name=none"]
    done = tune("submit", QUICKSTART, *options, *long, cwd=tmp_path)
    job = done.stdout.split()[1]
    busy = tune("submit", QUICKSTART, *options, *long, cwd=tmp_path, code=2)
    assert f"the sweep runs as job {job}" in busy.stderr
    ledger = sweeps / "long" / "trials.json"
    deadline = time.monotonic() + 120
    while not (ledger.is_file() and any(record["progress"] >= 10 for record in json.loads(ledger.read_text()))):
        assert time.monotonic() < deadline, tune("status", job, "--address", cluster.jobs, cwd=tmp_path).stdout
        time.sleep(0.3)
    assert "STOPPED" in tune("stop", job, "--address", cluster.jobs, cwd=tmp_path).stdout
    before = json.loads(ledger.read_text())
    assert {record["state"] for record in before} == {"INTERRUPTED"}
    tune("submit", QUICKSTART, *options, *long, "--resume", "--follow", cwd=tmp_path)
    after = json.loads(ledger.read_text())
    assert {record["state"] for record in after} == {"COMPLETE"}
    assert [record["values"] for record in after] == [record["values"] for record in before]


@pytest.mark.skipif(os.geteuid() != 0 or not may_mount(), reason="needs to mount a folder over another")
def test_a_folder_that_is_not_shared_is_found_before_anything_starts(tmp_path: Path) -> None:
    sweeps = tmp_path / "sweeps"
    sweeps.mkdir()
    with ray_nodes(tmp_path, head_cpus=1, worker_cpus=[1], hidden=sweeps) as nodes:
        done = tune("doctor", "--address", nodes.address, "--output", sweeps, cwd=tmp_path, code=1)
        assert f"does not share {sweeps}" in done.stdout
        options = ["--address", nodes.address, "--output", sweeps, "--name", "local"]
        refused = tune("sweep", QUICKSTART, *options, cwd=tmp_path, code=2)
        assert "does not share" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        assert not (sweeps / "local" / "study.yaml").exists(), "the name stays free"
