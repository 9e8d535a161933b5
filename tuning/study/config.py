"""What a study is: what to train, what to search, how, and for how long."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeVar, cast

from pydantic import ConfigDict, Field, PlainSerializer, SerializeAsAny, WithJsonSchema, field_validator

from kobert_core.config import (
    DataConfig,
    DistillConfig,
    FrozenConfig,
    ModelConfig,
    Objective,
    OptimConfig,
    PositiveInt,
    RunConfig,
    TrainConfig,
)
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from search_spaces.distributions import Constant, Space
from search_spaces.validation import Problems, Where, nowhere, show, validate
from tuning.storage.connection import check_address
from tuning.study.objectives import Further
from tuning.study.sections import (
    BudgetConfig,
    ConfirmConfig,
    ResourcesConfig,
    SchedulerConfig,
    SearchConfig,
    TrackingConfig,
)

FIXED = ("data", "model", "optim", "train", "distill")
"""Sections of `TrainConfig` that hold the values of a run; the last may be missing."""
EITHER_OR = (("accumulation", "effective_batch_size"), ("warmup_ratio", "warmup_steps"))
"""Fields of `OptimConfig`: the first one must not be written down when the second is in use."""


PUBLIC = {
    "NSMC (https://github.com/e9t/nsmc)": ("ratings_train.txt", "ratings_test.txt"),
    "KorQuAD 1.0 (https://korquad.github.io)": ("KorQuAD_v1.0_train.json", "KorQuAD_v1.0_dev.json"),
    "KorSTS (https://github.com/kakaobrain/kor-nlu-datasets)": ("sts-train.tsv", "sts-dev.tsv"),
    "KLUE (https://github.com/KLUE-benchmark/KLUE)": ("klue-*.json", "klue-*.tsv"),
    "Korean hate speech (https://github.com/kocohub/korean-hate-speech)": (
        "hate-speech/train.tsv",
        "hate-speech/dev.tsv",
    ),
}
"""The data sets that studies of the package name, and their files."""


def check_files(data: Mapping[str, object]) -> None:
    """Look whether the files of a `data` section are there.

    Raises:
        InputError: one is not; it says what to put there.
    """
    for name in ("train", "dev", "test"):
        given = data.get(name)
        for path in Source.of(given).local_paths() if given else ():
            if path.exists():
                continue
            source = next((source for source, files in PUBLIC.items() if any(map(path.match, files))), None)
            here = f"put that file of {source} there, or set" if source else "set"
            raise InputError(
                "the file cannot be read (No such file or directory)",
                where=path,
                fix=f"{here} `data.{name}`, whose relative paths start from the study file's folder",
            )


class StudyHead(FrozenConfig):
    """The keys of a study file outside of its sections."""

    schema_version: Literal[1]
    """Version of the layout of study files."""
    name: Annotated[str, Field(max_length=80)]
    """Name of the study, and of its sweep's folder."""
    task: str
    """Name of a task in `kobert_core.tasks`."""
    keep_checkpoints: PositiveInt = 3
    """The checkpoints of this many best trials are kept."""
    storage: Annotated[Path | str | None, WithJsonSchema({"type": "string"})] = None
    """Folder of all sweeps, where `--output` is not given; on a cluster of several machines, one that all share. A
    relative path is relative to the study file. Or the address of a place in an object store that sweeps live in, such
    as `s3://bucket/prefix`: see docs/object-storage.md."""

    @field_validator("storage", mode="plain")
    @classmethod
    def _is_a_place(cls, value: object) -> Path | str | None:
        if isinstance(value, str):
            return check_address(value) if "://" in value else Path(value)
        if value is None or isinstance(value, Path):
            return value
        raise ValueError(f"`storage` must be a folder, or an address in an object store, but got {show(value)}")

    @property
    def sweeps_folder(self) -> Path | None:
        """`storage`, where that is a folder."""
        return self.storage if isinstance(self.storage, Path) else None

    @property
    def home(self) -> str | None:
        """`storage`, where that is an address."""
        return self.storage if isinstance(self.storage, str) else None

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", value):
            raise ValueError(f"a name has letters, digits, `_`, `-` and `.`, but got {show(value)}")
        return value


