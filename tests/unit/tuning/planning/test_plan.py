"""What a sweep will take: from costs to a schedule, and from a measurement to a plan that the sweep takes along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.commands import ROOT, tune_here
from tuning.planning import probe
from tuning.planning.plan import ENDING, STARTING, Plan, reckon
from tuning.planning.probe import Costs, Probe, costs_of, measure
from tuning.search.preview import trials_by_chance
from tuning.study import StudyConfig, load_study
from tuning.study.sections import SchedulerConfig
from tuning.sweep.preflight import CheckedStudy, check_study
from tuning.sweep_dir.layout import PLANS
from tuning.sweep_dir.plans import plan_of, take_plan, write_plan

QUICKSTART = ROOT / "search_spaces/quickstart.yaml"
COSTS = Costs(begin=1.0, step=0.01, example=0.02, item=0.005, checkpoint=0.1, memory=None)
PLAIN = ["confirm=null", "scheduler={name: none}", "optim.accumulation=1", "train.epochs=2"]
RATE = "parameters={optim.backbone_lr: {min: 1.0e-4, max: 1.0e-3}}"
NO_POINTS = "search={points: []}"


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> CheckedStudy:
    return check_study(load_study(QUICKSTART, [*PLAIN, RATE, NO_POINTS]), tmp_path_factory.mktemp("cache"))


def planned(checked: CheckedStudy, here: int = 2, **changed: Any) -> Plan:
    study = checked.study.model_copy(update=changed)
    again = CheckedStudy(study, checked.task, checked.tasks, checked.facts, checked.checkpoint)
    return reckon(again, [Probe({}, COSTS)], here)


def whole_trial(checked: CheckedStudy) -> float:
    """By hand: 2 epochs and 10 evaluations."""
    train, dev = len(checked.task.train), checked.task.dev.items
    steps = 2 * -(-train // checked.study.optim.batch_size)
    return 1.0 + 2 * train * 0.02 + steps * 0.01 + 10 * (dev * 0.005 + 0.1)


def test_trials_that_nothing_stops_take_what_their_parts_take(checked: CheckedStudy) -> None:
    plan = planned(checked)
    assert plan.trial == pytest.approx(whole_trial(checked))
    assert plan.stopped == 0 and plan.trials == checked.study.budget.trials == 10
    assert plan.schedule.search == pytest.approx(5 * plan.trial)
    read = checked.task.read(checked.study.data.test).items * 0.005  # by the winner and the baseline, on two groups
    assert plan.schedule.seconds == pytest.approx(5 * plan.trial + STARTING + ENDING + read)
    assert plan.schedule.cpu_hours == pytest.approx(2 * plan.schedule.seconds / 3600)
    assert plan.schedule.gpu_hours == 0


def test_more_groups_take_less_time_until_each_trial_has_its_own(checked: CheckedStudy) -> None:
    by_groups = {each.groups: each for each in planned(checked, here=16).schedules}
    assert sorted(by_groups) == [1, 2, 4, 8, 16]
    searches = [by_groups[groups].search / whole_trial(checked) for groups in sorted(by_groups)]
    assert searches == pytest.approx([10, 5, 3, 2, 1])


def test_asha_stops_about_as_many_as_it_does(checked: CheckedStudy) -> None:
    asha = SchedulerConfig(name="asha", grace_percent=10, reduction_factor=3)
    many = checked.study.budget.model_copy(update={"trials": 60})
    plan = planned(checked, here=1, scheduler=asha, budget=many)
    assert 48 < plan.stopped < 58  # a third passes each of three rungs, and more of the first ones
    assert plan.schedule.search < 0.6 * 60 * plan.trial
    median = planned(checked, scheduler=asha.model_copy(update={"name": "median"}))
    population = planned(checked, scheduler=asha.model_copy(update={"name": "pbt"}))
    assert 0 < median.stopped < 10 and population.stopped == 0


def test_promotion_takes_what_its_trials_take_and_each_promotion_a_start(checked: CheckedStudy) -> None:
    promotion = SchedulerConfig(name="promotion", grace_percent=10, reduction_factor=3)
    many = checked.study.budget.model_copy(update={"trials": 60})
    plan = planned(checked, here=1, scheduler=promotion, budget=many)
    asha = planned(checked, here=1, scheduler=promotion.model_copy(update={"name": "asha"}), budget=many)
    assert 0.7 * asha.schedule.search < plan.schedule.search < 1.3 * asha.schedule.search
    assert 45 < plan.stopped < 57
    # none is good enough: one evaluation each, but for the baseline
    none = promotion.model_copy(update={"reduction_factor": 100})
    tenth = (whole_trial(checked) - 1.0) / 10 + 1.0
    assert planned(checked, here=1, scheduler=none).schedule.search == pytest.approx(
        9 * tenth + whole_trial(checked), rel=0.05
    )


def test_confirming_is_rounds_of_whole_runs(checked: CheckedStudy) -> None:
    confirm = load_study(QUICKSTART).confirm
    assert confirm is not None
    asked = confirm.model_copy(update={"top": 3, "seeds": 3})
    plan = planned(checked, confirm=asked)
    # three and then two runs choose, six compare: on two groups 2 + 1 + 3 in a row
    assert plan.schedule.confirm == pytest.approx(6 * plan.trial, rel=0.05)


def test_a_trial_costs_what_the_probe_most_like_it_cost() -> None:
    slow = Costs(begin=3.0, step=0.01, example=0.2, item=0.05, checkpoint=0.1, memory=0.5)
    probes = [
        Probe({"model.backbone": "small"}, COSTS),
        Probe({"model.backbone": "large", "data.max_length": 64}, slow),
    ]
    assert costs_of(probes, {"model.backbone": "large", "data.max_length": 64}) == slow
    assert costs_of(probes, {"model.backbone": "small"}) == COSTS
    assert costs_of(probes, {}) == Costs.mean([COSTS, slow])
    assert Costs.mean([COSTS, slow]).memory == 0.5


def test_advice_is_given_where_it_pays(checked: CheckedStudy) -> None:
    assert any("`confirm: {}`" in line for line in planned(checked).advice)
    study = checked.study
    startup = study.search.model_copy(update={"startup_trials": 9})
    limit = study.budget.model_copy(update={"wall_time": STARTING + ENDING + 2 * whole_trial(checked)})
    advice = " ".join(planned(checked, here=16, search=startup).advice)
    assert "9 of 10 trials are random" in advice and "16 groups fit" in advice
    assert any("ends the search after about 3 of 10 trials" in line for line in planned(checked, budget=limit).advice)


def test_values_are_those_that_a_sweep_begins_with(checked: CheckedStudy) -> None:
    study = load_study(QUICKSTART)
    values = trials_by_chance(study, 5)
    assert values[0].items() >= study.search.points[0].items() and len(values) == 5
    assert values == trials_by_chance(study, 5)
    grid = ["parameters={optim.accumulation: {values: [1, 2]}}", "search={algorithm: grid}", *PLAIN[:2]]
    found = trials_by_chance(load_study(QUICKSTART, grid), 5)
    assert sorted(each["optim.accumulation"] for each in found) == [1, 2]


def test_a_run_is_measured_whatever_its_data(checked: CheckedStudy, tmp_path: Path) -> None:
    config = checked.study.train_config(checked.study.example_values())
    costs = measure(config, tmp_path, 1.0, 1, gpus=False)
    assert all(value > 0 for name, value in vars(costs).items() if name != "memory") and costs.memory is None


def test_a_sweep_takes_the_plan_of_its_own_study_along(checked: CheckedStudy, tmp_path: Path) -> None:
    study: StudyConfig = checked.study
    folder, other = tmp_path / "first", tmp_path / "second"
    for each in (folder, other):
        each.mkdir()
    write_plan(folder, study, planned(checked).as_json())
    take_plan(folder, study)
    take_plan(other, study.model_copy(update={"name": "other"}))
    assert plan_of(other) is None
    assert plan_of(folder) == json.loads(json.dumps(planned(checked).as_json()))
    (folder / "plan.json").write_text("{")
    assert plan_of(folder) is None


def test_the_command_measures_and_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 2.0)
    done = tune_here("plan", QUICKSTART, "--trials", 6, "--json", cwd=tmp_path)
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert told["trials"] == 6 and told["trial"] > 0 and len(list((tmp_path / "sweeps" / PLANS).iterdir())) == 1
    assert "trials at once" in done.stderr and "(here)" in done.stderr
    assert tune_here("list", "--json", cwd=tmp_path).stdout.strip() == '{"sweeps": []}'
    refused = tune_here("sweep", QUICKSTART, "--name", "plans", "--dry-run", cwd=tmp_path, code=2)
    assert "plans" in refused.stderr
