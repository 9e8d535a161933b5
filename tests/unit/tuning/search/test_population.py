"""The values of a population: where it starts, and how copies explore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kobert_core.config import Objective
from kobert_core.errors import InputError
from search_spaces.distributions import Space
from tests.fixtures.commands import ROOT
from tuning.search.population import PerturbedTrial, RandomTrial, start_population
from tuning.study import SearchConfig, dump_study, load_study
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

SPACE = Space.from_dict(
    {
        "optim.backbone_lr": {"distribution": "log_uniform", "min": 1e-5, "max": 1e-3},
        "optim.weight_decay": {"distribution": "q_uniform", "min": 0.0, "max": 0.1, "q": 0.02},
        "model.dropout": {"values": [0.0, 0.1, 0.2, 0.3]},
    }
)


def test_copies_stay_near_their_donor_and_inside_the_space() -> None:
    donor = {"optim.backbone_lr": 9e-4, "optim.weight_decay": 0.1, "model.dropout": 0.3}
    seen = [SPACE.suggest(PerturbedTrial(np.random.default_rng(seed), donor)) for seed in range(400)]
    for values in seen:
        check(values)
    rates = np.array([values["optim.backbone_lr"] for values in seen])
    moved = np.isclose(rates, 9e-4 * 0.8) | np.isclose(rates, 1e-3)  # times 1.2 it leaves the space: its end
    assert 0.68 < moved.mean() < 0.82, "one in four is drawn anew"
    assert {values["optim.weight_decay"] for values in seen} > {0.08, 0.1}
    neighbours = np.mean([values["model.dropout"] in (0.2, 0.3) for values in seen])
    assert 0.8 < neighbours < 0.95  # three of four for sure, and half of those that are drawn anew


def check(values: dict) -> None:
    from search_spaces.validation import Problems

    problems = Problems()
    SPACE.find_problems(values, key="", problems=problems)
    assert not problems, problems


def test_a_population_starts_with_the_points_and_fills_the_space(tmp_path: Path) -> None:
    search = SearchConfig(seed=3, points=({"model.dropout": 0.2},))
    table = TrialTable(tmp_path, Objective(metric="eval/accuracy", mode="max"))
    population = start_population(table, SPACE, search, trials=60)
    assert [member["trial"] for member in population] == list(range(60))
    assert population[0]["values"]["model.dropout"] == 0.2
    assert population == start_population(table, SPACE, search, trials=60)
    rates = [np.log10(member["values"]["optim.backbone_lr"]) for member in population]
    assert np.histogram(rates, bins=4, range=(-5, -3))[0].min() >= 5
    assert {member["values"]["model.dropout"] for member in population} == {0.0, 0.1, 0.2, 0.3}
    assert SPACE.suggest(RandomTrial(np.random.default_rng(0), population[5]["values"])) == population[5]["values"]


def test_a_resumed_population_is_the_same_one(tmp_path: Path) -> None:
    objective = Objective(metric="eval/accuracy", mode="max")
    whole = start_population(TrialTable(tmp_path, objective), SPACE, SearchConfig(), trials=4)
    table = TrialTable(tmp_path, objective)
    table.put(TrialRecord(0, "COMPLETE", whole[0]["values"]))
    lineage = [{"from": 0, "progress": 20, "values": whole[1]["values"]}]
    table.put(TrialRecord(1, "INTERRUPTED", whole[1]["values"], lineage=lineage))
    assert start_population(table, SPACE, SearchConfig(), trials=3) == [whole[1] | {"lineage": lineage}, *whole[2:]]


def test_a_number_is_given_once_and_no_more_trials_than_asked_for(tmp_path: Path) -> None:
    """A crash while actors start leaves gaps in the table."""
    table = TrialTable(tmp_path, Objective(metric="eval/accuracy", mode="max"))
    for number in (0, 1, 3):
        table.put(TrialRecord(number, "INTERRUPTED", {"optim.backbone_lr": 1e-4}))
    numbers = [member["trial"] for member in start_population(table, SPACE, SearchConfig(), trials=5)]
    assert numbers == [0, 1, 3, 2, 4]
    assert len(start_population(table, SPACE, SearchConfig(), trials=2)) == 2


PBT = [
    "confirm=null",
    "scheduler.name=pbt",
    "parameters={optim.backbone_lr: {min: 1e-5, max: 1e-3}}",
    "search={seed: 1}",
]
QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


def test_a_resolved_study_loads_again(tmp_path: Path) -> None:
    study = load_study(QUICKSTART, PBT)
    dump_study(study, tmp_path / "study.yaml")
    assert load_study(tmp_path / "study.yaml") == study


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search={algorithm: random}", "takes the place of the search, but `search.algorithm` is given"),
        ("search={startup_trials: 3}", "`search.startup_trials` is given"),
        ("budget={patience: 3}", "begins all trials at once, but `budget.patience` is given"),
        ("parameters={optim.accumulation: {values: [1, 2]}}", "`optim.accumulation` cannot change in the middle"),
    ],
)
def test_what_a_population_cannot_do_is_refused(override: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_study(QUICKSTART, [*PBT, override])
