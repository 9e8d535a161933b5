"""What a sweep would do, after everything that it depends on was checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kobert_core.data.set_aside import PLACES_SHOWN
from kobert_core.data.source import Source
from kobert_core.progress import Progress, unseen
from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples
from tuning.cluster.group_count import groups_that_fit, room_for_groups
from tuning.cluster.head import starts_here
from tuning.cluster.nodes import has_autoscaler
from tuning.cluster.ray_cluster import ray_cluster, set_environment
from tuning.cluster.shared_storage import check_shared
from tuning.search.warm_start import in_words, read_earlier
from tuning.statistics.halving import total_runs
from tuning.study import StudyConfig
from tuning.study.sections import ConfirmConfig
from tuning.sweep.preflight import files_of, prepare, spoilers_of, survey, this_machine, tracking_warnings
from tuning.sweep_dir.layout import CACHE, STUDY
from tuning.tracking import resolve_tracking_uri
from tuning.tracking.databases import check_database


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What was found, and what would run."""

    study: StudyConfig
    folder: Path
    splits: dict[str, Examples]
    facts: list[tuple[str, str]]
    """What is in the data, in words."""
    set_aside: list[tuple[Source, str]]
    """Files, each with a row or question that cannot be used; not more than a few of each file."""
    warnings: list[str]
    at_once: int
    """Trials that run at the same time."""
    warm_start: list[str]
    """Of earlier sweeps, how many trials the search learns from, in words."""

    @property
    def examples_per_step(self) -> int:
        """Of trial 0."""
        config = self.study.train_config(self.study.example_values())
        return config.optim.examples_per_step(self.study.resources.workers)

    @property
    def steps(self) -> int:
        """Of trial 0; with folds, of the first one."""
        epochs = self.study.train_config(self.study.example_values()).train.epochs
        return max(1, round(epochs * -(-len(self.splits["train"]) // self.examples_per_step)))

    def lines(self) -> list[tuple[str, object]]:
        """Labels and values for people, without the warnings."""
        study, resources = self.study, self.study.resources
        trials, points = study.trials_left(), study.space.points()
        folds = study.data.folds
        times = f"{folds} times " if folds else ""
        all_points = " (all points)" if points and trials == len(points) else ""
        return [
            ("study", study.name),
            ("folder", self.folder),
            *([("folds", f"{folds}; train and dev are told of the first one")] if folds else []),
            *self.splits.items(),
            *self.facts,
            *((f"set aside in {file.name}", place) for file, place in self.set_aside),
            (
                "trials",
                f"{trials} trials{all_points}, {study.search.algorithm} search, {study.scheduler.name} scheduler",
            ),
            *(("warm start", line) for line in self.warm_start),
            *([("confirm", confirm_in_words(study.confirm))] if study.confirm else []),
            ("objective", study.objectives_in_words),
            (
                "a run",
                f"{times}{self.steps:,} steps of {self.examples_per_step} {self.splits['train'].unit} (trial 0)",
            ),
            (
                "workers",
                f"{resources.workers} a trial, {resources.cpus_per_worker:g} CPUs and "
                f"{resources.gpus_per_worker:g} GPUs each; {self.at_once} trial(s) at once",
            ),
            *((f"  {name}", distribution) for name, distribution in study.space.items()),
        ]

    def as_json(self) -> dict[str, object]:
        """Plain values, for `--json`."""
        return {
            "study": self.study.resolved(),
            "sweep": str(self.folder),
            "splits": {
                name: {"examples": len(examples), "items": examples.items} for name, examples in self.splits.items()
            },
            "facts": dict(self.facts),
            "set_aside": [f"{file}: {place}" for file, place in self.set_aside],
            "trials": self.study.trials_left(),
            "trials_at_once": self.at_once,
            **({"warm_start": self.warm_start} if self.warm_start else {}),
            **({"folds": self.study.data.folds} if self.study.data.folds else {}),
            "steps": self.steps,
            "examples_per_step": self.examples_per_step,
            "warnings": self.warnings,
        }


def confirm_in_words(confirm: ConfirmConfig) -> str:
    """How many runs follow the search."""
    choosing = total_runs(confirm.top)
    told = f"{choosing} runs choose among the best {confirm.top}, " if choosing else ""
    return f"{told}{2 * confirm.seeds} compare the best trial with the baseline"


def look(study: StudyConfig, folder: Path, address: str | None, *, progress: Progress = unseen) -> DryRun:
    """Check everything that a sweep depends on: the machine or the cluster at an address, addresses, models, data.

    Raises:
        InputError: the sweep could not run.
    """
    at_once = count_trials_at_once(study, folder, address)
    if study.search.storage:
        check_database(study.search.storage, where="search.storage")
    warm_start = in_words(read_earlier(study, folder.parent))
    checked = prepare(study, folder, progress=progress)
    for problem in spoilers_of(checked):
        raise problem
    task = checked.task
    facts, warnings = survey(checked, folder.parent / CACHE)
    if (folder / STUDY).exists():
        warnings = [f"the name {folder.name} is in use: give another --name, or --resume", *warnings]
    return DryRun(
        study=study,
        folder=folder,
        splits={"train": task.train, "dev": task.dev}
        | ({"test": task.read(study.data.test)} if study.data.test else {}),
        facts=facts,
        set_aside=set_aside(study, task),
        warnings=warnings + tracking_warnings(resolve_tracking_uri(study.tracking.uri, folder.parent)),
        at_once=at_once,
        warm_start=warm_start,
    )


def count_trials_at_once(study: StudyConfig, folder: Path, address: str | None) -> int:
    """How many trials run at the same time here, or on the cluster at an address, which is asked.

    Raises:
        InputError: there is no room for one, no cluster, or a machine of it does not see the files.
    """
    if starts_here(address):
        return groups_that_fit([this_machine()], study.resources)
    set_environment(address)
    with ray_cluster(address) as cluster:
        if len(cluster) > 1 and study.home is None:
            check_shared(next(each for each in folder.parents if each.is_dir()), files_of(study))
        has_room = room_for_groups(cluster, study.resources) > 0
        if not has_room and (study.resources.waits_for_machines or has_autoscaler()):
            return 1  # once a machine has joined
        return groups_that_fit(cluster, study.resources, may_grow=True)


def set_aside(study: StudyConfig, task: Task[Examples]) -> list[tuple[Source, str]]:
    """A few of the rows or questions of each file that cannot be used."""
    data = study.data
    bad = [(data.train, task.bad_rows(data.train, "training"))]
    bad += [(file, task.bad_rows(file)) for file in (data.dev, data.test) if file]
    return [(file, str(row)) for file, rows in bad for row in rows[:PLACES_SHOWN]]
