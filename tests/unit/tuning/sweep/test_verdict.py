"""What may be said of a winner, and what is exported then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.commands import ROOT
from tuning.statistics.intervals import difference
from tuning.study import StudyConfig, load_study
from tuning.sweep.comparison import Comparison
from tuning.sweep.confirm import candidates_of
from tuning.sweep.export import model_card
from tuning.sweep.verdict import interval_in_words, judge
from tuning.sweep_dir.confirm_runs import ConfirmRun, ConfirmRuns
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable


def study_with(*overrides: str) -> StudyConfig:
    return load_study(ROOT / "search_spaces" / "quickstart.yaml", ["confirm={}", *overrides])


def runs_of(trial: int, *means: float, seconds: float = 1.0) -> list[ConfirmRun]:
    """Complete runs with these accuracies on the holdout, whose parts differ a little."""
    wobble = 0.01 * np.cos(np.arange(20))
    return [
        ConfirmRun(
            number,
            "verdict",
            trial,
            number,
            TrialState.COMPLETE,
            holdout={"holdout/accuracy": mean, "holdout/loss": mean},
            pseudo_values=(mean + wobble - wobble.mean()).tolist(),
            seconds=seconds,
        )
        for number, mean in enumerate(means)
    ]


LOW, HIGH, SAME = (0.80, 0.81, 0.805), (0.90, 0.91, 0.905), (0.79, 0.83, 0.81)


def test_a_better_trial_is_the_winner() -> None:
    found = judge(study_with(), 4, 0.93, runs_of(4, *HIGH), runs_of(0, *LOW))
    assert (found.outcome, found.winner, found.runs) == ("better", 4, 6)
    assert found.sentence.startswith("trial 4 is better than the recipe (trial 0) by 10.0 points (95% interval ")
    assert found.gain is not None and found.gain.low < 0.1 < found.gain.high
    assert found.means == pytest.approx({4: 0.905, 0: 0.805}) and found.optimism == pytest.approx(0.025)
    assert json.loads(json.dumps(found.as_json()))["gain"]["level"] == 0.95


@pytest.mark.parametrize(("last", "expected"), [("COMPLETE", [3, 2]), ("PRUNED", [1, 3, 2])])
def test_stopped_trials_are_candidates_only_where_no_other_is_complete(
    tmp_path: Path, last: str, expected: list[int]
) -> None:
    """What is exported are the weights of a trial, and not those of the runs with other seeds."""
    study = study_with()
    table = TrialTable.of(tmp_path, study)
    for number, (state, value) in enumerate([("COMPLETE", 0.9), ("PRUNED", 0.8), (last, 0.6), (last, 0.7)]):
        metrics = {"eval/loss": 1.0}
        table.put(TrialRecord(number, TrialState(state), {}, value=value, metrics=metrics, checkpoint="update-1"))
    assert [record.trial for record in candidates_of(study, table)] == expected


def test_a_worse_one_gives_way_to_the_recipe() -> None:
    found = judge(study_with(), 4, 0.93, runs_of(4, *LOW), runs_of(0, *HIGH))
    assert (found.outcome, found.winner) == ("worse", 0)
    assert "is worse than the recipe (trial 0) by 10.0 points" in found.sentence
    assert found.sentence.endswith("the recipe (trial 0) is exported")


@pytest.mark.parametrize(
    ("rule", "seconds", "winner"), [("baseline", 1, 0), ("cheapest", 1, 4), ("cheapest", 9, 0), ("best_mean", 9, 4)]
)
def test_what_wins_a_tie_is_what_the_study_says(rule: str, seconds: float, winner: int) -> None:
    ours, theirs = runs_of(4, *SAME, seconds=seconds), runs_of(0, *LOW, seconds=2)
    found = judge(study_with(f"confirm.tie={rule}"), 4, 0.93, ours, theirs)
    assert (found.outcome, found.winner) == ("tie", winner)
    named = "the recipe (trial 0)" if winner == 0 else "trial 4"
    assert "are a tie" in found.sentence and found.sentence.endswith(f"{named} is exported")


def test_less_is_better_where_the_study_says_so() -> None:
    found = judge(study_with("objective={metric: eval/loss, mode: min}"), 4, 0.7, runs_of(4, *LOW), runs_of(0, *HIGH))
    assert (found.outcome, found.winner) == ("better", 4) and found.optimism == pytest.approx(0.105)
    assert "by 0.1 (95% interval" in found.sentence  # no points: a loss is no share


def test_a_trial_that_fails_with_some_seeds_does_not_win() -> None:
    found = judge(study_with(), 4, 0.93, runs_of(4, *HIGH[:2]), runs_of(0, *LOW))
    assert (found.outcome, found.winner, found.gain) == ("unconfirmed", 0, None)
    assert found.sentence == "not confirmed: trial 4 fails with some seeds"
    assert judge(study_with(), 4, 0.93, runs_of(4, *HIGH), runs_of(0, *LOW[:2])).winner == 4


def test_without_points_the_baseline_is_no_recipe() -> None:
    found = judge(study_with("search.points=[]"), 4, 0.93, runs_of(4, *HIGH), runs_of(0, *LOW))
    assert found.sentence.startswith("trial 4 is better than trial 0 by")


def test_the_card_has_the_sentence_and_a_model_index(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    study = study_with()
    found = judge(study, 4, 0.93, runs_of(4, *HIGH), runs_of(0, *LOW))
    record = TrialRecord(4, TrialState.COMPLETE, {}, progress=100, value=0.93)
    test = {"winner": {"test/accuracy": 0.9}}
    card = model_card(tmp_path, study, record, test, Comparison(), found.as_json())
    assert f"\n**Verdict:** {found.sentence}.\n" in card
    results = ModelCard(card).data.eval_results
    assert results is not None
    found_there = {each.dataset_split: (each.metric_type, each.metric_value) for each in results}
    assert found_there == {"holdout": ("accuracy", pytest.approx(0.905)), "test": ("accuracy", 0.9)}


def test_the_ledger_comes_back_as_it_was(tmp_path: Path) -> None:
    runs = ConfirmRuns(tmp_path)
    first = runs.get("choose", 3, 77)
    assert runs.get("choose", 3, 77) is first and runs.get("verdict", 3, 77).number == 1
    first.state, first.value, first.metrics = TrialState.COMPLETE, 0.5, {"eval/accuracy": 0.5}
    runs.write()
    again = ConfirmRuns(tmp_path)
    assert list(again) == list(runs) and again.of("choose", 3) == [first] and again.of("verdict", 3) == []


def test_where_all_runs_answer_alike_no_interval_is_told() -> None:
    same = np.full((2, 10), 0.4)
    assert interval_in_words(difference(same, same), 1.0, runs=4) == "no difference on any row, 4 runs"
