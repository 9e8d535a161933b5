"""From a study file to a study and back."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from kobert_core.config import DistillConfig, FrozenConfig, Objective, OptimConfig, RunConfig
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_text
from kobert_core.tasks import SPECS
from kobert_core.tasks.spec import TaskSpec
from search_spaces.distributions import Space
from search_spaces.loader import RawStudy, load_study_file, raw_study
from search_spaces.validation import Problems, show, suggest_known, validate
from tuning.study.checks import (
    HOLDOUT_FRACTION,
    check_confirm,
    check_distill,
    check_folds,
    check_further,
    check_names,
    check_population,
    check_search,
)
from tuning.study.config import StudyConfig, StudyHead, check_files
from tuning.study.objectives import COSTS, LOOP_METRICS, Further, FurtherObjective
from tuning.study.paths import FOLDERS, make_absolute, with_absolute_folders
from tuning.study.sections import (
    BudgetConfig,
    ConfirmConfig,
    ResourcesConfig,
    SchedulerConfig,
    SearchConfig,
    TrackingConfig,
)

OPTIONAL = ("confirm", "distill")
"""Sections without which a study does something less; the others are there with their defaults."""
SOME_CORNERS = 64
"""Enough to find nearly all mistakes whenever a study is loaded; `StudyConfig.check` tries more."""


def load_study(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> StudyConfig:
    """Read and check a study file.

    Args:
        path: The file. Relative paths in it start from its folder.
        overrides: `KEY=VALUE`; relative paths in them start from the current folder.

    Raises:
        InputError: it is no study; one line names the place, the key and what would be right.
    """
    return _checked(load_study_file(path, overrides))


def study_of(values: Mapping[str, Any], *, where: str = "Study") -> StudyConfig:
    """The study that a study file with these values would be; relative paths start from the current folder.

    Args:
        values: The keys of a study file.
        where: What to call the place of a mistake.

    Raises:
        InputError: as from `load_study`.
    """
    return _checked(raw_study(values, where=where))


def _checked(raw: RawStudy) -> StudyConfig:
    raw = replace(raw, space=with_absolute_folders(raw))
    task = _task_of(raw)
    problems = Problems()
    models: dict[str, type[FrozenConfig]] = {
        "data": task.Data,
        "model": task.Model,
        "optim": OptimConfig,
        "train": RunConfig,
        "objective": Objective,
        "search": SearchConfig,
        "scheduler": SchedulerConfig,
        "resources": ResourcesConfig,
        "budget": BudgetConfig,
        "tracking": TrackingConfig,
        "confirm": ConfirmConfig,
        "distill": DistillConfig,
    }
    known = [*StudyHead.model_fields, *models, "parameters"]
    everything = [*known, *(f"{section}.{name}" for section, model in models.items() for name in model.model_fields)]
    for name in raw.values:
        if name not in known:
            problems.add(name, f"unknown key `{name}`", suggest_known(name, known, everything))
    values = _complete(raw, task, models, problems)
    further = _further_objectives(values, task, everything, problems)
    stand_ins = _stand_ins(raw.space, values["model"])
    if stand_ins:
        values["model"] |= stand_ins
    sections: dict[str, Any] = {
        name: validate(model, values[name], key=name, problems=problems, elsewhere=everything)
        for name, model in models.items()
        if name not in OPTIONAL or name in values
    }
    head = {name: value for name, value in values.items() if name in StudyHead.model_fields}
    checked = validate(StudyHead, head, key="", problems=problems)
    check_names(raw.space, task, sections["objective"], problems)
    if further and sections["search"] and sections["scheduler"]:
        check_further(further, sections["search"], sections["scheduler"], problems)
    if sections["search"]:
        check_search(raw.space, sections["search"], problems)
    if sections["search"] and sections["scheduler"] and sections["scheduler"].name == "pbt":
        check_population(raw.space, sections["search"], sections["budget"], problems)
    if sections.get("confirm") and sections["data"] and sections["search"] and sections["scheduler"]:
        check_confirm(sections["data"], sections["search"], sections["scheduler"], problems)
        if sections["objective"] and sections["objective"].metric in LOOP_METRICS:
            what = f"`confirm` compares on rows that are held out, where there is no `{sections['objective'].metric}`"
            problems.add("objective.metric", what, f"take one of the task's, such as {task.objective.metric}")
    check_distill(raw.space, task, values, sections, problems)
    if sections["data"] and sections["data"].folds is not None and sections["scheduler"]:
        check_folds(sections["scheduler"], problems)
    problems.raise_first(raw.where)
    assert checked is not None
    budget = sections["budget"]
    if sections["search"].algorithm == "grid" and "trials" not in budget.model_fields_set:
        sections["budget"] = budget.model_copy(update={"trials": raw.space.grid_size()})
    study = StudyConfig(**dict(checked), **sections, further=further, space=raw.space)
    if stand_ins:
        given = dict(study.model) | dict.fromkeys(stand_ins)
        without = task.Model.model_construct(study.model.model_fields_set - stand_ins.keys(), **given)
        study = study.model_copy(update={"model": without})
    study.check(corners=SOME_CORNERS, where=raw.where)
    return study


def dump_study(study: StudyConfig, path: str | os.PathLike[str]) -> None:
    """Write a study file that `load_study` reads as an equal study."""
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 100
    text = io.StringIO()
    yaml.dump(_quoted(study.resolved()), text)
    content = text.getvalue()
    atomic_write_text(path, f"# sha256 {hashlib.sha256(content.encode()).hexdigest()}\n{content}")


def _quoted(value: object) -> object:
    """A value whose texts, where not all of their characters can be printed, will stand in quotes, written out: ruamel
    would fold some of these away."""
    if isinstance(value, dict):
        return {_quoted(key): _quoted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_quoted(each) for each in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not value.isprintable() else value


def load_dumped_study(path: Path) -> StudyConfig:
    """The study that `dump_study` wrote.

    Raises:
        InputError: it is not what was written.
    """
    study = load_study(path)
    first, _, rest = path.read_bytes().partition(b"\n")
    seal = re.fullmatch(rb"# sha256 (\w+)", first)
    if seal and hashlib.sha256(rest).hexdigest() != seal[1].decode():
        raise InputError(
            "the file is damaged, or was altered by hand: its SHA-256 is not the one written",
            where=path,
            fix="undo the change, or remove its first line if you know what you do",
        )
    return study


def _task_of(raw: RawStudy) -> TaskSpec:
    name = raw.values.get("task")
    if name is None:
        raise InputError("`task` must be given", where=raw.where("task"), fix=f"known: {', '.join(SPECS)}")
    if not isinstance(name, str) or name not in SPECS:
        what = f"`task` cannot be {show(name)}"
        raise InputError(what, where=raw.where("task"), fix=suggest_known(str(name), SPECS))
    return SPECS[name]


def _complete(raw: RawStudy, task: TaskSpec, sections: Iterable[str], problems: Problems) -> dict[str, Any]:
    """The values of the file with what follows from others: objective, absolute paths, what the data's files say."""
    given = {name: value for name, value in raw.values.items() if value is not None}
    values = {name: {} for name in sections if name not in OPTIONAL} | {
        name: dict(value) if isinstance(value, dict) else value for name, value in given.items()
    }
    objective = values["objective"]
    if not objective:
        values["objective"] = task.objective.model_dump()
    for key, each in _objectives_in(objective):
        if isinstance(each, dict) and "mode" not in each:
            if key != "objective" and (mode := _mode_meant(each)):
                each["mode"] = mode
            elif each.get("metric") == task.objective.metric:
                each["mode"] = task.objective.mode
            elif each.get("metric") in (*task.metrics, *LOOP_METRICS):
                problems.add(key, f"`{key}.mode` must be given", "max or min")
    make_absolute(raw, task, values)
    if isinstance(values["data"], dict):
        if "confirm" in values and "folds" not in values["data"]:
            values["data"].setdefault("holdout_fraction", HOLDOUT_FRACTION)
        try:
            task.infer_data_settings(values["data"])
        except InputError:
            check_files(values["data"])  # of a file that is missing this says more
            raise
    return values


