"""From a study file to a study and back."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from kobert_core.config import DataConfig, DistillConfig, FrozenConfig, ModelConfig, Objective, OptimConfig, RunConfig
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_text
from kobert_core.tasks import SPECS
from kobert_core.tasks.spec import TaskSpec
from search_spaces.distributions import Space
from search_spaces.loader import RawStudy, load_study_file, raw_study
from search_spaces.validation import Problems, show, suggest_known, validate
from tuning.study.config import StudyConfig, StudyHead, check_files
from tuning.study.objectives import COSTS, Further, FurtherObjective, goals_in
from tuning.study.sections import (
    BudgetConfig,
    ConfirmConfig,
    ResourcesConfig,
    SchedulerConfig,
    SearchConfig,
    TrackingConfig,
)
from tuning.tracking.uris import escaped_path, experiment_of

LOOP_METRICS = ("train/loss", "train/examples_per_second")
"""What the loop reports besides the metrics of the task."""
SEARCHABLE = (
    *(f"optim.{name}" for name in OptimConfig.model_fields if name != "betas"),
    "train.epochs",
    "train.seed",
    "model.backbone",
    "model.tokenizer",
    "model.revision",
    "model.keep_layers",
    "model.freeze",
    "model.dropout",
    "model.hidden_dropout",
    "model.attention_dropout",
)
"""Searchable for every task. What sets the split, the rungs or the files is not: trials would not compare."""
CHANGEABLE = (
    "optim.backbone_lr",
    "optim.classifier_lr",
    "optim.weight_decay",
    "optim.max_grad_norm",
    "model.dropout",
    "model.hidden_dropout",
    "model.attention_dropout",
    "model.label_smoothing",
)
"""What population based training may change in the middle of a run: not its length, its data, or its model's shape."""
FOLDERS = ("model.backbone", "model.tokenizer")
"""Keys whose values are folders, or names on the hub."""
OPTIONAL = ("confirm", "distill")
"""Sections without which a study does something less; the others are there with their defaults."""
ADDRESSES = (("search", "storage"), ("tracking", "uri"))
"""Keys whose values may be the address of a database in a file."""
HOLDOUT_FRACTION = 0.3333
"""Of a study with `confirm` that does not say."""
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
    raw = replace(raw, space=_with_absolute_folders(raw))
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
    _check_names(raw.space, task, sections["objective"], problems)
    if further and sections["search"] and sections["scheduler"]:
        _check_further(further, sections["search"], sections["scheduler"], problems)
    if sections["search"]:
        _check_search(raw.space, sections["search"], problems)
    if sections["search"] and sections["scheduler"] and sections["scheduler"].name == "pbt":
        _check_population(raw.space, sections["search"], sections["budget"], problems)
    if sections.get("confirm") and sections["data"] and sections["search"] and sections["scheduler"]:
        _check_confirm(sections["data"], sections["search"], sections["scheduler"], problems)
        if sections["objective"] and sections["objective"].metric in LOOP_METRICS:
            what = f"`confirm` compares on rows that are held out, where there is no `{sections['objective'].metric}`"
            problems.add("objective.metric", what, f"take one of the task's, such as {task.objective.metric}")
    _check_distill(raw.space, task, values, sections, problems)
    if sections["data"] and sections["data"].folds is not None and sections["scheduler"]:
        _check_folds(sections["scheduler"], problems)
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


def searchable(task: TaskSpec) -> list[str]:
    """The dotted keys that a study of this task may search: numbers, switches and choices."""
    own = (("data", task.Data, DataConfig), ("model", task.Model, ModelConfig))
    return [
        *SEARCHABLE,
        *(("distill.weight", "distill.temperature") if task.takes_soft_labels else ()),
        *(
            f"{section}.{name}"
            for section, model, base in own
            for name, field in model.model_fields.items()
            if name not in base.model_fields
            and any(kind in (int, float, bool) or get_origin(kind) is Literal for kind in _kinds(field.annotation))
        ),
    ]


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
    _make_absolute(raw, task, values)
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


