"""The part of a budget of time that is kept for the runs that confirm the winner."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fixtures.commands import ROOT
from tuning.study import load_study
from tuning.sweep.budget import Budget
from tuning.sweep.confirm import Confirmation, seconds_to_confirm
from tuning.sweep.session import Session
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


def test_the_search_leaves_time_for_what_follows_it(tmp_path: Path) -> None:
    told: list[bool] = []
    study = load_study(QUICKSTART, ["budget.wall_time=1000s"])
    budget = Budget(
        study, lambda: 1, lambda: told.append(True), folder=tmp_path, least_free=lambda: 0, session=Session()
    )
    assert budget.seconds_left == pytest.approx(1000, abs=30)
    budget.reserve = lambda: 300.0
    assert budget.seconds_left == pytest.approx(700, abs=30)
    budget.reserve = lambda: 9000.0
    assert budget.seconds_left == pytest.approx(500, abs=30)  # the search has half at least
    budget._begin -= 600
    assert budget.stop_all() and budget.stop_all() and told == [True]
    budget.release_reserve()
    assert not budget.stop_all() and budget.seconds_left == pytest.approx(400, abs=30)
    budget._begin -= 600
    assert budget.stop_all() and told == [True, True]


def test_hours_of_machines_count_for_as_long_as_they_are_there(tmp_path: Path) -> None:
    study = load_study(QUICKSTART, ["budget={cpu_hours: 2}", "resources={cpus_per_worker: 2, workers: 1}"])
    groups, session = [1], Session()
    budget = Budget(study, lambda: groups[0], lambda: None, folder=tmp_path, least_free=lambda: 0, session=session)
    assert budget.seconds_left == pytest.approx(3600, abs=30)
    groups[0] = 4
    assert budget.seconds_left == pytest.approx(900, abs=30)
    assert budget.seconds_left == pytest.approx(900, abs=30)
    budget._counted = budget._counted[0] - 450, 4  # they were there for so long
    assert budget.seconds_left == pytest.approx(450, abs=30)
    groups[0] = 1
    assert budget.seconds_left == pytest.approx(1800, abs=30)
    assert session.group_seconds == pytest.approx(1800, abs=30), "a process that replaces this one knows"
    budget._counted = budget._counted[0] - 1801, 1
    assert budget.stop_all()


def test_a_study_without_confirm_needs_no_baseline(tmp_path: Path) -> None:
    study = load_study(QUICKSTART, ["confirm=null", "search.baselines=[]"])
    budget = Budget(study, lambda: 1, lambda: None, folder=tmp_path, least_free=lambda: 0, session=Session())
    nothing: Any = SimpleNamespace()
    confirmation = Confirmation(study, TrialTable(tmp_path, study.objective), nothing, budget, nothing, say=print)
    assert confirmation.run(nothing) is None


def test_how_long_a_confirmation_takes_is_known_from_the_trials_so_far() -> None:
    study = load_study(QUICKSTART, ["confirm={top: 3, seeds: 3}"])
    assert seconds_to_confirm(study, [], 2) == 0.0
    records = [
        TrialRecord(0, TrialState.COMPLETE, {}, progress=100, seconds=20.0),
        TrialRecord(1, TrialState.PRUNED, {}, progress=50, seconds=5.0),
        TrialRecord(2, TrialState.RUNNING, {}),
    ]
    assert seconds_to_confirm(study, records, 1) == 15.0 * (3 + 2 + 6)
    assert seconds_to_confirm(study, records, 4) == 15.0 * (1 + 1 + 2)
    assert seconds_to_confirm(load_study(QUICKSTART, ["confirm=null"]), records, 1) == 0.0
