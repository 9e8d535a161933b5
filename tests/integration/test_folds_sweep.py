"""One sweep over folds, stopped in the middle and taken up: trials, the one that is stopped early, the export."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ruamel.yaml import YAML

from kobert_core.checkpoint import load_weights
from kobert_core.evaluation import evaluate
from kobert_core.pretrained import load_pretrained
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import task_class
from tests.fixtures.commands import tune_forked
from tests.fixtures.sweeps import ending_all, start_sweep, sweep_to_its_end, wait_for, without_times
from tests.fixtures.tiny import SAMPLE, SIZES
from tests.fixtures.tracking import client_of
from tuning.study import load_study
from tuning.sweep.train_local import train_once

pytestmark = pytest.mark.slow  # that a run over folds goes on bit for bit, wherever it is cut, is a unit test

STUDY: dict[str, Any] = {
    "schema_version": 1,
    "name": "folded",
    "task": "nsmc",
    "data": {"train": str(SAMPLE / "train.tsv"), "test": str(SAMPLE / "test.tsv"), "folds": 3, "max_length": 32},
    "model": {"init": "random", "tokenizer_vocab_size": 1024, "config": SIZES},
    "optim": {"batch_size": 16, "classifier_lr": 2e-3},
    "train": {"epochs": 4, "eval_percent": 50},
    "parameters": {"optim.backbone_lr": {"distribution": "log_uniform", "min": 1e-9, "max": 1e-2}},
    "search": {"points": [{"optim.backbone_lr": 2e-3}, {"optim.backbone_lr": 1e-9}]},
    "scheduler": {"name": "asha", "grace_percent": 10, "reduction_factor": 2},
    "resources": {"concurrent": 1},
    "budget": {"trials": 2},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folded")
    YAML().dump(STUDY, folder / "study.yaml")
    return folder


@pytest.fixture(scope="module")
def sweep(work: Path) -> Path:
    """The folder of a sweep that was stopped in the second fold of its first trial."""
    folds = work / "folded" / "trials" / "0000" / "checkpoints" / "folds.json"
    process = start_sweep(work, "folded", study=work / "study.yaml")
    with ending_all(process):
        assert wait_for(process, lambda: folds.is_file() and len(json.loads(folds.read_text())["finished"]) == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 130
    sweep_to_its_end(work, "folded", "--resume", study=work / "study.yaml")
    return work / "folded"


@pytest.fixture(scope="module")
def trials(sweep: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((sweep / "trials.json").read_text(encoding="utf-8"))
    return found


def test_trials_report_at_folds_and_are_stopped_there(trials: list[dict[str, Any]]) -> None:
    assert [trial["state"] for trial in trials] == ["COMPLETE", "PRUNED"]
    assert [list(trial["curve"]) for trial in trials] == [["33", "66", "100"], ["33"]]
    for trial in trials:
        newest = list(trial["curve"].values())[-1]
        assert trial["value"] == newest == trial["metrics"]["eval/accuracy"]


def test_a_trial_that_was_stopped_and_taken_up_is_as_one_that_was_not(
    work: Path, sweep: Path, trials: list[dict[str, Any]]
) -> None:
    study = load_study(work / "study.yaml")
    said: list[str] = []
    undisturbed = train_once(study, say=said.append, cache=work / "cache", output=work / "alone")
    assert without_times(undisturbed.metrics) == without_times(trials[0]["metrics"])
    assert undisturbed.value == trials[0]["value"] and undisturbed.checkpoint == trials[0]["checkpoint"]
    assert "320 examples to train on, 160 examples to compare on, in the first of 3 folds" in said
    assert [line[:6] for line in said if line.startswith("fold ")] == [f"fold {n}" for n in (1, 1, 2, 2, 3, 3)]
    assert sum(line.startswith("mean of the folds:") for line in said) == 3
    weights = load_weights(sweep / "trials" / "0000" / "checkpoints" / trials[0]["checkpoint"])
    for name, tensor in load_pretrained(work / "alone").model.state_dict().items():
        assert torch.equal(weights[name], tensor), name


def test_what_is_kept_is_the_first_fold_s_best_model_and_the_metrics_of_all(
    work: Path, sweep: Path, trials: list[dict[str, Any]]
) -> None:
    for trial, folds in zip(trials, (3, 1), strict=True):
        kept = sweep / "trials" / f"{trial['trial']:04d}" / "checkpoints"
        assert sorted(file.name for file in kept.iterdir()) == ["folds.json", trial["checkpoint"]]
        finished = json.loads((kept / "folds.json").read_text(encoding="utf-8"))["finished"]
        scores = [fold["best"]["metrics"]["eval/accuracy"] for fold in finished]
        assert trial["value"] == pytest.approx(np.mean(scores)) and len(scores) == folds
        assert trial["metrics"]["folds/std"] == pytest.approx(np.std(scores))
    record = json.loads((sweep / "trials" / "0000" / "checkpoints" / "folds.json").read_text(encoding="utf-8"))
    first = record["finished"][0]["best"]["metrics"]
    exported = load_pretrained(sweep / "model")
    study = load_study(work / "study.yaml")
    dev = task_class("nsmc")(study.train_config(study.example_values()), tokenizer=exported.task.tokenizer).dev
    found = evaluate(exported.model, exported.task, dev, LocalRuntime(device=torch.device("cpu")))
    assert found == {name: value for name, value in first.items() if name in found}
    done = tune_forked("evaluate", sweep / "model", SAMPLE / "test.tsv", "--json", cwd=work)
    winner = json.loads((sweep / "winner.json").read_text(encoding="utf-8"))
    assert winner["winner"]["trial"] == 0
    assert json.loads(done.stdout.splitlines()[-1])["accuracy"] == winner["test"]["winner"]["test/accuracy"]
    card = (sweep / "model" / "README.md").read_text(encoding="utf-8")
    assert "as the mean of 3 folds among the trials" in card and "cut into 3 folds" in card
    assert "the weights are the best ones of the first fold, trained on the other 2, while the results below" in card


def test_the_search_and_mlflow_are_told_the_same(work: Path, sweep: Path, trials: list[dict[str, Any]]) -> None:
    storage = JournalStorage(JournalFileBackend(str(sweep / "optuna_journal.log")))
    told = optuna.load_study(study_name="folded", storage=storage).trials
    assert [trial.state.name for trial in told] == [trial["state"] for trial in trials]
    for trial, record in zip(told, trials, strict=True):
        assert trial.intermediate_values == {int(done): value for done, value in record["curve"].items()}
        assert record["state"] == "PRUNED" or trial.value == record["value"]
    client = client_of(work)
    runs = client.search_runs([client.get_experiment_by_name("folded").experiment_id], "tags.trial = '0'")
    assert runs[0].data.params["data.folds"] == "3" and "data.dev_fraction" not in runs[0].data.params
    history = client.get_metric_history(runs[0].info.run_id, "folds/std")
    assert [point.step for point in history] == [80, 160, 240]
    log = (sweep / "trials" / "0000" / "log.txt").read_text(encoding="utf-8")
    assert "fold 3: 100% step 80: " in log and "mean of the folds: 100% step 240: " in log
