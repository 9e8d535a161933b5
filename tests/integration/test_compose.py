"""docker/compose.yaml without Docker: its commands, settings and health checks as processes, and a sweep on them."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fixtures.commands import ROOT, TUNE, UNCONFIRMED
from tests.fixtures.compose import Stack, postgres_program, services
from tests.fixtures.nodes import free_port

needed = (postgres_program("initdb"), shutil.which("pg_isready"), shutil.which("wget"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not all(needed), reason="needs PostgreSQL's server and wget")]
SETTINGS = {"POSTGRES_PASSWORD": "p@ss:/wörd", "RAY_AUTH_TOKEN": "a-token-of-this-test-alone", "CPUS_PER_WORKER": "1"}
ON_ONE_MACHINE = ["--min-worker-port=0", "--max-worker-port=0"]
TRIALS = 4


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """PostgreSQL, MLflow, a head and two workers: each was healthy before the next was started."""
    with tempfile.TemporaryDirectory(prefix="compose-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        stack = Stack(services(SETTINGS), folder)
        try:
            stack.start_postgres()
            stack.start("mlflow")
            stack.start("head", f"--ray-client-server-port={free_port()}", *ON_ONE_MACHINE)
            for worker in ("a", "b"):
                stack.start("worker", f"--temp-dir={folder}/{worker}", *ON_ONE_MACHINE)
            yield stack
        finally:
            stack.stop()


@pytest.fixture(scope="module")
def sweep(stack: Stack) -> Path:
    """The folder of a sweep that was run on the head."""
    study = ROOT / "search_spaces" / "quickstart.yaml"
    options = ["--address", stack.gcs, "--output", str(stack.folder / "shared" / "sweeps"), "--name", "first"]
    done = subprocess.run(
        [*TUNE, "sweep", str(study), *options, "--trials", str(TRIALS), *UNCONFIRMED],
        cwd=stack.folder,
        env=stack.environment_of("head"),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return stack.folder / "shared" / "sweeps" / "first"


def mlflow(stack: Stack, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = requests.post(f"http://{stack.mlflow}/api/2.0/mlflow/{path}", json=body, timeout=30)
    response.raise_for_status()
    return dict(response.json())


def experiment_of(stack: Stack) -> str:
    query = {"experiment_name": "quickstart"}
    response = requests.get(f"http://{stack.mlflow}/api/2.0/mlflow/experiments/get-by-name", query, timeout=30)
    return str(response.json()["experiment"]["experiment_id"])


def test_the_server_keeps_every_run_in_postgresql(stack: Stack, sweep: Path) -> None:
    runs = mlflow(stack, "runs/search", {"experiment_ids": [experiment_of(stack)]})["runs"]
    states = json.loads((sweep / "winner.json").read_text())["states"]
    expected = Counter({"FINISHED": 1 + states["COMPLETE"], "KILLED": states.get("PRUNED", 0)})
    assert Counter(run["info"]["status"] for run in runs) == +expected
    assert len(runs) == 1 + TRIALS
    import psycopg

    host, port = stack.postgres.split(":")
    password = SETTINGS["POSTGRES_PASSWORD"]
    with psycopg.connect(host=host, port=port, user="mlflow", dbname="mlflow", password=password) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1 + TRIALS,)


def test_the_server_serves_the_winner(stack: Stack, sweep: Path) -> None:
    (model,) = mlflow(stack, "logged-models/search", {"experiment_ids": [experiment_of(stack)]})["models"]
    kept = model["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    files = {path.name: path.read_bytes() for path in (sweep / "model").iterdir() if path.is_file()}
    assert "model.safetensors" in files
    for name, content in files.items():
        url = f"http://{stack.mlflow}/api/2.0/mlflow-artifacts/artifacts/{kept}/{name}"
        assert requests.get(url, timeout=30).content == content, name
        assert (stack.folder / "artifacts" / kept / name).is_file(), "it is not in the volume"


def test_trials_ran_on_both_workers(stack: Stack, sweep: Path) -> None:
    token = {"Authorization": f"Bearer {SETTINGS['RAY_AUTH_TOKEN']}"}
    answer = requests.get(f"http://{stack.jobs}/api/v0/actors", {"limit": "1000"}, headers=token, timeout=30).json()
    actors = answer["data"]["result"]["result"]
    assert len({actor["node_id"] for actor in actors if "TrainWorker" in actor["class_name"]}) == 2
    assert all(process.is_healthy() for process in stack.processes)


def test_strangers_are_refused(stack: Stack) -> None:
    experiments = f"http://{stack.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    for host, status in {"mlflow:5000": 200, "localhost:5000": 200, "mlflow.example": 403}.items():
        assert requests.get(experiments, headers={"Host": host}, timeout=30).status_code == status, host
    assert requests.get(f"http://{stack.jobs}/api/jobs/", timeout=30).status_code == 401
