"""Exported models side by side: which are better than the first, by the same examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from kobert_core.config import Objective, TrainConfig
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.pretrained import load_pretrained, read_train_config
from kobert_core.progress import Progress, unseen
from kobert_core.pseudo_values import pseudo_values
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from tuning.statistics.intervals import LEVEL, Interval
from tuning.statistics.significance import holm, mcnemar, paired_t
from tuning.sweep.evaluation import Evaluation, evaluate_model
from tuning.sweep.verdict import Outcome, in_words
from tuning.sweep_dir.layout import MODEL, STUDY
from tuning.sweep_dir.saved_study import load_sweep_study

NOTE = (
    "the intervals and tests cover other examples, not other seeds: the same values trained with another seed may "
    "score otherwise"
)
REPORTED: dict[Outcome, str] = {"better": "is better than", "worse": "is worse than"}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A model on the file that all are compared on."""

    name: str
    value: float
    """Of the metric that they are compared by."""
    metrics: dict[str, Any]
    earlier_readings: int
    """How often the model had read the file before."""
    pseudo_values: np.ndarray
    right: np.ndarray | None
    """Whether each row or question is right, where the metric is their share."""
    expected: list[tuple[object, object]]
    """The id and the expected answer of each row or question."""

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "model": self.name,
            "value": self.value,
            "metrics": self.metrics,
            "earlier_readings": self.earlier_readings,
        }


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model beside the first."""

    model: str
    first: str
    difference: Interval
    """The model's value minus that of the first."""
    p_values: dict[str, float]
    """By test, corrected for the number of models (Holm): `paired_t`, and `mcnemar` where the metric is a share of
    right answers."""
    outcome: Outcome
    """Better or worse if all tests say so, else a tie."""
    sentence: str
    """The same in words."""

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ComparedModels:
    """All models, and how each stands beside the first."""

    file: str
    objective: Objective
    models: list[Scored]
    pairs: list[Pair]

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "file": self.file,
            "objective": self.objective.model_dump(),
            "models": [each.as_json() for each in self.models],
            "pairs": [each.as_json() for each in self.pairs],
            "note": NOTE,
        }


def compare_models(
    folders: Sequence[Path],
    data: Source | None = None,
    *,
    names: Mapping[Path, str] = MappingProxyType({}),
    say: Callable[[str], object],
    progress: Progress = unseen,
) -> ComparedModels:
    """Score exported models on one labelled file, and compare each with the first.

    Args:
        folders: Of two or more models, or of sweeps, whose exported winners count.
        data: The labelled file; by default the test file of the first sweep.
        names: What folders are called, where that is not their path.
        say: Gets a line for each reading that could not be recorded.
        progress: Hears how far it has come.

    Raises:
        InputError: the models do not go together, or they or the file cannot be used.
    """
    if len(folders) < 2:
        raise InputError("one model compares with nothing", where=folders[0], fix="give a second one")
    models = {folder: model_of(folder) for folder in folders}
    if len(models) < len(folders):
        twice = next(folder for folder in folders if list(folders).count(folder) > 1)
        raise InputError("a model is given twice", where=twice, fix="name each once")
    refuse_other_tasks(models)
    source = data or test_file_of(folders)
    objective = objective_of(models[folders[0]])
    scored = [
        score(names.get(folder, str(folder)), model, source, objective.metric, say=say, progress=progress)
        for folder, model in models.items()
    ]
    for each in scored[1:]:
        if each.expected != scored[0].expected:
            what = f"`{each.name}` and `{scored[0].name}` read other rows or labels of the file"
            raise InputError(what, where=source, fix="compare models whose `data` sections read it in the same way")
    whole = task_class(read_train_config(models[folders[0]]).task).shares.get(objective.metric)
    return ComparedModels(
        file=source.name, objective=objective, models=scored, pairs=pairs_of(scored, objective, whole)
    )


def model_of(folder: Path) -> Path:
    """The folder itself; of a sweep that of its exported winner.

    Raises:
        InputError: the sweep has none.
    """
    if not (folder / STUDY).is_file():
        return folder
    if not (folder / MODEL).is_dir():
        raise InputError("this sweep has exported no winner", where=folder, fix="let it end, or give an exported model")
    return folder / MODEL


def test_file_of(folders: Sequence[Path]) -> Source:
    """The test file of the first sweep among these."""
    sweep = next((folder for folder in folders if (folder / STUDY).is_file()), None)
    source = load_sweep_study(sweep).data.test if sweep else None
    if source is None:
        what = "there is no sweep among these" if sweep is None else "the study names no test file"
        raise InputError(f"{what}: nothing says what to compare on", where=sweep or folders[0], fix="give --data FILE")
    return source


