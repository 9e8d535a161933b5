"""The same values give the same numbers, so no point is trained twice, and a sweep ends when none is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from kobert_core.config import Objective
from search_spaces.distributions import Space
from tests.fixtures.commands import ROOT
from tuning.search.optuna_study import open_optuna_study
from tuning.search.population import start_population
from tuning.search.searcher import OptunaSearcher
from tuning.study import SearchConfig, load_study
from tuning.sweep_dir.layout import JOURNAL
from tuning.sweep_dir.trial_table import TrialTable

OBJECTIVE = Objective(metric="eval/accuracy", mode="max")
RATES = Space.from_dict({"optim.backbone_lr": {"values": [1e-3, 2e-3, 4e-3]}})
STEPS = Space.from_dict(
    {
        "optim.layer_decay": {"distribution": "q_uniform", "min": 0.7, "max": 1.0, "q": 0.1},
        "optim.accumulation": {"min": 1, "max": 3},
    }
)
CONDITIONAL = Space.from_dict(
    {
        "optim.weight_decay": {"value": 0.01},
        "optim.schedule": {"values": ["linear", "constant"]},
        "optim.warmup_steps": {"values": [0, 10, 20], "when": {"optim.schedule": "linear"}},
    }
)
QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


def search_all(folder: Path, space: Space, search: SearchConfig, *, most: int, at_once: int = 1) -> list[Any]:
    """What a sweep trains until it ends, or has asked for so many: the study is opened again for each round."""
    found: list[Any] = []
    while len(found) < most:
        study = open_optuna_study(folder, name="study", objective=OBJECTIVE, search=search, resume=True)
        bridge = OptunaSearcher(study, space, search, OBJECTIVE)
        asked = {str(place): bridge.suggest(str(place)) for place in range(at_once)}
        running = {name: config for name, config in asked.items() if config != Searcher.FINISHED}
        for name, config in running.items():
            for progress in range(10, 101, 10):
                bridge.on_trial_result(name, {"progress": progress, "objective": 0.01 * config["trial"]})
            bridge.on_trial_complete(name)
            bridge.tell(name)
            found.append(config["values"])
        if len(running) < at_once:
            break
    return found


@pytest.mark.parametrize(
    ("algorithm", "space", "points", "at_once"),
    [
        ("grid", RATES, 3, 2),
        ("tpe", RATES, 3, 1),
        ("random", STEPS, 12, 1),
        ("tpe", STEPS, 12, 2),
        ("cmaes", STEPS, 12, 2),
        ("tpe", CONDITIONAL, 4, 1),
        ("random", Space({}), 1, 1),
    ],
)
def test_a_sweep_tries_every_point_once_and_ends(
    tmp_path: Path, algorithm: Any, space: Space, points: int, at_once: int
) -> None:
    search = SearchConfig(algorithm=algorithm, seed=1, startup_trials=2)
    tried = search_all(tmp_path, space, search, most=30, at_once=at_once)
    assert len(tried) == points
    assert len({space.identity(values) for values in tried}) == points
    for values in tried:
        space.contains(values)


def test_a_space_without_end_draws_what_it_always_drew(tmp_path: Path) -> None:
    space = Space.from_dict({"optim.backbone_lr": {"distribution": "log_uniform", "min": 1e-5, "max": 1e-3}})
    tried = search_all(tmp_path, space, SearchConfig(seed=3, startup_trials=2), most=5)
    before = [
        8.039241726800128e-05,
        0.0003136908813755277,
        0.0009316059684427109,
        1.0847248295094235e-05,
        1.2169695486671224e-05,
    ]
    assert [values["optim.backbone_lr"] for values in tried] == pytest.approx(before, rel=1e-9)


def test_a_driver_killed_at_any_line_of_the_journal_draws_the_same_points(tmp_path: Path) -> None:
    """Also where the first draws are repeats."""
    search, whole = SearchConfig(seed=1, startup_trials=2), tmp_path / "whole"
    whole.mkdir()
    expected = search_all(whole, STEPS, search, most=12)
    lines = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    asked = [place for place, line in enumerate(lines) if b"param_name" in line or b'"op_code":4' in line]
    for place in asked[-6:]:  # of the last points, which are hard to find
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(b"".join(lines[:place]))
        ended = sum(b'"state":1' in line for line in lines[:place])
        assert expected[:ended] + search_all(folder, STEPS, search, most=12) == expected, place


def test_a_point_given_twice_is_trained_once(tmp_path: Path) -> None:
    point = {"optim.layer_decay": 0.8, "optim.accumulation": 2}
    search = SearchConfig(seed=1, points=(point, point, {"optim.layer_decay": 0.8}))
    first, second, third = search_all(tmp_path, STEPS, search, most=3)
    assert first == point
    assert STEPS.identity(second) != STEPS.identity(first)
    assert third["optim.layer_decay"] == 0.8 and third["optim.accumulation"] != 2


def test_what_rounding_makes_of_a_value_is_the_same_point() -> None:
    """Optuna draws `low + step * n`, which is not always what a study file says."""
    drawn, written = 0.7 + 2 * 0.1, 0.9
    assert drawn != written
    identities = {STEPS.identity({"optim.layer_decay": value, "optim.accumulation": 1}) for value in (drawn, written)}
    assert len(identities) == 1
    assert STEPS.identity({"optim.layer_decay": 0.9}) is None, "a part of a point is none"


def test_other_seeds_make_other_points(tmp_path: Path) -> None:
    space = Space.from_dict({"optim.backbone_lr": {"values": [1e-3]}, "train.seed": {"min": 0, "max": 3}})
    tried = search_all(tmp_path, space, SearchConfig(), most=9)
    assert sorted(values["train.seed"] for values in tried) == [0, 1, 2, 3]


def test_a_population_does_not_begin_with_the_same_trial_twice(tmp_path: Path) -> None:
    search = SearchConfig(points=({"optim.backbone_lr": 2e-3}, {"optim.backbone_lr": 2e-3}))
    started = start_population(TrialTable(tmp_path, OBJECTIVE), RATES, search, trials=4)
    rates = [member["values"]["optim.backbone_lr"] for member in started]
    assert rates[0] == 2e-3 and set(rates[:3]) == {1e-3, 2e-3, 4e-3}
    assert rates[3] in rates[:3], "there are only three"


@pytest.mark.parametrize(
    ("overrides", "trials"),
    [
        (["parameters={optim.backbone_lr: {values: [1e-3, 2e-3, 4e-3]}}", "search={algorithm: grid}"], 3),
        (["parameters={optim.backbone_lr: {values: [1e-3, 2e-3, 4e-3]}}", "search={}"], 3),
        (["parameters={optim.backbone_lr: {min: 1e-3, max: 2e-3}}", "search={}"], 5),
        (["parameters={}", "search={}"], 1),
        (["parameters={optim.backbone_lr: {values: [1e-3, 2e-3]}}", "search={}", "scheduler.name=pbt"], 5),
    ],
)  # fmt: skip
def test_a_sweep_has_no_more_trials_than_points(overrides: list[str], trials: int) -> None:
    study = load_study(QUICKSTART, [*overrides, "confirm=null", "budget.trials=5"])
    assert study.trials_left() == trials


def test_points_that_an_older_version_trained_twice_leave_room_for_the_others() -> None:
    rates = "parameters={optim.backbone_lr: {values: [1e-3, 2e-3, 4e-3]}}"
    study = load_study(QUICKSTART, [rates, "search={}", "budget.trials=9"])
    assert study.trials_left([{"optim.backbone_lr": rate} for rate in (4e-3, 1e-3, 4e-3)]) == 1
