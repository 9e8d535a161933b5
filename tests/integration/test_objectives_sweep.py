"""Sweeps with several objectives, over the layers of an encoder: printed, on disk, in Optuna, MLflow and the report."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.fixtures.commands import ROOT, UNCONFIRMED, tune_forked
from tests.fixtures.encoders import make_encoder
from tests.fixtures.outcomes import Outcome
from tests.fixtures.report_page import ReportPage
from tests.fixtures.sweeps import ONE_AT_A_TIME, ending_all, progress_of, start_sweep, sweep_to_its_end, wait_for
from tests.fixtures.tracking import client_of

pytestmark = pytest.mark.slow
STUDY = """\
schema_version: 1
name: quickstart
task: nsmc
data: {{train: {sample}/train.tsv, test: {sample}/test.tsv, dev_fraction: 0.25, max_length: 24, max_unknown_rate: 1.0}}
model: {{backbone: {encoder}}}
optim: {{batch_size: 16, classifier_lr: 1e-3}}
train: {{epochs: 2}}
parameters:
  model.keep_layers: {{values: [1, 2, 3, 4]}}
  optim.backbone_lr: {{distribution: log_uniform, min: 1e-4, max: 5e-3}}
objective:
  - {{metric: eval/accuracy}}
  - {{metric: cost/parameters}}
  - {{metric: cost/model_mb, below: {bound}}}
search: {{startup_trials: 4, points: [{{model.keep_layers: 4}}]}}
scheduler: {{name: asha, grace_percent: 50, reduction_factor: 2}}
confirm: {{top: 1, seeds: 2}}
budget: {{trials: 8}}
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder("bert", tmp_path_factory.mktemp("encoder"), num_hidden_layers=4)


def bound_between(encoder: Path, layers: int) -> float:
    """A size in MB that so many layers keep, and one more breaks."""
    hidden, between = 32, 48
    layer = 4 * hidden * hidden + 2 * hidden * between + 9 * hidden + between
    file = encoder / "model.safetensors"
    return (file.stat().st_size - (4 - layers) * 4 * layer + 2 * layer) / 1e6


def study_in(folder: Path, encoder: Path, bound: float) -> Path:
    path = folder / "study.yaml"
    path.write_text(STUDY.format(sample=ROOT / "search_spaces" / "sample", encoder=encoder, bound=bound))
    return path


@pytest.fixture(scope="module")
def undisturbed(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with one trial at a time; what it printed is beside it."""
    folder = tmp_path_factory.mktemp("whole")
    study = study_in(folder, encoder, bound_between(encoder, 3))
    sweep_to_its_end(folder / "sweeps", "one", *ONE_AT_A_TIME, "--set", "confirm={top: 1, seeds: 2}", study=study)
    return folder / "sweeps" / "one"


def trials_of(sweep: Path) -> dict[int, dict[str, str]]:
    with open(sweep / "trials.csv", encoding="utf-8") as file:
        return {int(row["trial"]): row for row in csv.DictReader(file)}


def result_of(sweep: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep / "winner.json").read_text(encoding="utf-8"))
    return found


def test_the_winner_keeps_the_constraint_and_the_front_is_everywhere(undisturbed: Path) -> None:
    trials, result = trials_of(undisturbed), result_of(undisturbed)
    front = [each["trial"] for each in result["front"]]
    too_large = {number for number, row in trials.items() if row["model.keep_layers"] == "4"}
    assert 0 in too_large and {int(number) for number in result["breaking"]} == too_large
    assert trials[0]["state"] == "COMPLETE", "the baseline is never stopped"
    assert all(trials[number]["state"] == "PRUNED" and trials[number]["progress"] == "10" for number in too_large - {0})
    assert result["winner"]["trial"] not in too_large and result["verdict"]["winner"] == result["winner"]["trial"]
    assert front and {number for number, row in trials.items() if row["pareto_front"] == "yes"} == set(front)
    assert all((undisturbed / "trials" / f"{number:04}" / "checkpoints").is_dir() for number in front)
    printed = (undisturbed.parent / "one.out").read_text(encoding="utf-8")
    assert "Pareto front of max eval/accuracy, min cost/parameters:" in printed
    assert "constraints (cost/model_mb below" in printed
    page = ReportPage((undisturbed / "report.html").read_text(encoding="utf-8"))
    assert "Objectives and constraints" in page.headings
    assert page.table("The Pareto front").column("") == [f"trial {number}" for number in front]
    client = client_of(undisturbed.parent)
    runs = client.search_runs([client.get_experiment_by_name("quickstart").experiment_id])
    tags = {run.data.tags["kobert_tune.trial"]: run.data.tags for run in runs if "kobert_tune.trial" in run.data.tags}
    assert {int(trial) for trial, of in tags.items() if of.get("pareto_front") == "true"} == set(front)
    assert {int(trial) for trial, of in tags.items() if "breaks" in of} == too_large


def test_optunas_own_tools_open_the_journal(undisturbed: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(undisturbed / "optuna_journal.log")))
    study = optuna.load_study(study_name="one", storage=storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert {trial.number for trial in study.best_trials} == {each["trial"] for each in result_of(undisturbed)["front"]}
    assert optuna.visualization.plot_pareto_front(study).data


def test_a_killed_sweep_comes_to_the_same(undisturbed: Path, encoder: Path, tmp_path: Path) -> None:
    study = study_in(tmp_path, encoder, bound_between(encoder, 3))
    sweep = tmp_path / "sweeps" / "one"
    more = (*ONE_AT_A_TIME, "--set", "confirm={top: 1, seeds: 2}")
    for percent in (150, 420):
        process = start_sweep(tmp_path / "sweeps", "one", *more, study=study)
        with ending_all(process):
            assert wait_for(process, lambda percent=percent: progress_of(sweep) >= percent)  # type: ignore[misc]
            os.killpg(process.pid, signal.SIGKILL)
    sweep_to_its_end(tmp_path / "sweeps", "one", *more, study=study)
    found, expected = Outcome.of(sweep), Outcome.of(undisturbed)
    assert found.suggestions == expected.suggestions and found.weights == expected.weights
    assert found.ledger == expected.ledger and found.result == expected.result
    assert result_of(sweep)["front"] == result_of(undisturbed)["front"]


def test_where_no_trial_keeps_them_it_says_so(encoder: Path, tmp_path: Path) -> None:
    study = study_in(tmp_path, encoder, 0.001)
    command = ["sweep", study, "--name", "none", "--trials", "2", *UNCONFIRMED, "--json"]
    done = tune_forked(*command, cwd=tmp_path, code=1)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["winner"] is None
    assert result["unmet"].startswith("no trial keeps all constraints (cost/model_mb below 0.001): trial ")
    assert result["unmet"] in done.stderr
    assert not (tmp_path / "sweeps" / "none" / "model").exists()
    page = ReportPage((tmp_path / "sweeps" / "none" / "report.html").read_text(encoding="utf-8"))
    assert any(text.startswith("No trial keeps all constraints") for text in page.paragraphs)


def test_the_study_of_the_package_runs(shared: Path, tmp_path: Path) -> None:
    less = ("data.max_train_examples=64", "data.max_dev_examples=32", "data.test=null", "train.epochs=1")
    overrides = [word for each in less for word in ("--set", each)]
    study = ROOT / "search_spaces" / "nsmc-small-and-good.yaml"
    done = tune_forked("sweep", study, "--trials", "4", *overrides, "--json", cwd=tmp_path)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["constraints"] == ["cost/model_mb below 60"] and result["front"]
    assert result["winner"]["metrics"]["cost/model_mb"] <= 60