class StudyConfig(StudyHead):
    """One study file, checked, with absolute paths."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    data: SerializeAsAny[DataConfig]
    """Files and how they become examples."""
    model: SerializeAsAny[ModelConfig]
    """Encoder, tokenizer and head."""
    optim: OptimConfig = OptimConfig()
    """Fixed values of the optimizer, schedule and batch."""
    train: RunConfig = RunConfig()
    """Fixed values of length, seed and evaluations."""
    distill: DistillConfig | None = None
    """Fixed values of what is learned from a teacher; None without one."""
    space: Annotated[Space, PlainSerializer(Space.to_dict)]
    """What is searched: `parameters` in the file."""
    objective: Objective
    """What a trial is judged by; the task's own objective when not given."""
    further: Further = ()
    """Constraints and further objectives: the entries behind the first, where `objective` is a list in the file."""
    search: SearchConfig = SearchConfig()
    """How values are chosen."""
    scheduler: SchedulerConfig = SchedulerConfig()
    """When a trial is stopped early."""
    confirm: ConfirmConfig | None = None
    """How the winner is confirmed; None leaves that out."""
    resources: ResourcesConfig = ResourcesConfig()
    """What a trial runs on."""
    budget: BudgetConfig = BudgetConfig()
    """When the sweep ends."""
    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps the runs."""

    @property
    def objectives_in_words(self) -> str:
        """All objectives and constraints, the first objective first."""
        return "; ".join([f"{self.objective.mode} {self.objective.metric}", *(each.name for each in self.further)])

    def train_config(self, values: Mapping[str, object]) -> TrainConfig:
        """The config of one run: the fixed values, with searched ones in their place.

        Args:
            values: Searched values by dotted key; one that is left out has its fixed value.

        Raises:
            InputError: a value is not in the space, or they do not go together.
        """
        problems = Problems()
        config = self._train_config(values, problems)
        problems.raise_first(nowhere)
        assert config is not None
        return config

    def check(self, *, corners: int = 2000, where: Where = nowhere) -> None:
        """Make the configs of `corners` extremes of the space, and of each point given in advance.

        Raises:
            InputError: some values cannot be trained with; `where` tells the place of a dotted key.
        """
        for values in self.space.corners(corners):
            problems = Problems()
            self._train_config(values, problems)
            for problem in problems:
                about = [name for name in values if name == problem.key or f"`{name.split('.')[-1]}`" in problem.what]
                place_of = f"parameters.{about[0]}" if about else problem.key
                fix = f"the space has {show({name: values[name] for name in about or values})}"
                raise InputError(problem.what, where=where(place_of), fix=problem.fix or fix)
        for place, point in enumerate(self.search.points):
            problems = Problems()
            self._train_config(point, problems)
            if problems:
                what = f"point {place} cannot be trained with: {problems[0].what}"
                raise InputError(what, where=where(f"search.points.{place}"), fix=problems[0].fix)

    def check_files(self) -> None:
        """Look whether the data is there.

        Raises:
            InputError: a file is not; it says what to put there.
        """
        check_files(dict(self.data))
        for path in self.distill.soft_labels.local_paths() if self.distill else ():
            if not path.exists():
                raise InputError(
                    "the soft labels cannot be read (No such file or directory)",
                    where=path,
                    fix="make them with `kobert-tune distill` or `predict`, or set `distill.soft_labels`",
                )

    @property
    def sources(self) -> dict[str, Source]:
        """The files that trials and their test read, by the study's keys."""
        given = {f"data.{name}": getattr(self.data, name) for name in ("train", "dev", "test")}
        given["distill.soft_labels"] = self.distill and self.distill.soft_labels
        return {key: source for key, source in given.items() if source}

    def example_values(self, given: Mapping[str, object] = MappingProxyType({})) -> dict[str, object]:
        """The first point given in advance; what it leaves out, or all without points, is the space's middle. Values
        that are `given` take the place of both."""
        return self.space.suggest(_Middle((self.search.points[0] if self.search.points else {}) | dict(given)))

    @property
    def best_kept(self) -> int:
        """The best trials whose checkpoints are kept; with `confirm` the best complete ones, so that its candidates are
        among them, beside a baseline, and the best of all."""
        return max(self.keep_checkpoints, self.confirm.top + 1 if self.confirm else 0)

    def trials_left(self, ended: Sequence[Mapping[str, object]] = ()) -> int:
        """How many trials are still to be run after those with these values: as many as the budget has, but no more
        than the space has points. A repeat would give the same numbers, but for a population, which changes values."""
        left, points = self.budget.trials - len(ended), self.space.points()
        if points is None or self.scheduler.name == "pbt":
            return left
        return min(left, len(points) - len({self.space.identity(values) for values in ended}))

    def resolved(self) -> dict[str, object]:
        """The whole study file, with defaults and absolute paths, as plain values."""
        content = self.model_dump(mode="json")
        content["parameters"] = content.pop("space")
        for section in [name for name in ("confirm", "distill") if content[name] is None]:
            del content[section]
        sections = type(self).model_fields.keys() - {"further"} - StudyHead.model_fields.keys()
        for section in content.keys() & sections:
            given = getattr(self, section).model_fields_set
            for name, value in list(content[section].items()):
                if name not in given and (value is None or f"{section}.{name}" in self.space):
                    del content[section][name]
        if further := content.pop("further"):
            bounds = ("below", "above")
            rest = [{key: each[key] for key in each if key not in bounds or each[key] is not None} for each in further]
            content["objective"] = [content["objective"], *rest]
        if self.data.folds is not None:
            content["data"].pop("dev_fraction")
        optim = content["optim"]
        for name, instead in EITHER_OR:
            used = instead in optim or f"optim.{instead}" in self.space
            if used and name not in self.optim.model_fields_set:
                optim.pop(name, None)
        return content

    def _train_config(self, values: Mapping[str, object], problems: Problems) -> TrainConfig | None:
        self.space.find_problems(values, key="", problems=problems)
        if problems:
            return None
        constants = {
            name: self.space[name].ends()[0]
            for name in self.space.active(values)
            if isinstance(self.space[name], Constant)
        }
        given = {name: section for name in FIXED if (section := getattr(self, name)) is not None}
        raw = {name: section.model_dump(mode="json", exclude_unset=True) for name, section in given.items()}
        for name, value in (constants | dict(values)).items():
            section, _, field = name.partition(".")
            raw[section][field] = value
        parts = {
            name: validate(type(section), raw[name], key=name, problems=problems) for name, section in given.items()
        }
        if problems:
            return None
        return TrainConfig.model_validate({"task": self.task, "objective": self.objective, **parts})


Number = TypeVar("Number", int, float)


class _Middle:
    """Takes given values, and the middle of what is left open."""

    def __init__(self, given: Mapping[str, object]) -> None:
        self._given = given

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        middle = (low * high) ** 0.5 if log else (low + high) / 2
        return self._value(name, middle if step is None else low + step * ((middle - low) // step))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        middle = int((low * high) ** 0.5) if log else (low + high) // 2
        return self._value(name, low + step * ((middle - low) // step))

    def _value(self, name: str, middle: Number) -> Number:
        return cast(Number, self._given.get(name, middle))

    def suggest_categorical(self, name: str, choices: Sequence[object]) -> object:
        return self._given.get(name, choices[0])
