"""What MLflow's page says of a sweep and of its trials."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.fixtures.sweeps import QUICKSTART
from tuning.study import load_study
from tuning.sweep_dir.descriptions import describe_sweep, describe_trial
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable


def test_of_a_trial_why_it_ended_what_it_came_to_and_its_values() -> None:
    metrics = {"eval/accuracy": 0.81234, "train/loss": 0.5}
    values = {"optim.backbone_lr": 3.14159e-5, "model.backbone": "a|b\n`c`"}
    record = TrialRecord(0, TrialState.PRUNED, values, progress=33, best_progress=20, metrics=metrics)
    assert describe_trial(record).split("\n\n") == [
        "**Pruned** at 33%: the scheduler stopped it.",
        "Best evaluation, at 20%: eval/accuracy 0.8123.",
        "| parameter | value |\n| --- | --- |\n| optim.backbone_lr | 3.142e-05 |\n| model.backbone | a\\|b `c` |",
    ]
    failed = TrialRecord(0, TrialState.FAILED, {}, progress=5)
    assert describe_trial(failed, reason="KeyError: `a`") == "**Failed** at 5%: `KeyError: 'a'`"


def test_of_a_sweep_the_outcome_the_best_trials_and_how_to_go_on(tmp_path: Path) -> None:
    study, folder = load_study(QUICKSTART), tmp_path / "a b"
    table = TrialTable(folder, study.objective)
    folder.mkdir()
    running = describe_sweep(study, table, status=None, result=None)
    assert running.startswith("**Running**: 10 trials for the maximum of eval/accuracy, by tpe, scheduler asha.")
    assert "| trial |" not in running
    for number in range(7):
        values = {"optim.backbone_lr": 10.0**-number, "model.backbone": f"/models/kobert-{number}"}
        table.put(TrialRecord(number, TrialState.COMPLETE, values, value=number / 10))
    result = {"verdict": {"sentence": "a tie"}, "winner": {"trial": 6, "value": 0.6}, "notes": ["one", "two"]}
    verdict, winner, notes, best, how, commands = describe_sweep(study, table, status="FINISHED", result=result).split(
        "\n\n"
    )
    assert (verdict, winner) == ("**a tie**", "**Winner: trial 6**, eval/accuracy 0.6000 (7 complete).")
    assert notes == "- one\n- two" and how.startswith("To go on")
    header, _, first, *others = best.splitlines()
    assert header == "| trial | eval/accuracy | state | optim.backbone_lr | model.backbone |"
    assert first == "| 6 | 0.6000 | complete | 1e-06 | kobert-6 |" and len(others) == 4
    again, report, page = map(shlex.split, commands.strip("`\n").splitlines())
    assert again[1:3] == ["sweep", str(folder / "study.yaml")] and again[-1] == "--resume"
    assert (report, page) == (["kobert-tune", "report", str(folder)], ["kobert-tune", "ui", str(folder)])
    assert describe_sweep(study, table, status="KILLED", result=None).startswith("**Interrupted** (7 complete).")
    assert describe_sweep(study, table, status="FAILED", result=None).startswith("**No winner** (7 complete).")
