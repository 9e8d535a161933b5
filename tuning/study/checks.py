"""What the sections of a study must be to each other: the search to its space, a scheduler or `confirm` to the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kobert_core.config import DataConfig, Objective
from kobert_core.errors import InputError
from kobert_core.tasks import SPECS
from kobert_core.tasks.spec import TaskSpec
from search_spaces.distributions import Space
from search_spaces.validation import Problems, show, suggest_known
from tuning.study.objectives import LOOP_METRICS, Further, goals_in
from tuning.study.searchable_keys import CHANGEABLE, searchable
from tuning.study.sections import BudgetConfig, SchedulerConfig, SearchConfig

HOLDOUT_FRACTION = 0.3333
"""Of a study with `confirm` that does not say."""


def check_names(space: Space, task: TaskSpec, objective: Objective | None, problems: Problems) -> None:
    """Parameters and the objective's metric must be there to be searched and reported."""
    known = searchable(task)
    for name in space:
        if name not in known:
            fix = suggest_known(name, known)
            problems.add(f"parameters.{name}", f"`{name}` is not a parameter that can be searched", fix)
    metrics = (*task.metrics, *LOOP_METRICS)
    if objective is not None and objective.metric not in metrics:
        what = f"`objective.metric` cannot be {show(objective.metric)}"
        problems.add("objective.metric", what, suggest_known(objective.metric, metrics))


def check_further(further: Further, search: SearchConfig, scheduler: SchedulerConfig, problems: Problems) -> None:
    """The search must be able to follow several objectives, or to learn of constraints."""
    what_for = "several objectives" if goals_in(further) else "constraints"
    if scheduler.name == "pbt":
        what = f"`scheduler.name: pbt` copies trials by one objective, and knows nothing of {what_for}"
        problems.add("objective", what, "name one objective, or use another scheduler")
    if search.algorithm in ("cmaes", "gp"):
        what = f"`search.algorithm: {search.algorithm}` knows nothing of {what_for}"
        problems.add("search.algorithm", what, "take tpe, random or grid")
    if search.warm_start:
        what = f"`search.warm_start` takes trials of one objective, and of no constraint, but there are {what_for}"
        problems.add("search.warm_start", what, "leave it out, or name one objective")


def check_search(space: Space, search: SearchConfig, problems: Problems) -> None:
    """The algorithm must be able to search the space, and the points must lie in it."""
    conditional = [name for name, each in space.items() if each.when]
    if search.algorithm in ("grid", "cmaes", "gp") and conditional:
        key = f"parameters.{conditional[0]}.when"
        what = f"`search.algorithm: {search.algorithm}` needs all parameters in every trial, but `{key}` is there"
        problems.add(key, what, "remove the condition, or use tpe or random")
    if search.algorithm == "grid":
        try:
            space.grid_size()
        except InputError as error:
            problems.add("search.algorithm", str(error))
    if search.warm_start and search.algorithm in ("random", "grid", "cmaes"):
        what = f"`search.algorithm: {search.algorithm}` learns from no other sweep, but `search.warm_start` is given"
        problems.add("search.warm_start", what, "leave it out, or take tpe or gp")
    for place, point in enumerate(search.points):
        space.find_problems(point, key=f"search.points.{place}", problems=problems)


def check_population(space: Space, search: SearchConfig, budget: BudgetConfig | None, problems: Problems) -> None:
    """Population based training takes the place of the search, and changes values in the middle of a run."""
    if budget and budget.patience is not None:
        what = "`scheduler.name: pbt` begins all trials at once, but `budget.patience` is given"
        problems.add("budget.patience", what, "remove `budget.patience`, or use another scheduler")
    unused = SearchConfig()
    for name in ("algorithm", "storage", "startup_trials", "warm_start"):
        if getattr(search, name) == getattr(unused, name):
            continue
        what = f"`scheduler.name: pbt` takes the place of the search, but `search.{name}` is given"
        problems.add(f"search.{name}", what, f"remove `search.{name}`, or use another scheduler")
    for name in space:
        if name not in CHANGEABLE:
            what = f"`{name}` cannot change in the middle of a run, as `scheduler.name: pbt` would have it"
            problems.add(f"parameters.{name}", what, f"search some of {', '.join(CHANGEABLE)}")


def check_confirm(data: DataConfig, search: SearchConfig, scheduler: SchedulerConfig, problems: Problems) -> None:
    """What is confirmed is trained again, compared with a baseline, on data that chose nothing."""
    if not search.baselines:
        problems.add("confirm", "`confirm` compares with a baseline, but `search.baselines` names none", "name trial 0")
    if data.folds is not None:
        what = "`confirm` needs rows that no trial is chosen by, but with `data.folds` trials are chosen by all"
        problems.add("confirm", what, "leave out `confirm`, or `data.folds`")
    elif not data.holdout_fraction:
        what = "`confirm` needs a part of the dev split that no trial is chosen by, but `data.holdout_fraction` is null"
        problems.add("data.holdout_fraction", what, f"leave it out, which makes it {HOLDOUT_FRACTION}")
    if scheduler.name == "pbt":
        what = "`scheduler.name: pbt` changes values in the middle of a run: no trial can be trained again as it was"
        problems.add("confirm", what, "leave out `confirm`, or use another scheduler")


def check_distill(
    space: Space, task: TaskSpec, values: Mapping[str, Any], sections: Mapping[str, Any], problems: Problems
) -> None:
    """What a teacher says must be there, and be something that the task can learn from."""
    searched = [name for name in space if name.startswith("distill.")]
    if "distill" not in values:
        for name in searched:
            problems.add(f"parameters.{name}", f"`{name}` is searched, but there is no `distill`", "add that section")
        return
    if not task.takes_soft_labels:
        able = ", ".join(name for name, spec in SPECS.items() if spec.takes_soft_labels)
        problems.add("distill", f"`task: {task.name}` cannot learn from a teacher", f"leave out `distill` ({able} can)")
    if "model.class_weights" in space or getattr(sections["model"], "class_weights", None) is not None:
        what = "a teacher's answers have no class to weigh, but `model.class_weights` is given"
        problems.add("model.class_weights", what, "leave it out where there is `distill`")
    if sections["data"] and sections["data"].folds is not None:
        what = "a teacher has seen the rows of all folds, so that no score on one is worth anything"
        problems.add("data.folds", what, "leave out `data.folds`, or `distill`")


def check_folds(scheduler: SchedulerConfig, problems: Problems) -> None:
    """A trial over folds trains many models: none of them is the one that others could go on from."""
    if scheduler.name == "pbt":
        what = "`scheduler.name: pbt` goes on from other trials' weights, but with `data.folds` a trial has many"
        problems.add("data.folds", what, "remove `data.folds`, or use another scheduler")
