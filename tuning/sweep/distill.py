"""What a student of a sweep learns from: the answers of its teacher to the texts that it is trained on, and to others.

Its own sweep is one like any other, whose study names these answers as `distill.soft_labels`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from kobert_core.data.set_aside import SetAside
from kobert_core.data.source import Source
from kobert_core.ensemble import Ensemble
from kobert_core.errors import InputError
from kobert_core.inference import Predictor
from kobert_core.io.atomic import atomic_write_json
from kobert_core.io.checksums import SUMS
from kobert_core.io.record_files import PartFiles
from kobert_core.models.heads import EncoderWithHead
from kobert_core.onnx.latency import latencies
from kobert_core.pretrained import read_train_config
from kobert_core.progress import Progress, unseen
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from kobert_core.tasks.labelled_texts.soft_labels import as_logits
from kobert_core.tasks.labelled_texts.task import LabelledTexts
from kobert_core.texts import folded
from tuning.study import StudyConfig
from tuning.study.encoders import short_names
from tuning.sweep.compare_models import model_of
from tuning.sweep_dir.confirm_runs import confirmed_models
from tuning.sweep_dir.home import bring, bring_confirmed
from tuning.sweep_dir.layout import MODEL, SOFT_LABELS, SOFT_LABELS_MADE_OF, STUDENTS, STUDY
from tuning.sweep_dir.provenance import digest_of
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

ROWS_AT_ONCE = 10_000
OF_A_SHAPE = ("model.backbone", "model.keep_layers")
"""Searched values that decide how large and how fast a model is."""
TEACHER, STUDENT = "teacher", "student"
Row = dict[str, str]


def teachers_of(path: Path) -> tuple[Path, ...]:
    """The models of a sweep: those that confirmed its winner, each with a seed of its own, or the winner alone; a
    folder of an exported model is itself one.

    Raises:
        InputError: the sweep has exported no winner, or the folder is none of a model.
    """
    bring(path, path / MODEL)
    bring_confirmed(path)
    model = model_of(path)
    read_train_config(model)
    return (confirmed_models(path) if (path / STUDY).is_file() else ()) or (model,)


class Teacher:
    """Models whose mean answer is learned from."""

    def __init__(self, models: Sequence[Path], student: LabelledTexts, *, progress: Progress = unseen) -> None:
        """Load them.

        Raises:
            InputError: one of them answers another question than the student.
        """
        self.predictors = [Predictor.load(model, progress=progress) for model in models]
        self.columns = student.soft_targets.columns
        for model, predictor in zip(models, self.predictors, strict=True):
            task = predictor.task
            if not isinstance(task, LabelledTexts) or task.problem_type != student.problem_type:
                what = f"this teacher is one of `task: {task.name}`, and its student of `task: {student.name}`"
                raise InputError(what, where=model, fix="give both the same task")
            theirs = predictor.answer_types.keys()
            if predictor.columns != student.input_columns or not set(self.columns) <= theirs:
                there, wanted = (
                    ", ".join([*columns, *named])
                    for columns, named in (
                        (predictor.columns, [name for name in theirs if name not in ("label", "name", "labels")]),
                        (student.input_columns, self.columns),
                    )
                )
                raise InputError(
                    f"this teacher has {there}, and its student needs {wanted}",
                    where=model,
                    fix="give both the same task, the same labels, and texts or pairs alike",
                )

    def says(self, rows: Sequence[Row]) -> np.ndarray:
        """The mean of their probabilities, or of their numbers: float64, shape (rows, columns)."""
        said = [
            [[answer[name] for name in self.columns] for answer in predictor.predict(rows)]
            for predictor in self.predictors
        ]
        mean: np.ndarray = np.array(said, dtype=np.float64).mean(axis=0)
        return mean

    def score(self, student: LabelledTexts) -> dict[str, float]:
        """Its metrics on the student's dev split."""
        said = self.says(rows_of(student, "dev"))
        return student.score(student.dev, {"logits": as_logits(said, student.problem_type)})


def rows_of(task: LabelledTexts, split: str) -> list[Row]:
    """The texts of a split as rows in memory."""
    (texts,) = task.texts_of_splits(None)[split].values()
    return [dict(zip(task.input_columns, row, strict=True)) for row in texts]


def write_soft_labels(
    student: LabelledTexts,
    models: Sequence[Path],
    unlabelled: Sequence[Source],
    folder: Path,
    *,
    say: Callable[[str], object] = lambda line: None,
    progress: Progress = unseen,
) -> None:
    """Write what a teacher says of the texts of the student's training split, and of files without labels, unless that
    is there; a process that goes on keeps the parts that one before it has written.

    Texts of the study's test file are left out: nothing is to be learned about them.

    Args:
        student: The task of the student's study.
        models: Folders of the teacher's models.
        unlabelled: Files of the kind that the student answers.
        folder: Of the student's sweep.
        say: Gets a line for each of these files that has rows which cannot be used.
        progress: Hears how far it has come.

    Raises:
        InputError: a model or a file cannot be used, the student has another task or other labels, or its sweep has
            begun with other answers.
    """
    train = rows_of(student, "train")
    made_of = {
        "teacher": [hashlib.sha256((model / SUMS).read_bytes()).hexdigest() for model in models],
        "train": hashlib.sha256(json.dumps(train).encode()).hexdigest(),
        "unlabelled": [source.digest() for source in unlabelled],
        "test": student.data.test and Source.of(student.data.test).digest(),
    }
    file, record = folder / SOFT_LABELS, folder / SOFT_LABELS_MADE_OF
    made_before = _read_if_whole(record)
    if file.is_file() and made_before == made_of:
        return
    if made_before not in (None, made_of) and (folder / STUDY).is_file():
        raise InputError(
            "the students of this sweep learn from other answers",
            where=file,
            fix="resume it with the same teacher, `--unlabelled` and `data.test`, or give another `--name`",
        )
    teacher = Teacher(models, student, progress=unseen)
    files = PartFiles(file, made_of)
    done, work = 0, "asking the teacher"
    for number, rows in enumerate(_parts(itertools.chain(train, _untested(student, unlabelled, say)))):
        progress(work, done)
        if not files.has(number):
            said = [dict(zip(teacher.columns, answer, strict=True)) for answer in teacher.says(rows).tolist()]
            files.write(number, [row | answer for row, answer in zip(rows, said, strict=True)])
        done += len(rows)
    progress(work, done, done)
    files.join()
    atomic_write_json(record, made_of)