def refuse_other_tasks(models: dict[Path, Path]) -> None:
    """Refuse models that do not answer the same question: of another task, or with other labels."""
    (first, first_model), *others = models.items()
    ours = read_train_config(first_model)
    for name, model in others:
        theirs = read_train_config(model)
        if theirs.task != ours.task:
            what = f"a model of the task `{theirs.task}`, while {first} is of `{ours.task}`"
            raise InputError(what, where=name, fix="compare models of one task")
        if labels_of(theirs) != labels_of(ours):
            raise InputError(f"its labels are not those of {first}", where=name, fix="compare models of one label set")


def labels_of(config: TrainConfig) -> object:
    """The labels of a task that has some; their order does not matter."""
    labels = getattr(config.data, "labels", None)
    return set(labels) if isinstance(labels, tuple) else labels


def objective_of(model: Path) -> Objective:
    """What a model was chosen by; the task's own objective where that cannot be scored on another file."""
    config = read_train_config(model)
    spec = task_class(config.task).spec
    return config.objective if config.objective and config.objective.metric in spec.metrics else spec.objective


def score(
    name: str,
    model: Path,
    source: Source,
    metric: str,
    *,
    say: Callable[[str], object],
    progress: Progress,
) -> Scored:
    """A model on the file; the reading is recorded in its folder."""
    pretrained = load_pretrained(model, progress=progress)
    found = evaluate_model(pretrained, model, source, by="compare", say=say)
    if len(np.unique(found.examples.clusters)) < 2:
        raise InputError("one row, or one article, compares no models", where=source, fix="give a larger file")
    if metric not in found.scores:
        raise InputError(f"the models are compared by `{metric}`, which this file does not have", where=source)
    review = pretrained.task.review(found.examples, found.outputs, source)
    return Scored(
        name=name,
        value=found.scores[metric],
        metrics=found.metrics,
        earlier_readings=found.earlier_readings,
        pseudo_values=pseudo_values(pretrained.task, found.examples, found.outputs, metric),
        right=right_of(pretrained.task, found, metric, review),
        expected=[(record["id"], record["expected"]) for record in review],
    )


def right_of(
    task: Task[Any], found: Evaluation[Any], metric: str, review: Sequence[dict[str, Any]]
) -> np.ndarray | None:
    """Whether each row or question is right; None where the metric is no share of those."""
    if metric not in task.shares:
        return None
    scores = task.item_scores(found.examples, found.outputs, metric)
    right: np.ndarray = np.array([record["score"] for record in review]) if scores is None else scores
    return right > 0


def pairs_of(scored: Sequence[Scored], objective: Objective, whole: float | None) -> list[Pair]:
    """Each model but the first, compared with the first.

    Args:
        scored: All of them.
        objective: What they are compared by.
        whole: Its value when all is right, where it is a share of that: differences are then told in points.
    """
    first, *others = scored
    by_t = [paired_t(each.pseudo_values, first.pseudo_values) for each in others]
    p_values = {"paired_t": holm([p for _, p in by_t])}
    if first.right is not None:
        p_values["mcnemar"] = holm([mcnemar(each.right, first.right) for each in others if each.right is not None])
    return [
        judged(
            each.name,
            first.name,
            difference,
            {test: found[place] for test, found in p_values.items()},
            objective,
            whole,
        )
        for place, (each, (difference, _)) in enumerate(zip(others, by_t, strict=True))
    ]


def judged(
    model: str, first: str, difference: Interval, p_values: dict[str, float], objective: Objective, whole: float | None
) -> Pair:
    """A pair with what may be said of it."""
    gains = difference.estimate > 0 if objective.mode == "max" else difference.estimate < 0
    outcome: Outcome = "tie" if max(p_values.values()) >= 1 - LEVEL else "better" if gains else "worse"
    interval = f"{difference.level:.0%} interval {in_words(whole, difference.low, difference.high)}"
    tests = f"p {max(p_values.values()):.2g}"
    if outcome == "tie":
        sentence = f"{model} and {first} cannot be told apart ({interval} for the difference, {tests})"
    else:
        by = in_words(whole, abs(difference.estimate))
        sentence = f"{model} {REPORTED[outcome]} {first} by {by} ({interval} for the difference, {tests})"
    return Pair(model=model, first=first, difference=difference, p_values=p_values, outcome=outcome, sentence=sentence)
