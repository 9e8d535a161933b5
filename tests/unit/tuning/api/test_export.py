"""A sweep that goes on after it had a winner: what won then is not taken for what the trial is now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from kobert_core.io.checksums import sealed
from tests.fixtures.sweeps import QUICKSTART
from tuning.api.export import export_trial
from tuning.api.sweep import Sweep
from tuning.study import StudyConfig, dump_study, load_study
from tuning.sweep.comparison import trial_as_json
from tuning.sweep.promote_model import model_to_register
from tuning.sweep_dir.layout import MODEL, STUDY, WINNER
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable


@pytest.fixture
def study() -> StudyConfig:
    return load_study(QUICKSTART, ["confirm=null"])


@pytest.fixture
def table(study: StudyConfig, tmp_path: Path) -> TrialTable:
    """A sweep whose time was over, with an interrupted winner."""
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    dump_study(study, sweep / STUDY)
    table = TrialTable.of(sweep, study)
    table.put(TrialRecord(0, "COMPLETE", {}, 100, steps=100, value=0.7, checkpoint="update-00000100"))
    table.put(interrupted(20, 0.8))
    winner = table.winner()
    assert winner is not None and winner.trial == 1
    result = {
        "states": table.states(),
        "steps": table.steps,
        "winner": trial_as_json(winner),
        "test": {"winner": {"test/accuracy": 0.79}},
    }
    (sweep / MODEL).mkdir()
    (sweep / WINNER).write_text(json.dumps(sealed(result)), encoding="utf-8")
    return table


def interrupted(steps: int, value: float) -> TrialRecord:
    metrics = {"eval/accuracy": value}
    checkpoint = f"update-{steps:08}"
    return TrialRecord(1, "INTERRUPTED", {}, steps, steps=steps, value=value, metrics=metrics, checkpoint=checkpoint)


def test_a_winner_that_has_gone_on_is_not_exported_as_the_winner(table: TrialTable, tmp_path: Path) -> None:
    table.put(interrupted(40, 0.85))
    with pytest.raises(InputError, match="trial 1 has gone on since it won") as refused:
        export_trial(table.folder, None, tmp_path / "model")
    assert str(table.folder / MODEL) in str(refused.value) and "--resume" in str(refused.value)
    assert not (tmp_path / "model").exists()


def test_what_is_registered_has_the_numbers_that_it_won_with(table: TrialTable, study: StudyConfig) -> None:
    table.put(interrupted(40, 0.85))
    _, model, metrics = model_to_register(table.folder, study, None, None)
    assert model == table.folder / MODEL
    assert metrics == {"eval/accuracy": 0.8, "test/accuracy": 0.79}


def test_a_sweep_that_has_gone_on_has_no_result_yet(table: TrialTable) -> None:
    """As many trials are in each state as when it had one."""
    sweep = Sweep.open(table.folder)
    assert sweep.state == "finished"
    table.put(interrupted(40, 0.85))
    assert sweep.state == "interrupted"
