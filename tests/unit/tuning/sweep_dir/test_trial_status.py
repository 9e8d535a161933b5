"""How a trial ended, and what Optuna and MLflow hear of it."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState as OptunaState

from tuning.sweep_dir.trial_status import OPTUNA_STATES, RUN_STATUS, TrialState, run_end, state_at_end
from tuning.sweep_dir.trial_table import TrialRecord
from tuning.tracking import DESCRIPTION_TAG


def test_how_a_trial_ended() -> None:
    assert state_at_end(100) == "COMPLETE" and state_at_end(99) == state_at_end(0) == "PRUNED"
    assert state_at_end(100, failed=True) == "FAILED"
    assert state_at_end(50, paused=True) == "PAUSED" and state_at_end(100, paused=True) == "COMPLETE"
    assert state_at_end(50, lost=True) == state_at_end(50, failed=True, lost=True) == "INTERRUPTED"


def test_every_state_has_one_of_optuna_and_every_end_a_status() -> None:
    assert {OptunaState[OPTUNA_STATES[state]] for state in TrialState} == set(OptunaState)
    assert set(RUN_STATUS) == set(TrialState) - {TrialState.RUNNING}


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("COMPLETE", ("FINISHED", {})),
        ("PRUNED", ("KILLED", {"pruned": "true"})),
        ("FAILED", ("FAILED", {"reason": "ValueError: no"})),
        ("INTERRUPTED", ("KILLED", {"interrupted": "true"})),
        ("PAUSED", ("SCHEDULED", {})),
    ],
)
def test_what_mlflow_hears(state: str, end: tuple[str, dict[str, str]]) -> None:
    record = TrialRecord(0, TrialState(state), {}, progress=30, reason="Traceback\nValueError: no")
    status, tags = run_end(record)
    assert tags.pop("state") == state and state.capitalize() in tags.pop(DESCRIPTION_TAG)
    assert (status, tags) == end


def test_a_copy_says_its_values_beside_its_end() -> None:
    step = {"from": 1, "progress": 10, "values": {"train.epochs": 2}, "weights_of": {"train.epochs": 1}}
    record = TrialRecord(0, TrialState.PRUNED, {"train.epochs": 2}, lineage=[step])
    assert run_end(record)[1].items() >= {"pruned": "true", "values": '{"train.epochs": 2}'}.items()
