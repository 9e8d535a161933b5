"""Checks of a study before anything starts: what would fail in every trial, or make its numbers worthless."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kobert_core.data.survey import CutOff, Survey
from kobert_core.errors import InputError
from kobert_core.pretrained import caveats_of
from kobert_core.progress import Progress, unseen
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples
from search_spaces.validation import show
from tuning.cluster.web import problem_at
from tuning.study import StudyConfig
from tuning.study.encoders import Encoder, encoders_of, short_names
from tuning.study.searchable_keys import CHANGEABLE
from tuning.sweep.disk import DiskNeeds, checkpoint_bytes
from tuning.sweep.guards import resolution, spoilers
from tuning.sweep_dir.layout import CACHE
from tuning.tracking import resolve_tracking_uri
from tuning.tracking.databases import problem_of
from tuning.tracking.uris import is_server, redact_uri, sqlite_path

log = logging.getLogger(__name__)

CORNERS = 2000
MAX_SHAPES = 64
"""The number of combinations of values that shape the examples or the model and are checked, with each encoder."""
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""The CPU limit of a container on Linux: a quota and its period, or `max`."""


@dataclass(frozen=True)
class CheckedStudy:
    """A study whose models can be built."""

    study: StudyConfig
    task: Task[Examples]
    """With the study's example values."""
    tasks: list[tuple[Encoder, Task[Examples]]]
    """A task with each encoder."""
    facts: list[tuple[str, str]]
    """Of encoders that are searched, in words."""
    checkpoint: int
    """Bytes of the largest checkpoint."""

    def disk_needs(self, *, running: int) -> DiskNeeds:
        """The disk space that the sweep needs with so many trials at once."""
        return DiskNeeds.of(self.study, self.checkpoint, running=running)


def check_study(study: StudyConfig, cache: Path | None, *, progress: Progress = unseen) -> CheckedStudy:
    """Build a model of each shape that the space has, with each encoder. Data is read where the tokenizer or the loss
    is made from it.

    Raises:
        InputError: a trial could not build its model, or not load its weights.
    """
    study.check()
    study.check_files()
    example = study.example_values()
    tasks: list[tuple[Encoder, Task[Examples]]] = []
    facts, sizes, caveats = list[tuple[str, str]](), list[int](), list[str]()
    for encoder in encoders_of(study):
        values = study.example_values(encoder.values)
        task = task_class(study.task)(study.train_config(values), cache=cache, progress=progress)
        tasks.append((encoder, task))
        with naming(encoder.values):
            pieces = len(task.tokenizer)
        for number, (shaping, shaped) in enumerate(shapes(study, encoder, task, cache)):
            with naming(shaping):
                model = shaped.check_model(weights=not number)  # which are the same for all
            sizes.append(checkpoint_bytes(model))
            caveats += caveats_of(type(shaped), model.state_dict())
        if encoder.is_searched:
            weights = sum(parameter.numel() for parameter in model.encoder.parameters())
            told = f"{model.encoder.config.model_type}, {weights / 1e6:,.1f}M weights, {pieces:,} pieces"
            facts.append((f"encoder {encoder.name}", told))
    for caveat in dict.fromkeys(caveats):
        log.warning(caveat)
    first = next(task for encoder, task in tasks if encoder.is_of(example))
    if study.data.holdout_fraction:
        check_holdout(first)
        facts.append(("holdout", f"{first.holdout}, which no trial is chosen by"))
    return CheckedStudy(study, first, tasks, facts, max(sizes))


def check_holdout(task: Task[Examples]) -> None:
    """Look whether the holdout can say how much chance there is in a score.

    Raises:
        InputError: it cannot: all of it is one observation.
    """
    if len(set(task.holdout.clusters.tolist())) < 2:
        raise InputError(
            f"the holdout ({task.holdout}) must have two rows, or questions on two articles, at least",
            where="data.holdout_fraction",
            fix="give the dev split more, or leave out `confirm`",
        )


@contextmanager
def naming(values: dict[str, object]) -> Iterator[None]:
    """Say with which searched values something is wrong."""
    try:
        yield
    except InputError as error:
        if not values:
            raise
        short = short_names(value for value in values.values() if isinstance(value, str))
        shown = {name: short.get(str(value), value) for name, value in values.items()}
        raise InputError(f"{error} (searched: {show(shown)})") from error


def is_here(study: StudyConfig) -> bool:
    """Whether all files and models of a study are on this machine; names on the hub and addresses in an object store
    count as absent."""
    sources = study.sources.values()
    models = [Path(source) for encoder in encoders_of(study) for source in encoder.sources.values()]
    are_files = not any(source.has_address for source in sources)
    return are_files and all(source.is_here() for source in sources) and all(path.is_dir() for path in models)


