"""A sweep over a head and two worker nodes, of which one is killed: no trial is lost, done twice, or changed."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kobert_core.tasks import task_class
from kobert_core.training import train
from tests.fixtures.commands import ROOT, TUNE, UNCONFIRMED, environment
from tests.fixtures.nodes import Nodes, ray_nodes
from tests.fixtures.undisturbed import Until
from tuning.study import load_study

pytestmark = pytest.mark.slow
QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
TRIALS, SWEEP = 6, "killed"


def until(true: Any, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Its folder, output and nodes; a node was killed while a trial ran on each."""
    folder = tmp_path_factory.mktemp("cluster")
    with ray_nodes(folder, head_cpus=0, worker_cpus=[1, 1]) as nodes:
        yield {"folder": folder / "sweeps" / SWEEP, "output": run_and_kill(folder, nodes)}


def run_and_kill(folder: Path, nodes: Nodes) -> str:
    options = [
        "--address",
        nodes.address,
        "--name",
        SWEEP,
        "--trials",
        str(TRIALS),
        "--set",
        "train.epochs=20",
        *UNCONFIRMED,
    ]
    with open(folder / "output.txt", "w+") as output:
        driver = subprocess.Popen(
            [*TUNE, "sweep", str(QUICKSTART), *options],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: sum(20 <= r["progress"] < 60 for r in running(folder / "sweeps" / SWEEP)) == 2)
            nodes.kill_worker_node(1)
            assert driver.wait(240) == 0, (folder / "output.txt").read_text()
        finally:
            driver.kill()
        return (folder / "output.txt").read_text()


def running(sweep: Path) -> list[dict[str, Any]]:
    ledger = sweep / "trials.json"
    return [r for r in json.loads(ledger.read_text()) if r["state"] == "RUNNING"] if ledger.is_file() else []


def test_every_trial_ends_once(sweep: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    records = json.loads((sweep["folder"] / "trials.json").read_text())
    assert [record["trial"] for record in records] == list(range(TRIALS))
    assert {record["state"] for record in records} <= {"COMPLETE", "PRUNED"}, sweep["output"]
    logs = [(sweep["folder"] / "trials" / f"{trial:04d}" / "log.txt").read_text() for trial in range(TRIALS)]
    begun = [log.count("worker(s):") for log in logs]
    assert Counter(begun) == {1: TRIALS - 1, 2: 1}, "one trial went on after its node was killed"
    client = MlflowClient(f"sqlite:///{sweep['folder'].parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert Counter(run.info.status for run in runs)["RUNNING"] == 0
    assert len(runs) == TRIALS + 1


def test_each_curve_is_that_of_the_same_values_undisturbed(sweep: dict[str, Any], cache: Path) -> None:
    study = load_study(sweep["folder"] / "study.yaml")
    for record in json.loads((sweep["folder"] / "trials.json").read_text()):
        config = study.train_config(record["values"])
        runtime = Until(record["progress"])
        train(config, task_class(config.task)(config, cache=cache), runtime)
        histories = curves(sweep["folder"], record["trial"])
        assert {"eval/accuracy", "eval/loss", "train/loss"} < set(histories)
        for name, curve in histories.items():
            undisturbed = {step: report.metrics[name] for step, report in runtime.reports.items()}
            assert curve == undisturbed, (record["trial"], name)


def curves(folder: Path, trial: int) -> dict[str, dict[int, float]]:
    """The metrics of a trial in MLflow but its speed: `{name: {step: value}}`, each step once."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.trial = '{trial}'")
    found = {}
    for name in run.data.metrics:
        if name == "progress" or "per_second" in name:
            continue
        history = client.get_metric_history(run.info.run_id, name)
        assert len({metric.step for metric in history}) == len(history)
        found[name] = {metric.step: metric.value for metric in history}
    return found
