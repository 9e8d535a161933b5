"""An exported model says what its weights were trained with, as the sweep's ledger does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kobert_core.errors import InputError
from kobert_core.io.checksums import check_sums
from kobert_core.pretrained import load_pretrained, save_model_files
from kobert_core.tasks import task_class
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.commands import ROOT
from tests.fixtures.tiny import SIZES
from tuning.search.population import start_population
from tuning.study import StudyConfig, load_study
from tuning.sweep.export import export_model
from tuning.sweep_dir.layout import CHECKPOINTS, MODEL_FILES, trial_folder
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

FIRST = {"optim.backbone_lr": 1e-4, "model.dropout": 0.1, "model.hidden_dropout": 0.1}
DONOR = {"optim.backbone_lr": 2e-3, "model.dropout": 0.2, "model.hidden_dropout": 0.3}
OWN = {"optim.backbone_lr": 3e-3, "model.dropout": 0.3, "model.hidden_dropout": 0.4}
COPY = {"from": 1, "progress": 40, "values": OWN, "weights_of": DONOR}


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    rates = "optim.backbone_lr: {min: 0.0, max: 1.0}"
    dropouts = "model.dropout: {min: 0.0, max: 0.5}, model.hidden_dropout: {min: 0.0, max: 0.5}"
    shape = f"model={{init: random, tokenizer_vocab_size: 1200, config: {json.dumps(SIZES)}}}"
    quickstart = ROOT / "search_spaces" / "quickstart.yaml"
    population = ["search={}", "scheduler.name=pbt", "confirm=null"]
    return load_study(quickstart, [f"parameters={{{rates}, {dropouts}}}", *population, shape])


@pytest.fixture(scope="module")
def sweep(study: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a trial that began with `FIRST` leaves."""
    sweep = tmp_path_factory.mktemp("sweep")
    task = task_class(study.task)(study.train_config(FIRST))
    here = trial_folder(sweep, 0)
    save_model_files(here / MODEL_FILES, task)
    save_checkpoint(here / CHECKPOINTS / "update-00000001", task.build_model(), {})
    return sweep


def record_with(values: dict[str, Any], **more: Any) -> TrialRecord:
    return TrialRecord(0, "COMPLETE", values, checkpoint="update-00000001", **more)


def exported(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads((folder / "train_config.json").read_text()), json.loads((folder / "config.json").read_text())


def test_a_copy_is_exported_with_the_values_of_its_weights(study: StudyConfig, sweep: Path, tmp_path: Path) -> None:
    export_model(sweep, study, record_with(FIRST), tmp_path / "first")
    export_model(sweep, study, record_with(OWN, lineage=[COPY]), tmp_path / "copy")
    before, shape_before = exported(tmp_path / "first")
    config, shape = exported(tmp_path / "copy")
    assert (before["optim"]["backbone_lr"], shape_before["hidden_dropout_prob"]) == (1e-4, 0.1)
    assert (config["optim"]["backbone_lr"], config["model"]["dropout"], config["model"]["hidden_dropout"]) == (
        3e-3,
        0.3,
        0.4,
    )
    dropouts = {"hidden_dropout_prob": 0.4, "classifier_dropout": 0.3}
    assert shape == shape_before | dropouts, "nothing else is other"
    check_sums(tmp_path / "copy")
    loaded = load_pretrained(tmp_path / "copy")
    assert loaded.model.dropout.p == 0.3
    assert "| `optim.backbone_lr` | 0.003 |" in (tmp_path / "copy" / "README.md").read_text()


def test_a_ledger_that_says_something_else_is_refused(study: StudyConfig, sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"trials\.json has another `optim\.backbone_lr` for trial 0 than it was trained"
    ):
        export_model(sweep, study, record_with(FIRST | {"optim.backbone_lr": 5e-4}), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_metric_stands_beside_the_values_that_it_came_from(study: StudyConfig, tmp_path: Path) -> None:
    """A copy's first report is that of the other trial; its own values come to something after that."""
    record = TrialRecord(0, "RUNNING", FIRST)
    assert record.values_at(20) == FIRST
    record.lineage = [COPY]
    assert record.values_at(40) == DONOR
    assert record.values_at(60) == OWN
    record.values = record.values_at(40)
    table = TrialTable(tmp_path, study.objective)
    table.put(record)
    (resumed,) = start_population(table, study.space, study.search, trials=1)
    assert resumed["values"] == OWN, "it goes on with its own"
