"""Baselines run to their end under every scheduler, and the others are judged by them all the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from kobert_core.errors import InputError
from search_spaces.distributions import Space
from tests.fixtures.commands import ROOT
from tuning.search.population import Population
from tuning.search.schedulers import make_scheduler
from tuning.study import SchedulerConfig, SearchConfig, load_study

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
POINTS = tuple({"model.dropout": number / 10} for number in range(9))
SPACE = Space.from_dict({"model.dropout": {"distribution": "uniform", "min": 0.0, "max": 0.9}})


def scheduler_of(name: str, baselines: tuple[int, ...]) -> TrialScheduler:
    return make_scheduler(
        SchedulerConfig.model_validate({"name": name}),
        metric="objective",
        mode="max",
        space=SPACE,
        search=SearchConfig(points=POINTS, baselines=baselines),
    )


def ends_of(name: str, baselines: tuple[int, ...], values: list[float]) -> list[int]:
    """Where each of some trials ends, one after the other, each with the same value at all its reports."""
    scheduler, tune, ends = scheduler_of(name, baselines), SimpleNamespace(get_live_trials=lambda: []), []
    for number, value in enumerate(values):
        trial = a_trial(number)
        scheduler.on_trial_add(tune, trial)
        for progress in range(10, 101, 10):
            result = {"progress": progress, "objective": value}
            if progress == 100 or scheduler.on_trial_result(tune, trial, result) == TrialScheduler.STOP:
                scheduler.on_trial_complete(tune, trial, result)
                ends.append(progress)
                break
    return ends


def a_trial(number: int) -> Trial:
    """Ray Tune's own, of no trainable."""
    return Trial("none", config={"trial": number, "values": {}}, trial_id=str(number), stub=True)


FALLING = [0.9, 0.8, 0.7, 0.6, 0.5]
"""Each is worse than all before it."""


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_a_baseline_is_never_stopped_however_bad_it_is(name: str) -> None:
    assert ends_of(name, (), FALLING)[-1] < 100, "it would be stopped"
    assert ends_of(name, (0, 4), FALLING)[-1] == 100
    assert ends_of(name, (0, 4), FALLING)[:-1] == ends_of(name, (), FALLING)[:-1], "the others are judged as before"


@pytest.mark.parametrize("name", ["asha", "median"])
def test_the_others_are_judged_by_what_a_baseline_reported(name: str) -> None:
    good, bad = [0.9, 0.9, 0.9, 0.5], [0.1, 0.1, 0.1, 0.5]
    assert ends_of(name, (0, 1, 2), good)[-1] < 100
    assert ends_of(name, (0, 1, 2), bad)[-1] == 100


@pytest.mark.parametrize(
    ("baselines", "replaced"), [((), [0, 1]), ((0,), [1, 2]), ((0, 1), [2, 3]), (tuple(range(9)), [])]
)
def test_a_baseline_of_a_population_keeps_its_own_weights(
    baselines: tuple[int, ...], replaced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight trials the two worst go on from the weights of one of the two best; where a baseline is among them, the
    next one does."""
    population, done = scheduler_of("pbt", baselines), list[int]()
    monkeypatch.setattr(Population, "_exploit", lambda self, tune, trial, donor: done.append(trial.config["trial"]))
    tune: Any = SimpleNamespace(search_alg=None, get_trials=list, _schedule_trial_save=lambda *_, **__: object())
    trials = [a_trial(number) for number in range(8)]
    for trial in trials:
        population.on_trial_add(tune, trial)
    for trial in reversed(trials):
        population.on_trial_result(tune, trial, {"progress": 20, "objective": trial.config["trial"]})
    done.clear()  # the population was not whole
    for trial in reversed(trials):
        population.on_trial_result(tune, trial, {"progress": 40, "objective": trial.config["trial"]})
    assert sorted(done) == replaced


def test_trial_0_is_the_baseline_unless_the_study_says_otherwise() -> None:
    assert load_study(QUICKSTART).search.baselines == (0,)
    assert load_study(QUICKSTART, ["search.baselines=[]", "confirm=null"]).search.baselines == ()
    assert SearchConfig(points=POINTS, baselines=(0, 8)).baselines == (0, 8)
    for wrong in ("[5]", "[-1]", "[a]"):
        with pytest.raises(InputError, match=r"search\.baselines|a baseline is trial 0 or one of the `points`"):
            load_study(QUICKSTART, [f"search.baselines={wrong}"])
