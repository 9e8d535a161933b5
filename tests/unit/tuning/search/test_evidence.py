"""What the models of a search learn from: stopped trials by where they would have ended, and earlier sweeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from kobert_core.config import Objective
from kobert_core.errors import InputError
from search_spaces.distributions import Space
from tests.fixtures.commands import tune_here
from tests.fixtures.sweeps import QUICKSTART
from tuning.search.evidence import Result, ends, normal_scores, shown
from tuning.search.optuna_study import open_optuna_study
from tuning.search.preview import first_trials
from tuning.search.searcher import OptunaSearcher
from tuning.search.warm_start import EarlierTrial, begun_with, in_words, read_earlier, take_earlier
from tuning.study import SearchConfig, StudyConfig, dump_study, load_study
from tuning.sweep_dir.layout import EARLIER, STUDY
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

LR = FloatDistribution(0, 1)
SPACE = Space.from_dict({"optim.weight_decay": {"distribution": "uniform", "min": 0.0, "max": 1.0}})
OBJECTIVE = Objective(metric="eval/accuracy", mode="max")


def test_a_stopped_trial_ends_where_those_that_went_on_gained_so_much() -> None:
    found = ends(
        [
            Result({10: 0.5, 20: 0.6, 30: 0.7}, 0.7),
            Result({10: 0.4, 20: 0.7, 30: 0.75}, 0.75),
            Result({10: 0.3, 20: 0.2}),  # its best was its first
            Result({10: 0.45}),
        ]
    )
    # from 10 to 20 the three gained 0.1, 0.3 and 0; from 20 to 30 the two gained 0.1 and 0.05
    assert found == pytest.approx([0.7, 0.75, 0.3 + 0.075, 0.45 + 0.1 + 0.075])
    assert ends([]) == [] and ends([Result({10: 0.5})]) == [0.5]


def test_ranks_become_normal_scores() -> None:
    assert normal_scores([3.0, 1.0, 2.0]) == pytest.approx([0.967, -0.967, 0.0], abs=1e-3)
    assert normal_scores([1.0, 1.0]) == [0.0, 0.0] and normal_scores([]) == []


def frozen(x: float, curve: dict[int, float], state: OptunaState = OptunaState.PRUNED) -> optuna.trial.FrozenTrial:
    value = max(curve.values()) if state == OptunaState.COMPLETE else None
    return create_trial(params={"x": x}, distributions={"x": LR}, intermediate_values=curve, value=value, state=state)


def study_with(*trials: optuna.trial.FrozenTrial, direction: str = "maximize") -> optuna.Study:
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    study.ask()
    return study


@pytest.mark.parametrize("sign", [1, -1])
def test_each_trial_that_reported_is_complete_and_no_other(sign: int) -> None:
    study = study_with(
        frozen(0.1, {50: sign * 0.5, 100: sign * 0.7}, OptunaState.COMPLETE)
        if sign == 1
        else create_trial(
            params={"x": 0.1}, distributions={"x": LR}, intermediate_values={50: -0.5, 100: -0.7}, value=-0.7
        ),
        frozen(0.2, {50: sign * 0.6}),
        create_trial(state=OptunaState.FAIL),
        create_trial(state=OptunaState.RUNNING, params={"x": 0.4}, distributions={"x": LR}),
        direction="maximize" if sign == 1 else "minimize",
    )
    known, trial = shown(study, study.get_trials()[4], [])
    assert [each.state.name for each in known.trials] == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING", "RUNNING"]
    assert [each.value for each in known.trials[:2]] == pytest.approx([0.7, 0.8])
    assert trial.number == 4 and len(study.trials) == 5, "the sweep's own study is as it was"


def test_earlier_trials_come_first_and_count_by_their_ranks() -> None:
    study = study_with(frozen(0.9, {100: 0.2}, OptunaState.COMPLETE), frozen(0.8, {100: 0.3}, OptunaState.COMPLETE))
    earlier = [EarlierTrial("first", n, {"x": n / 10}, {"x": LR}, {100: 90.0 + n}, 90.0 + n) for n in range(3)]
    known, trial = shown(study, study.get_trials()[2], earlier)
    assert [each.params.get("x") for each in known.trials] == [0.0, 0.1, 0.2, 0.9, 0.8, None]
    assert [each.value for each in known.trials[:5]] == pytest.approx([-0.967, 0, 0.967, -0.674, 0.674], abs=1e-3)
    assert trial.number == 5


def searcher(folder: Path, *, algorithm: str = "tpe", earlier: Any = (), startup: int = 4) -> OptunaSearcher:
    folder.mkdir(exist_ok=True)
    search = SearchConfig(algorithm=algorithm, seed=1, startup_trials=startup)
    study = open_optuna_study(folder, name="study", objective=OBJECTIVE, search=search, resume=True)
    return OptunaSearcher(study, SPACE, search, OBJECTIVE, earlier=earlier)


def next_value(bridge: OptunaSearcher, trial_id: str, *, stop: bool = True) -> float:
    """Suggest a value, and report the trial: the nearer to 0.7, the better; all but the first are stopped early."""
    suggested = bridge.suggest(trial_id)
    assert suggested is not None
    value: float = suggested["values"]["optim.weight_decay"]  # type: ignore[index]
    bridge.on_trial_complete(trial_id, {"progress": 10 if stop else 100, "objective": 1 - abs(value - 0.7)})
    bridge.tell(trial_id)
    return value


def test_a_gaussian_process_learns_from_trials_that_were_stopped(tmp_path: Path) -> None:
    values = [next_value(bridge := searcher(tmp_path, algorithm="gp"), "0", stop=False)]
    values += [next_value(bridge, str(number)) for number in range(1, 9)]
    assert min(abs(value - 0.7) for value in values[4:]) < 0.02
    again = searcher(tmp_path / "again", algorithm="gp")
    repeated = [next_value(again, "0", stop=False)]
    for number in range(1, 9):
        again = searcher(tmp_path / "again", algorithm="gp")  # a new process, each time
        repeated.append(next_value(again, str(number)))
    assert repeated == values


def test_trials_of_an_earlier_sweep_take_the_place_of_the_random_ones(tmp_path: Path) -> None:
    name = "optim.weight_decay"
    earlier = [
        EarlierTrial("first", n, {name: n / 20}, {name: LR}, {100: -abs(n / 20 - 0.3)}, -abs(n / 20 - 0.3))
        for n in range(20)
    ]
    warm = [next_value(bridge := searcher(tmp_path / "warm", earlier=earlier), "0")]
    warm += [next_value(bridge, str(number)) for number in range(1, 4)]
    cold = [next_value(bridge := searcher(tmp_path / "cold"), "0")]
    cold += [next_value(bridge, str(number)) for number in range(1, 4)]
    assert max(abs(value - 0.3) for value in warm) < 0.2 < max(abs(value - 0.3) for value in cold)
    assert len(bridge._study.trials) == 4, "they are no trials of the sweep"


def earlier_sweep(folder: Path, *overrides: str) -> StudyConfig:
    """A sweep of three trials that ended, one that failed and one that runs."""
    study = load_study(QUICKSTART, overrides)
    folder.mkdir(parents=True)
    dump_study(study, folder / STUDY)
    table = TrialTable.of(folder, study)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAILED, TrialState.RUNNING]
    for number, state in enumerate(states):
        values = study.example_values({"optim.backbone_lr": 10 ** -(3.3 - number / 5)})
        curve = {50: 0.5, 100: 0.6} if state == TrialState.COMPLETE else {50: 0.4}
        value = max(curve.values())
        table.put(TrialRecord(number, state, values, progress=max(curve), value=value, curve=curve))
    return study


def warm(*overrides: str, sweep: Path) -> StudyConfig:
    return load_study(QUICKSTART, [f"search.warm_start=[{sweep}]", *overrides])


def test_ended_trials_with_values_in_the_space_are_taken(tmp_path: Path) -> None:
    there = earlier_sweep(tmp_path / "first")
    found = read_earlier(warm(sweep=tmp_path / "first"), tmp_path)
    assert [each.trial for each in found] == [0, 1, 2] and [each.value for each in found] == [0.6, None, 0.6]
    assert found[0].params.keys() == found[0].distributions.keys() == set(there.space)
    assert in_words(found) == ["3 trials of first tell the search where to begin"]
    rates = "parameters.optim.backbone_lr={distribution: log_uniform, min: 6e-4, max: 1e-3}"
    narrow = warm(rates, "search.points=[]", sweep=tmp_path / "first")
    assert in_words(read_earlier(narrow, tmp_path)) == ["1 trial of first tells the search where to begin"]


def test_what_a_sweep_did_not_search_has_the_value_that_it_was_trained_with(tmp_path: Path) -> None:
    earlier_sweep(tmp_path / "first", "optim.max_grad_norm=0.5")
    norms = "parameters.optim.max_grad_norm={{distribution: uniform, min: {}, max: 2.0}}"
    found = read_earlier(warm(norms.format(0.1), sweep=tmp_path / "first"), tmp_path)
    assert {each.params["optim.max_grad_norm"] for each in found} == {0.5}
    with pytest.raises(InputError, match="no trial of this sweep has ended with values in the space"):
        read_earlier(warm(norms.format(1.0), sweep=tmp_path / "first"), tmp_path)


def test_a_sweep_keeps_what_it_began_with(tmp_path: Path) -> None:
    earlier_sweep(tmp_path / "first")
    study, folder = warm(sweep=tmp_path / "first"), tmp_path / "second"
    folder.mkdir()
    taken = take_earlier(folder, study, has_trials=False)
    (tmp_path / "first" / STUDY).unlink()
    assert take_earlier(folder, study, has_trials=True) == begun_with(folder, study) == taken
    content = json.loads((folder / EARLIER).read_text())
    content["trials"][0]["value"] = 0.9
    (folder / EARLIER).write_text(json.dumps(content))
    with pytest.raises(InputError, match="damaged, or was altered"):
        begun_with(folder, study)
    (folder / EARLIER).unlink()
    with pytest.raises(InputError, match="that this one began with cannot be read"):
        begun_with(folder, study)


def test_another_objective_is_refused(tmp_path: Path) -> None:
    earlier_sweep(tmp_path / "f1", "objective={metric: eval/f1, mode: max}")
    with pytest.raises(InputError, match=r"f1: this sweep is of another objective \(.*max eval/f1\) than the study"):
        read_earlier(warm(sweep=tmp_path / "f1"), tmp_path)
    with pytest.raises(InputError, match="no folder of a sweep"):
        read_earlier(warm(sweep=tmp_path / "nowhere"), tmp_path)


def test_only_points_are_known_before_a_search_that_begins_with_others(tmp_path: Path) -> None:
    study = warm(sweep=tmp_path / "first")
    assert first_trials(study, 3) == [dict(study.search.points[0])]
    assert len(first_trials(load_study(QUICKSTART), 3)) == 3


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["search={algorithm: random, warm_start: [sweeps/first]}"], "`search.algorithm: random` learns from no other"),
        (["search={from: [sweeps/first]}"], "did you mean `warm_start`"),
        (
            ["search={warm_start: [a]}", "objective=[{metric: eval/accuracy}, {metric: cost/latency_ms}]"],
            "takes trials of one objective",
        ),
        (
            [
                "search={algorithm: gp}",
                "parameters={optim.schedule: {values: [linear, constant]}, "
                "optim.warmup_ratio: {min: 0.0, max: 0.2, when: {optim.schedule: linear}}}",
            ],
            "`search.algorithm: gp` needs all parameters in every trial",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(InputError) as refused:
        load_study(QUICKSTART, overrides)
    assert line in str(refused.value)


def test_the_dry_run_and_the_list_of_trials_tell_of_it(tmp_path: Path) -> None:
    earlier_sweep(tmp_path / "first")
    dry = tune_here("sweep", QUICKSTART, "--dry-run", "--set", "search.warm_start=[first]", cwd=tmp_path)
    line = "3 trials of first tell the search where to begin"
    assert line in " ".join(dry.stdout.split())
    study, folder = warm(sweep=tmp_path / "first"), tmp_path / "second"
    folder.mkdir()
    dump_study(study, folder / STUDY)
    take_earlier(folder, study, has_trials=False)
    TrialTable.of(folder, study).put(TrialRecord(0, TrialState.PRUNED, study.example_values(), curve={50: 0.5}))
    assert line in " ".join(tune_here("list", folder, cwd=tmp_path).stdout.split())