def shapes(
    study: StudyConfig,
    encoder: Encoder,
    task: Task[Examples],
    cache: Path | None,
    *,
    sections: tuple[str, ...] = ("data.", "model."),
) -> Iterator[tuple[dict[str, object], Task[Examples]]]:
    """The extreme values of the parameters that shape the examples or the model, or of one of these `sections`, with an
    encoder whose task is given; each with its own task."""
    seen: set[str] = set()
    for values in study.space.corners(CORNERS, encoder.values):
        shaping = {
            name: value for name, value in values.items() if name.startswith(sections) and name not in CHANGEABLE
        }
        key = json.dumps(shaping, sort_keys=True)
        if key not in seen and len(seen) < MAX_SHAPES:
            seen.add(key)
            yield shaping, type(task)(study.train_config(values), cache=cache, tokenizer=task.tokenizer)


def survey(checked: CheckedStudy, cache: Path | None) -> Survey:
    """Facts and warnings about the data, and the share of it that is cut off with the searched values."""
    study = checked.study
    facts, warnings = checked.task.survey(study.data.test)
    for encoder, task in checked.tasks:
        cut: dict[str, dict[int, CutOff]] = {}
        for _, shaped in shapes(study, encoder, task, cache, sections=("data.",)):
            for each in shaped.cut_off():
                cut.setdefault(each.what, {})[each.limit] = each
        by = f", {encoder.name}" if encoder.is_searched else ""
        for what, by_limit in cut.items():
            found = [by_limit[limit] for limit in sorted(by_limit)]
            shares = ", ".join(f"{each.share:.2%} at {each.limit}" for each in found)
            facts.append((f"{what}{by}", f"{shares} tokens ({found[0].key})"))
            warnings += too_much_cut_off(found, by)
    told = resolution(checked.task, study.objective.metric)
    facts += [("smallest difference", told)] if told else []
    return Survey(checked.facts + facts, warnings)


def spoilers_of(checked: CheckedStudy) -> Iterator[InputError]:
    """What makes the numbers of all trials worthless."""
    return spoilers([task for _, task in checked.tasks], checked.study.data.test)


def too_much_cut_off(found: Iterable[CutOff], by: str = "") -> list[str]:
    """A warning for each length that is probably too short; `by` says whose tokens are counted."""
    return [
        f"{each.what}{by}: {each.share:.2%} at `{each.key}: {each.limit}`, which is probably too short"
        for each in found
        if each.share > each.bearable
    ]


def this_machine() -> dict[str, float]:
    """The resources that Ray would find here."""
    import torch

    return {"CPU": float(cpus_here()), "GPU": float(torch.cuda.device_count())}


def cpus_here(cpu_max: Path = CPU_MAX) -> int:
    """The CPUs of this machine, or those that a container may use."""
    count = os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
        return min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or one without a limit
        return count


def tracking_problem(uri: str) -> str | None:
    """Why a tracking store does not answer, in a line; None when it does, or is a file."""
    if sqlite_path(uri) is not None:
        return None
    what, reason = (
        ("MLflow server answers", problem_at(f"{uri.rstrip('/')}/health"))
        if is_server(uri)
        else ("database for MLflow can be reached", problem_of(uri))
    )
    return reason and f"no {what} at {redact_uri(uri)} ({reason})"


def prepare(study: StudyConfig, folder: Path, *, progress: Progress = unseen) -> CheckedStudy:
    """Check the models, read and tokenize the data, and check the disk space, so that errors come before anything
    starts."""
    resolve_tracking_uri(study.tracking.uri, folder.parent)
    checked = check_study(study, folder.parent / CACHE, progress=progress)
    if not all(len(fold.train) and len(fold.dev) for _, task in checked.tasks for fold in task.folds()):
        raise InputError("no examples are left to train or to compare on", where=study.name)
    concurrent = study.resources.concurrent
    checked.disk_needs(running=concurrent if isinstance(concurrent, int) else 1).check(folder)
    if study.data.test is not None:
        for _, task in checked.tasks:
            task.read(study.data.test)
    return checked


def tracking_warnings(tracking_uri: str) -> list[str]:
    """A warning when no MLflow server or database answers at an address."""
    problem = tracking_problem(tracking_uri)
    return [f"{problem}: what it should get is kept in the sweep's folder until one does"] if problem else []


def files_of(study: StudyConfig) -> list[Path]:
    """The files that the workers read: data, and the models that are folders; not what they fetch by its address."""
    sources = dict.fromkeys(source for encoder in encoders_of(study) for source in encoder.sources.values())
    folders = [Path(source) for source in sources if Path(source).is_dir()]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    return [path for source in study.sources.values() for path in source.files()] + files