def _objectives_in(objective: Any) -> list[tuple[str, Any]]:
    """What a study names as its objective, or as each of them, with its dotted key."""
    if isinstance(objective, list):
        return [(f"objective.{place}", each) for place, each in enumerate(objective)]
    return [("objective", objective)]


def _mode_meant(entry: Mapping[str, Any]) -> str | None:
    """What a bound says of the direction; of a cost less is better."""
    if entry.get("below") is not None or entry.get("metric") in COSTS:
        return "min" if entry.get("above") is None else "max"
    return "max" if entry.get("above") is not None else None


def _further_objectives(
    values: dict[str, Any], task: TaskSpec, everything: Sequence[str], problems: Problems
) -> Further:
    """The entries behind the first one, which alone stays in `values`."""
    (key, first), *rest = _objectives_in(values["objective"])
    if isinstance(first, dict) and (bounds := [name for name in ("below", "above") if name in first]):
        what = f"`{key}` decides which trial wins, and has no bound, but `{bounds[0]}` is given"
        problems.add(key, what, "write a list: the objective first, and behind it an entry with the bound")
        first = {name: value for name, value in first.items() if name not in bounds}
    if isinstance(first, dict) and first.get("metric") in COSTS:
        what = (
            f"`{key}.metric` cannot be {show(first['metric'])}: trials are stopped and confirmed by the first objective"
        )
        problems.add(f"{key}.metric", what, f"begin with one of the task's, such as {task.objective.metric}")
        first = first | {"metric": task.objective.metric}
    values["objective"] = first
    further: list[FurtherObjective] = []
    metrics = (*task.metrics, *LOOP_METRICS, *COSTS)
    for key, raw in rest:
        entry = validate(FurtherObjective, raw, key=key, problems=problems, elsewhere=everything)
        if entry is None:
            continue
        if entry.metric not in metrics:
            what = f"`{key}.metric` cannot be {show(entry.metric)}"
            problems.add(f"{key}.metric", what, suggest_known(entry.metric, metrics))
        kinds = [(each.metric, each.below is None, each.above is None) for each in (*further, entry)]
        is_first = isinstance(first, dict) and entry.metric == first.get("metric") and not entry.is_constraint
        if is_first or kinds.count(kinds[-1]) > 1:
            problems.add(key, f"`{key}` names {show(entry.metric)} once more", "remove one of them")
        further.append(entry)
    return tuple(further)


def _stand_ins(space: Space, model: Any) -> dict[str, str]:
    """A value for each of the model's folders that is searched in all trials: without one, no model is complete."""
    if not isinstance(model, dict):
        return {}
    searched = {key.removeprefix("model."): space[key] for key in FOLDERS if key in space and not space[key].when}
    return {field: str(each.ends()[0]) for field, each in searched.items() if field not in model}
