"""`kobert-tune space` shows what the sweep will try: the same samplers, the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search_spaces.distributions import Space
from tests.fixtures.commands import ROOT, tune_here
from tuning.search.optuna_study import open_optuna_study
from tuning.search.preview import draws, first_trials
from tuning.search.searcher import OptunaSearcher
from tuning.study import StudyConfig, load_study

CONDITIONAL = """
parameters={optim.schedule: {values: [linear, constant]},
optim.warmup_ratio: {distribution: uniform, min: 0.0, max: 0.2, when: {optim.schedule: linear}},
optim.backbone_lr: {distribution: log_uniform, min: 1e-5, max: 1e-3},
optim.warmup_steps: {min: 1, max: 30, when: {optim.schedule: constant}},
optim.eps: {value: 1e-6}}
"""


def loaded(*overrides: str) -> StudyConfig:
    return load_study(ROOT / "search_spaces" / "quickstart.yaml", overrides)


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
def test_the_first_trials_are_those_of_the_searcher(algorithm: str, tmp_path: Path) -> None:
    overrides = ["search={algorithm: grid}", "parameters={optim.weight_decay: {values: [0.0, 0.01, 0.1]}}"]
    study = loaded(*(overrides if algorithm == "grid" else [f"search.algorithm={algorithm}"]))
    shown = first_trials(study, 3)
    opened = open_optuna_study(tmp_path, name=study.name, objective=study.objective, search=study.search, resume=False)
    searcher = OptunaSearcher(opened, space=study.space, search=study.search, objective=study.objective)
    asked = [searcher.suggest(str(number)) for number in range(3)]
    assert [each and each["values"] for each in asked] == shown


def test_draws_lie_in_the_space_and_conditions_hold() -> None:
    study = loaded(CONDITIONAL.replace("\n", " ").strip(), "search.points=[]")
    drawn = draws(study, 300)
    assert isinstance(study.space, Space) and list(drawn.columns) == list(study.space)
    assert (drawn["optim.warmup_ratio"].notna() == (drawn["optim.schedule"] == "linear")).all()
    assert 0.35 < (drawn["optim.backbone_lr"] < 1e-4).mean() < 0.65, "each order of magnitude equally often"
    steps = drawn["optim.warmup_steps"].dropna()
    assert steps.between(1, 30).all() and steps.nunique() > 20


def test_the_command_shows_all_parameters(tmp_path: Path) -> None:
    quickstart = ROOT / "search_spaces" / "quickstart.yaml"
    override = CONDITIONAL.replace("\n", " ").strip()
    done = tune_here(
        "space", quickstart, "--set", override, "--set", "search.points=[]", "--draws", 200, "--html", "space.html",
        cwd=tmp_path,
    )  # fmt: skip
    for name in ("optim.schedule", "optim.warmup_ratio", "optim.backbone_lr", "optim.warmup_steps", "optim.eps"):
        assert name in done.stdout
    assert "optim.schedule is " + json.dumps("linear") in done.stdout and "▇" in done.stdout
    page = (tmp_path / "space.html").read_text(encoding="utf-8")
    assert page.count("Plotly.newPlot(") >= 5 and "https://" not in page.split("<body>")[0]
