"""The trial table and its winner."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kobert_core.config import Objective
from kobert_core.errors import InputError
from tests.fixtures.sweeps import QUICKSTART, ROOT
from tuning.study import load_study
from tuning.sweep_dir.layout import TABLE
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, read_winner

MORE, LESS = Objective(metric="eval/accuracy", mode="max"), Objective(metric="eval/loss", mode="min")


def table(
    folder: Path, objective: Objective, *records: tuple[str, float | None], complete_first: bool = False
) -> TrialTable:
    found = TrialTable(folder, objective, complete_first=complete_first)
    for number, (state, value) in enumerate(records):
        found.put(TrialRecord(number, state, {"optim.backbone_lr": 10.0**-number}, value=value))
    return found


@pytest.mark.parametrize("state", ["PRUNED", "RUNNING", "PAUSED", "INTERRUPTED"])
def test_the_best_evaluation_wins_whatever_became_of_its_trial(tmp_path: Path, state: str) -> None:
    trials = ("COMPLETE", 0.7), (state, 0.9), ("COMPLETE", 0.8), ("FAILED", 0.99)
    found = table(tmp_path / "one", MORE, *trials)
    assert [record.trial for record in found.best(9)] == [1, 2, 0] and found.winner().trial == 1
    found = table(tmp_path / "two", MORE, *trials, complete_first=True)
    assert [record.trial for record in found.best(9)] == [2, 0, 1] and found.winner().trial == 2


@pytest.mark.parametrize(
    ("override", "complete_first"),
    [
        ("train.seed=1", False),
        (f"data={{train: {ROOT}/search_spaces/sample/train.tsv, folds: 3}}", True),
        ("objective=[{metric: eval/accuracy}, {metric: cost/train_seconds, below: 9}]", True),
        ("objective=[{metric: eval/accuracy}, {metric: cost/latency_ms}]", True),
    ],
)
def test_unfinished_trials_come_last_where_their_values_do_not_compare(
    tmp_path: Path, override: str, complete_first: bool
) -> None:
    study = load_study(QUICKSTART, ["confirm=null", override])
    assert TrialTable.of(tmp_path, study).complete_first == complete_first


def test_a_trial_without_a_checkpoint_does_not_win_over_one_that_has_one(tmp_path: Path) -> None:
    found = TrialTable(tmp_path, MORE)
    found.put(TrialRecord(0, "PRUNED", {}, value=0.9))  # an older version kept those of complete trials first
    assert found.winner().trial == 0
    found.put(TrialRecord(1, "COMPLETE", {}, value=0.8, checkpoint="update-00000001"))
    assert found.winner().trial == 1 and [record.trial for record in found.best(2)] == [0, 1]


def test_a_result_is_of_the_trials_that_are_as_they_were_then(tmp_path: Path) -> None:
    found = TrialTable(tmp_path, MORE)
    found.put(TrialRecord(0, "INTERRUPTED", {}, value=0.7, steps=10))
    result = {"states": found.states(), "steps": found.steps}
    assert found.is_of(result) and found.is_of({"states": found.states()}) and not found.is_of({"states": {}})
    found.put(TrialRecord(0, "INTERRUPTED", {}, value=0.8, steps=20))
    assert not found.is_of(result), "it has gone on, and was interrupted again"


def test_the_first_of_equals_wins_and_less_can_be_better(tmp_path: Path) -> None:
    assert table(tmp_path / "a", MORE, ("COMPLETE", 0.7), ("COMPLETE", 0.7)).winner().trial == 0
    assert table(tmp_path / "b", LESS, ("COMPLETE", 0.7), ("COMPLETE", 0.2)).winner().trial == 1


def test_patience_counts_the_trials_after_the_best_one_that_ended(tmp_path: Path) -> None:
    found = table(tmp_path, MORE, ("COMPLETE", 0.7), ("PRUNED", 0.8), ("PRUNED", 0.7), ("FAILED", None))
    assert found.is_out_of_patience(2) and not found.is_out_of_patience(3) and not found.is_out_of_patience(None)
    found.put(TrialRecord(4, "RUNNING", {}, value=0.99))
    assert found.is_out_of_patience(2) and not found.is_out_of_patience(3), "its end is still to come"
    found.put(TrialRecord(5, "COMPLETE", {}, value=0.8))
    assert found.is_out_of_patience(3), "as good is not better"
    found.put(TrialRecord(4, "COMPLETE", {}, value=0.81))
    assert TrialTable(tmp_path, MORE).is_out_of_patience(1) and not found.is_out_of_patience(2)
    assert not table(tmp_path / "none", MORE, ("FAILED", None), ("FAILED", None)).is_out_of_patience(1)


def test_when_all_fail_nobody_wins(tmp_path: Path) -> None:
    assert table(tmp_path, MORE, ("FAILED", None), ("FAILED", 0.4)).winner() is None


def test_a_table_is_read_back_as_it_was(tmp_path: Path) -> None:
    written = table(tmp_path, MORE, ("COMPLETE", 0.7), ("INTERRUPTED", None))
    written.put(TrialRecord(2, "FAILED", {}, reason='Traceback …\n  line\nValueError: a, "b"\n'))
    assert list(TrialTable(tmp_path, MORE)) == list(written)
    with open(tmp_path / TABLE, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["COMPLETE", "INTERRUPTED", "FAILED"]
    assert rows[2]["reason"] == 'ValueError: a, "b"' and rows[1]["optim.backbone_lr"] == "0.1"


def test_a_trial_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no trial 7 in this sweep; trials 0 to 0 are there"):
        table(tmp_path, MORE, ("COMPLETE", 0.7))[7]


def test_a_folder_without_a_winner_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"winner.json: the file is not there"):
        read_winner(tmp_path)
