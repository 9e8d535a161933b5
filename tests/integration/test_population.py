"""Population based training on real Ray: weak trials go on from the weights of strong ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from kobert_core.checkpoint import WEIGHTS
from tests.fixtures.commands import ROOT, tune_forked
from tuning.storage.store import Store

pytestmark = pytest.mark.slow
TRIALS = 4
RATES = ("optim.backbone_lr", "optim.classifier_lr")
ALIKE = ("trial", "state", "values", "progress", "value", "curve", "lineage", "checkpoint", "best_progress")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A population of four on one worker group, two of which cannot learn at the rate that they begin with."""
    folder = tmp_path_factory.mktemp("population")
    study = YAML(typ="safe").load((ROOT / "search_spaces" / "quickstart.yaml").read_text(encoding="utf-8"))
    del study["confirm"]
    for split in ("train", "test"):
        study["data"][split] = str(ROOT / "search_spaces" / study["data"][split])
    space = {name: {"distribution": "log_uniform", "min": 1e-7, "max": 5e-3} for name in RATES}
    points = [dict.fromkeys(RATES, rate) for rate in (1e-7, 2e-3, 1e-3, 2e-7)]
    study |= {
        "parameters": space,
        "search": {"points": points, "seed": 1},
        "scheduler": {"name": "pbt", "interval_percent": 20},
        "resources": {"concurrent": 1},
        "budget": {"trials": TRIALS},
    }
    with open(folder / "study.yaml", "w") as file:
        YAML().dump(study, file)
    tune_forked("sweep", "study.yaml", "--name", "population", cwd=folder)
    yield folder / "sweeps" / "population"


def test_in_an_object_store_it_comes_to_the_same(sweep: Path, tmp_path: Path) -> None:
    address = f"file://{tmp_path}/store"
    study = sweep.parents[1] / "study.yaml"
    tune_forked("sweep", study, "--name", "population", "--set", f"storage={address}", cwd=tmp_path)
    theirs = records(tmp_path / "sweeps" / "population")
    for ours, stored in zip(records(sweep), theirs, strict=True):
        assert {name: ours[name] for name in ALIKE} == {name: stored[name] for name in ALIKE}
    kept = {f"{each['trial']:04d}/checkpoints/{each['checkpoint']}" for each in theirs if each["checkpoint"]}
    there = Store.at(address).folders("population/trials")
    assert {each.split("/", 2)[2] for each in there if not each.endswith("/model")} == kept
    model, other = (load_file(each / "model" / WEIGHTS) for each in (sweep, tmp_path / "sweeps" / "population"))
    assert all(torch.equal(model[name], other[name]) for name in model)


def records(sweep: Path) -> list[dict[str, Any]]:
    return list(json.loads((sweep / "trials.json").read_text()))


def test_every_trial_runs_to_its_end(sweep: Path) -> None:
    assert [(record["trial"], record["state"], record["progress"]) for record in records(sweep)] == [
        (trial, "COMPLETE", 100) for trial in range(TRIALS)
    ]
    assert not list(sweep.glob("trials/*/donations"))


def sessions(sweep: Path, trial: int) -> list[str]:
    """The log of a trial, from each of its copies of another trial on."""
    return (sweep / "trials" / f"{trial:04d}" / "log.txt").read_text().split("goes on from ")[1:]


def test_weak_trials_go_on_from_the_weights_of_strong_ones(sweep: Path) -> None:
    copied = [record for record in records(sweep) if record["lineage"]]
    assert copied, "no trial was replaced"
    for record in copied:
        assert len(sessions(sweep, record["trial"])) == len(record["lineage"])
        for step, log in zip(record["lineage"], sessions(sweep, record["trial"]), strict=True):
            donor = (sweep / "trials" / f"{step['from']:04d}" / "log.txt").read_text()
            (report,) = set(re.findall(rf"^ *{step['progress']}% step .*?(?= \(best\)|$)", donor, re.MULTILINE))
            assert log.splitlines()[1].startswith(report), "its first report is the donor's"
    began_weak = [record for record in copied if record["trial"] == 3]
    assert not records(sweep)[0]["lineage"], "as weak, but the baseline"
    assert began_weak and all(record["lineage"][0]["from"] in (1, 2) for record in began_weak)


def test_a_copy_explores_in_the_space_and_trains_at_its_own_rates(sweep: Path) -> None:
    for record in records(sweep):
        for step, log in zip(record["lineage"], sessions(sweep, record["trial"]), strict=True):
            assert all(1e-7 <= step["values"][name] <= 5e-3 for name in RATES)
            after = [line for line in log.splitlines()[2:] if "% step" in line and not line.startswith("100%")]
            rates = [[float(re.search(rf"{name}=(\S+)", line)[1]) for name in RATES] for line in after]
            own = [step["values"][name] for name in RATES]
            assert rates[-1][0] / rates[-1][1] == pytest.approx(own[0] / own[1], rel=1e-4)
            assert rates[-1][0] < own[0]
        if record["lineage"]:
            copy = record["lineage"][-1]
            assert record["values"] == copy["values" if record["best_progress"] > copy["progress"] else "weights_of"]


def test_an_export_says_what_its_weights_were_trained_with(sweep: Path, tmp_path: Path) -> None:
    for record in records(sweep):
        if record["checkpoint"]:
            output = tmp_path / str(record["trial"])
            tune_forked("export", sweep, "--trial", record["trial"], "--output", output, cwd=tmp_path)
            optim = json.loads((output / "train_config.json").read_text())["optim"]
            assert {name: optim[name.partition(".")[2]] for name in RATES} == record["values"]
    winner = json.loads((sweep / "winner.json").read_text())["winner"]
    assert records(sweep)[winner["trial"]]["values"] == winner["values"]


def test_each_evaluation_is_in_mlflow_once(sweep: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{sweep.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    for record in records(sweep):
        (run,) = client.search_runs([experiment.experiment_id], f"tags.trial = '{record['trial']}'")
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "progress")
        assert len({metric.step for metric in history}) == len(history) >= 10
        copied = json.loads(run.data.tags.get("lineage", "[]"))
        assert copied == record["lineage"]
        assert not copied or json.loads(run.data.tags["values"]) == record["values"]
