"""What stands beside a winner's value: its state, who else has it, the baselines, and chance."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kobert_core.tasks import parse_train_config
from kobert_core.tasks.base import Chance
from kobert_core.tasks.question_answering.task import Korquad
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.commands import ROOT
from tuning.study import StudyConfig, load_study
from tuning.sweep.comparison import compare
from tuning.sweep.export import model_card
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, standing

HALF = Chance(0.5, "always the largest class")


@pytest.fixture
def study() -> StudyConfig:
    return load_study(ROOT / "search_spaces" / "quickstart.yaml")


def table_of(folder: Path, study: StudyConfig, *trials: tuple[str, int, float]) -> TrialTable:
    table = TrialTable(folder, study.objective)
    for number, (state, progress, value) in enumerate(trials):
        table.put(TrialRecord(number, state, {}, progress=progress, value=value, best_progress=20))  # type: ignore[arg-type]
    return table


def test_a_value_stands_beside_its_trial_and_how_far_that_came() -> None:
    assert standing(TrialRecord(0, "COMPLETE", {}, progress=100)) == "trial 0, complete"
    assert standing(TrialRecord(3, "PRUNED", {}, progress=50)) == "trial 3, pruned at 50%"
    assert standing(TrialRecord(3, "INTERRUPTED", {}, progress=7)) == "trial 3, interrupted at 7%"


@pytest.mark.parametrize(("complete_first", "ties"), [(False, (0, 1, 3)), (True, (1, 3))])
def test_equals_are_counted(tmp_path: Path, study: StudyConfig, complete_first: bool, ties: tuple[int, ...]) -> None:
    table = table_of(
        tmp_path,
        study,
        *(("PRUNED", 50, 0.8), ("COMPLETE", 100, 0.8), ("COMPLETE", 100, 0.7), ("COMPLETE", 100, 0.8)),
    )
    table.complete_first = complete_first
    found = compare(table, study, table.winner(), HALF)
    assert found.ties == ties
    assert found.notes == (f"{len(ties)} trials have the same best value; the first of them is taken",)
    table.put(TrialRecord(4, "COMPLETE", {}, progress=100, value=0.81))
    alone = compare(table, study, table.winner(), HALF)
    assert (alone.ties, alone.notes) == ((), ())


def test_a_winner_that_answers_the_same_to_all_is_told(tmp_path: Path, study: StudyConfig) -> None:
    table = table_of(tmp_path, study, ("COMPLETE", 100, 0.8))

    def notes(*reviews: list[dict[str, Any]]) -> tuple[str, ...]:
        return compare(table, study, table.winner(), HALF, reviews).notes

    def review(*predicted: object) -> list[dict[str, Any]]:
        return [{"expected": number % 2, "predicted": each} for number, each in enumerate(predicted)]

    assert notes(review("긍정", "긍정", "긍정")) == ("the winner answers `긍정` to all 3 rows of dev",)
    assert notes(review([], [])) == ("the winner answers nothing to all 2 rows of dev",)
    one_of_two = notes(review("긍정", "긍정"), review("긍정", "부정"))
    assert one_of_two == ("1 of 2 seeds of the winner answer `긍정` to all 2 rows of dev",)
    assert notes(review("긍정", "부정")) == notes(review("긍정")) == notes([]) == ()


def test_a_search_that_ran_out_of_patience_says_so(tmp_path: Path) -> None:
    study = load_study(ROOT / "search_spaces" / "quickstart.yaml", ["budget={trials: 3, patience: 1}"])
    table = table_of(tmp_path, study, ("COMPLETE", 100, 0.8), ("COMPLETE", 100, 0.7))
    (note,) = compare(table, study, table.winner(), HALF).notes
    assert note.startswith("the search has ended before its last trial: the latest 1 were no better")
    table.put(TrialRecord(2, "COMPLETE", {}, value=0.1))
    assert compare(table, study, table.winner(), HALF).notes == (), "no trial was left"


@pytest.mark.parametrize(("value", "named"), [(0.49, True), (0.5, True), (0.51, False)])
def test_a_winner_at_chance_level_is_named(tmp_path: Path, study: StudyConfig, value: float, named: bool) -> None:
    table = table_of(tmp_path, study, ("COMPLETE", 100, value), ("PRUNED", 50, 0.3))
    found = compare(table, study, table.winner(), HALF)
    assert found.notes == (("trial 0, complete: no better than always the largest class (0.5000)",) if named else ())
    assert json.loads(json.dumps(found.as_json()))["chance"] == {"value": 0.5, "by": "always the largest class"}


def test_the_card_says_how_far_each_came(tmp_path: Path, study: StudyConfig) -> None:
    table = table_of(tmp_path, study, ("PRUNED", 50, 0.6), ("COMPLETE", 100, 0.7))
    test = {"winner": {"test/accuracy": 0.72}, "trial_0": {"test/accuracy": 0.61}}
    beside = compare(table, study, table.winner(), Chance(0.7, "always the largest class"))
    card = model_card(tmp_path, study, table[1], test, beside)
    assert "| result (trial 1, complete) | value |" in card
    assert "| eval/accuracy, trial 0, pruned at 50% | 0.6 |\n| test/accuracy, trial 0, pruned at 50% | 0.61 |" in card
    assert "comparison" not in card
    assert "\n\n**Note:** trial 1, complete: no better than always the largest class (0.7000).\n\n" in card
    table.put(TrialRecord(0, "COMPLETE", {}, progress=100, value=0.6))
    card = model_card(tmp_path, study, table[1], test, compare(table, study, table[1], None))
    assert "| test/accuracy, trial 0, complete, for comparison | 0.61 |" in card


def test_chance_of_a_classifier_is_that_of_the_class_shares(tmp_path: Path) -> None:
    labels = np.array([0, 2, 2, 2, 0, 2, 2, 0, 2, 2])  # of class 1 there is none
    names = {"1": "bad", "2": "mixed", "3": "good"}
    data = {"train": tmp_path / "none.tsv", "labels": names}
    model = {"tokenizer_vocab_size": 64, "init": "random", "config": {"hidden_size": 8}}
    task = Nsmc(parse_train_config({"task": "nsmc", "data": data, "model": model}))
    examples: Any = SimpleLabels(labels)
    assert task.chance(examples, "eval/accuracy") == (0.7, "always the largest class")
    loss = task.chance(examples, "eval/loss")
    assert loss is not None
    assert loss.value == pytest.approx(-0.3 * math.log(0.3) - 0.7 * math.log(0.7), abs=1e-12)
    assert task.chance(examples, "train/loss") is None


class SimpleLabels(SimpleNamespace):
    """As much of the examples as a score reads."""

    def __init__(self, labels: np.ndarray) -> None:
        super().__init__(labels=labels, items=len(labels))

    def __len__(self) -> int:
        return len(self.labels)


@pytest.mark.parametrize(("unanswerable", "chance"), [(0, 0.0), (1, 25.0)])
def test_chance_of_questions_is_to_give_no_answer(tmp_path: Path, unanswerable: int, chance: float) -> None:
    given = {"answers": [{"text": "1443년", "answer_start": 4}], "is_impossible": False}
    none = {"answers": [], "is_impossible": True}
    qas = [{"id": str(n), "question": "언제?"} | (none if n < unanswerable else given) for n in range(4)]
    articles = [{"title": "세종", "paragraphs": [{"context": "세종은 1443년에.", "qas": qas}]}]
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"version": "v2.0", "data": articles}), encoding="utf-8")
    data = {"train": file, "dev": file}
    model = {"tokenizer_vocab_size": 40, "init": "random", "config": {"hidden_size": 8}}
    task = Korquad(parse_train_config({"task": "korquad", "data": data, "model": model}))
    assert task.chance(task.dev, "eval/f1") == task.chance(task.dev, "eval/exact_match") == (chance, "no answer at all")
    assert task.chance(task.dev, "eval/loss") is None