def _with_absolute_folders(raw: RawStudy) -> Space:
    """The space, where encoders and tokenizers that are folders have absolute paths; in conditions on them, too."""
    parameters = raw.space.to_dict()
    for name, content in parameters.items():
        start = raw.folder_of(f"parameters.{name}")
        for key in FOLDERS if "when" in content else ():
            if key in content["when"]:
                content["when"][key] = [_folder_or_name(value, start) for value in content["when"][key]]
        if name in FOLDERS and "values" in content:
            content["values"] = [_folder_or_name(value, start) for value in content["values"]]
        elif name in FOLDERS and "value" in content:
            content["value"] = _folder_or_name(content["value"], start)
    return Space.from_dict(parameters, where=raw.where)


def _folder_or_name(value: Any, start: Path) -> Any:
    """What looks like a folder or is one as an absolute path, anything else as it is: a name on the hub."""
    if not isinstance(value, str):
        return value
    path = os.path.abspath(start / value)
    return path if value.startswith(("./", "../", "/")) or os.path.isdir(path) else value


def _make_absolute(raw: RawStudy, task: TaskSpec, values: dict[str, Any]) -> None:
    """Files of the data, encoders and tokenizers that are folders, the storage, SQLite's files of an address."""
    for section, model in (("data", task.Data), ("model", task.Model), ("distill", DistillConfig)):
        content: Any = values.get(section)
        for name, value in list(content.items()) if isinstance(content, dict) else ():
            if name not in model.model_fields:
                continue
            folder = raw.folder_of(f"{section}.{name}")
            if Source in _kinds(model.model_fields[name].annotation):
                with contextlib.suppress(ValueError):  # what is none is told with all else that is wrong
                    content[name] = Source.of(value).starting_from(folder).as_json()
            elif f"{section}.{name}" in FOLDERS and isinstance(value, str):
                content[name] = _folder_or_name(value, folder)
    points = values["search"].get("points") if isinstance(values["search"], dict) else None
    if isinstance(points, list):
        values["search"]["points"] = [
            {
                name: _folder_or_name(value, raw.folder_of(f"search.points.{place}")) if name in FOLDERS else value
                for name, value in point.items()
            }
            if isinstance(point, dict)
            else point
            for place, point in enumerate(points)
        ]
    sweeps = values["search"].get("warm_start") if isinstance(values["search"], dict) else None
    if isinstance(sweeps, list):
        values["search"]["warm_start"] = [
            os.path.abspath(raw.folder_of(f"search.warm_start.{place}") / sweep)
            if isinstance(sweep, str) and "://" not in sweep and experiment_of(sweep) is None
            else sweep
            for place, sweep in enumerate(sweeps)
        ]
    storage = values.get("storage")
    if isinstance(storage, str) and "://" not in storage:
        values["storage"] = os.path.abspath(raw.folder_of("storage") / storage)
    for section, name in ADDRESSES:
        content = values[section]
        if isinstance(content, dict) and isinstance(address := content.get(name), str):
            content[name] = with_absolute_path(address, raw.folder_of(f"{section}.{name}"))


def with_absolute_path(address: str, folder: Path) -> str:
    """An address whose database is a file under a relative path, such as `sqlite:///runs.db`, with the absolute path
    that starts from a folder; every other address as it is."""
    match = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)([^?]+)(\?.*)?", address)
    if match is None:
        return address
    return f"{match[1]}{os.path.abspath(Path(escaped_path(folder)) / match[2])}{match[3] or ''}"


def _check_names(space: Space, task: TaskSpec, objective: Objective | None, problems: Problems) -> None:
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


def _check_further(further: Further, search: SearchConfig, scheduler: SchedulerConfig, problems: Problems) -> None:
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


def _check_search(space: Space, search: SearchConfig, problems: Problems) -> None:
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


def _check_population(space: Space, search: SearchConfig, budget: BudgetConfig | None, problems: Problems) -> None:
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


def _check_confirm(data: DataConfig, search: SearchConfig, scheduler: SchedulerConfig, problems: Problems) -> None:
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


def _check_distill(
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


def _check_folds(scheduler: SchedulerConfig, problems: Problems) -> None:
    """A trial over folds trains many models: none of them is the one that others could go on from."""
    if scheduler.name == "pbt":
        what = "`scheduler.name: pbt` goes on from other trials' weights, but with `data.folds` a trial has many"
        problems.add("data.folds", what, "remove `data.folds`, or use another scheduler")


def _kinds(annotation: object) -> Iterator[object]:
    """The types that a value may have: the branches of unions, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for branch in get_args(annotation):
            yield from _kinds(branch)
    else:
        yield annotation