def _read_if_whole(record: Path) -> object:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what is damaged is made again
        return None


def _untested(student: LabelledTexts, unlabelled: Iterable[Source], say: Callable[[str], object]) -> Iterator[Row]:
    """The rows without labels that do not stand in the test file."""
    test = student.data.test
    kinds = student.texts(test).values() if test else ()
    tested = {tuple(map(folded, texts)) for of_kind in kinds for texts in of_kind}
    for source in unlabelled:
        bad: list[SetAside] = []
        for inputs in student.input_parts(source):
            bad += inputs.bad
            for texts in zip(*inputs.texts.values(), strict=True):
                if tuple(map(folded, texts)) not in tested:
                    yield dict(zip(inputs.texts, texts, strict=True))
        if bad:
            say(f"set aside in {source.name}: {len(bad):,} row(s), the first on {bad[0]}")


def _parts(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while part := list(itertools.islice(rows, ROWS_AT_ONCE)):
        yield part


def other_split(sweep: Path, student: StudyConfig) -> str | None:
    """Why the teacher may have been trained on texts that the student is judged by, if so."""
    unknown = f"whether {sweep.name} was trained on texts of the student's dev split is not known"
    if not (sweep / STUDY).is_file():
        return unknown
    theirs, ours = load_sweep_study(sweep).data, student.data
    for name in ("train", "dev"):
        wanted = getattr(ours, name) and getattr(ours, name).digest()
        try:
            given = getattr(theirs, name) and digest_of(sweep, f"data.{name}", getattr(theirs, name))
        except InputError:  # its file is not there any more, which its models do not need
            return unknown
        if given != wanted:
            return f"`data.{name}` is not that of {sweep.name}: the teacher may know texts of the student's dev split"
    for name in ("dev_fraction", "split_seed") if ours.dev is None else ():
        if getattr(theirs, name) != getattr(ours, name):
            return f"`data.{name}` is not that of {sweep.name}: the teacher knows texts of the student's dev split"
    return None


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model beside others of other sizes."""

    model: str
    value: float
    """The objective on the student's dev split, of the best trial of this shape."""
    weights: int
    p50_ms: dict[str, float]
    """Median latency on one thread of the CPU, by the number of texts that it is asked about at once."""


def compare_sizes(
    study: StudyConfig, table: TrialTable, models: Sequence[Path], *, cache: Path, progress: Progress = unseen
) -> list[Size]:
    """The teacher, and of each shape that the student was trained in its best trial.

    The teacher's latency is that of all its models together.

    Raises:
        InputError: a model or the data cannot be used.
    """

    def task_of(values: Mapping[str, object]) -> LabelledTexts:
        return as_student(task_class(study.task)(study.train_config(values), cache=cache))

    best: dict[str, TrialRecord] = {}
    for record in table.best(len(table)):
        best.setdefault(shape_of(record), record)
    tasks = {name: task_of(record.values) for name, record in best.items()}
    first = next(iter(tasks.values()))
    teacher = Teacher(models, first)
    ensemble = Ensemble([cast(EncoderWithHead, each.model.cpu()) for each in teacher.predictors])
    networks: dict[str, nn.Module] = {TEACHER: ensemble}
    networks |= {name: task.build_model().eval() for name, task in tasks.items()}
    values = {TEACHER: teacher.score(first)[study.objective.metric]}
    values |= {name: record.value for name, record in best.items() if record.value is not None}
    asked = {name: task.dev for name, task in tasks.items()}
    asked[TEACHER] = teacher.predictors[0].task.inputs(rows_of(first, "dev")).examples
    times = latencies(
        {name: partial(_given, network) for name, network in networks.items()}, asked, threads=(1,), progress=progress
    )
    return [
        Size(
            model=name,
            value=values[name],
            weights=sum(weight.numel() for weight in network.parameters()),
            p50_ms={str(each.batch): each.p50_ms for each in times if each.model == name},
        )
        for name, network in networks.items()
    ]


def _given(network: nn.Module, threads: int) -> nn.Module:
    """PyTorch's threads are those of the process."""
    return network


def as_student(task: Task[Any]) -> LabelledTexts:
    """A task that can learn from a teacher.

    Raises:
        InputError: it cannot.
    """
    if not isinstance(task, LabelledTexts):
        raise InputError(f"`task: {task.name}` cannot learn from a teacher", where="--student", fix="take one of texts")
    return task


def shape_of(record: TrialRecord) -> str:
    """What of a trial's values its size follows from, in words."""
    searched = {name: value for name in OF_A_SHAPE if (value := record.values.get(name)) is not None}
    short = short_names(str(value) for value in searched.values())
    told = [f"{name.removeprefix('model.')} {short.get(str(value), value)}" for name, value in searched.items()]
    return ", ".join(told) or STUDENT


def write_sizes(folder: Path, sizes: Sequence[Size]) -> None:
    """Write them into the student's sweep."""
    atomic_write_json(folder / STUDENTS, [asdict(size) for size in sizes])
