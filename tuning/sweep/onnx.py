"""Graphs of an exported model for onnxruntime: made, held against the model on real examples, measured, and told on
the model's card."""

from __future__ import annotations

import functools
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kobert_core.checkpoint import WEIGHTS
from kobert_core.config import Objective
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.evaluation import evaluate
from kobert_core.io.atomic import atomic_folder, atomic_write_json, atomic_write_text
from kobert_core.io.checksums import write_sums
from kobert_core.models.heads import EncoderWithHead
from kobert_core.onnx.files import FILES, FOLDER, MAX_DROP, REPORT, Precision, need_packages
from kobert_core.onnx.graph import OPSET, export_graph, largest_difference, names_of, remove_graph, size_of
from kobert_core.onnx.latency import Latency, latencies
from kobert_core.onnx.session import OnnxModel
from kobert_core.onnx.smaller import LADDER, halve, quantize
from kobert_core.pretrained import load_pretrained, task_of
from kobert_core.progress import Progress, unseen
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples
from kobert_core.tokenization import load_tokenizer
from tuning.study import StudyConfig
from tuning.sweep.compare_models import objective_of
from tuning.sweep_dir.layout import CACHE
from tuning.sweep_dir.test_set_log import record_reading_of_model
from tuning.sweep_dir.trial_table import TrialRecord

TOLERANCE = 1e-4
"""How far a logit of the graph may be from that of PyTorch, in float32."""
PYTORCH = "PyTorch"
"""The model as `predict` runs it."""
SECTION = "## ONNX"
Run = Callable[..., OnnxModel]
"""`OnnxModel` of a graph of the model."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which graphs are made beside that in float32."""

    fp16: bool = False
    int8: bool = False
    max_drop: float = MAX_DROP
    """Points of the task's metric that one of these may lose."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A graph, and what the task's metric says of it."""

    precision: Precision
    how: str
    bytes: int
    value: float
    drop: float
    """Points that it loses to the graph in float32."""
    kept: bool


@dataclass(frozen=True, kw_only=True)
class OnnxReport:
    """What was made of a model, and what was measured."""

    data: str
    """Whose examples were taken."""
    examples: str
    """How many there are, in words."""
    metric: str
    inputs: list[str]
    outputs: list[str]
    difference: float
    """The largest of a logit from that of PyTorch."""
    weights_bytes: int
    """Of the file for PyTorch."""
    tried: list[Tried]
    """That in float32 first."""
    latencies: list[Latency]
    processor: str
    opset: int = OPSET

    @property
    def kept(self) -> list[Tried]:
        """The graphs that are in the folder."""
        return [each for each in self.tried if each.kept]

    @property
    def refused(self) -> list[Tried]:
        """What loses too much."""
        return [each for each in self.tried if not each.kept]

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self) | {"versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime")}}


def add_onnx(
    folder: Path,
    examples: Examples,
    data: str,
    wanted: Wanted,
    *,
    progress: Progress = unseen,
) -> OnnxReport:
    """Put graphs of a model into its folder, with a report, and their section on its card.

    That in float32 must give the logits of PyTorch. A smaller one is kept if it loses few points of the metric that the
    model was chosen by. Of int8, settings are tried until one is good enough.

    Args:
        folder: Of the exported model.
        examples: Labelled ones that the model was not trained on.
        data: The file that they are from.
        wanted: Which graphs.
        progress: Hears how far it has come.

    Raises:
        InputError: a package is missing, the folder has graphs already, or a logit is not that of PyTorch.
    """
    check_can_add(folder)
    pretrained = load_pretrained(folder, progress=progress)
    model, task = pretrained.model, pretrained.task
    assert isinstance(model, EncoderWithHead)
    run = functools.partial(OnnxModel, head=task.head, pad_id=task.tokenizer.pad_id)
    score = _Scores(task, examples, objective_of(folder), wanted.max_drop)
    with atomic_folder(folder / FOLDER) as made:
        files = {precision: made / name for precision, name in FILES.items()}
        difference = _trace(model, files["fp32"], run, examples, data, progress)
        tried = list(_graphs(files, run, wanted, score))
        kept = {each.precision for each in tried if each.kept}
        for precision in files.keys() - kept:
            remove_graph(files[precision])
        runners = {PYTORCH: lambda threads: model} | {
            f"{FOLDER}/{file.name}": functools.partial(_with_threads, run, file)
            for precision, file in files.items()
            if precision in kept
        }
        inputs, outputs = names_of(files["fp32"])
        report = OnnxReport(
            data=data,
            examples=str(examples),
            metric=score.objective.metric,
            inputs=inputs,
            outputs=outputs,
            difference=difference,
            weights_bytes=(folder / WEIGHTS).stat().st_size,
            tried=tried,
            latencies=latencies(runners, dict.fromkeys(runners, examples), progress=progress),
            processor=processor(),
        )
        atomic_write_json(made / REPORT, report.as_json())
        write_sums(made)
    put_on_card(folder / "README.md", report)
    return report


def add_onnx_on_dev(
    folder: Path, sweep: Path, study: StudyConfig, record: TrialRecord, wanted: Wanted, *, progress: Progress = unseen
) -> OnnxReport:
    """`add_onnx` by the examples that the trials of a sweep were compared on.

    Args:
        folder: Of the exported model.
        sweep, study, record: The sweep and the trial that it is of.
        wanted: Which graphs.
        progress: Hears how far it has come.

    Raises:
        InputError: as from `add_onnx`, or the files of the study cannot be read any more.
    """
    config, tokenizer = study.train_config(record.values), load_tokenizer(folder)
    task = task_class(study.task)(config, cache=sweep.parent / CACHE, tokenizer=tokenizer, progress=progress)
    return add_onnx(folder, task.dev, (study.data.dev or study.data.train).name, wanted, progress=progress)


def add_onnx_on_file(
    folder: Path, source: Source, wanted: Wanted, *, say: Callable[[str], object], progress: Progress = unseen
) -> OnnxReport:
    """`add_onnx` by the examples of a labelled file. The reading is recorded in the model's folder, if that can be
    written.

    Args:
        folder: Of the exported model.
        source: The file.
        wanted: Which graphs.
        say: Gets a line if the reading could not be recorded.
        progress: Hears how far it has come.

    Raises:
        InputError: as from `add_onnx`, or the file cannot be used.
    """
    check_can_add(folder)
    digest, examples = source.digest(), task_of(folder, progress=progress).read(source)
    report = add_onnx(folder, examples, source.name, wanted, progress=progress)
    metrics = {report.metric.removeprefix("eval/"): report.kept[0].value}
    record_reading_of_model(folder, file=source, sha256=digest, by="onnx", metrics=metrics, say=say)
    return report


def check_can_add(folder: Path) -> None:
    """Refuse a model that no graphs can be added to.

    Raises:
        InputError: it has some, or a package is missing.
    """
    need_packages("onnx", "onnxruntime")
    if (folder / FOLDER).exists():
        raise InputError("there are graphs already", where=folder / FOLDER, fix="remove the folder to make them again")


def _trace(model: EncoderWithHead, file: Path, run: Run, examples: Examples, data: str, progress: Progress) -> float:
    """Make the graph in float32: how far its logits are from those of the model."""
    work = "tracing the graph"
    progress(work, 0, 1)
    export_graph(model, file)
    difference = largest_difference(model, run(file), examples)
    progress(work, 1, 1)
    if not difference <= TOLERANCE:
        raise InputError(
            f"the graph's logits differ from those of PyTorch by {difference:.2g}, and may by {TOLERANCE:.0e}",
            where=f"ONNX, on {data}",
            fix="keep this model in PyTorch",
        )
    return difference


def _graphs(files: Mapping[Precision, Path], run: Run, wanted: Wanted, score: _Scores) -> Iterator[Tried]:
    """What is tried: the graph in float32, which is there, and the smaller ones, which are made."""
    whole = files["fp32"]
    yield score.first(whole, run(whole))
    if wanted.fp16:
        halve(whole, files["fp16"])
        yield score.of("fp16", "float16", files["fp16"], run(files["fp16"]))
    for how in LADDER if wanted.int8 else ():
        quantize(whole, files["int8"], how)
        tried = score.of("int8", f"int8, {how}", files["int8"], run(files["int8"]))
        yield tried
        if tried.kept:
            return


def _with_threads(run: Run, file: Path, threads: int) -> nn.Module:
    model: nn.Module = run(file, threads=threads)
    return model


class _Scores:
    """What graphs score on the same examples."""

    def __init__(self, task: Task[Any], examples: Examples, objective: Objective, max_drop: float) -> None:
        self._task, self._examples, self._max_drop = task, examples, max_drop
        self.objective = objective
        self._whole = 0.0

    def first(self, file: Path, model: nn.Module) -> Tried:
        """The graph that others are compared with."""
        self._whole = self._value(model)
        return Tried(precision="fp32", how="float32", bytes=size_of(file), value=self._whole, drop=0.0, kept=True)

    def of(self, precision: Precision, how: str, file: Path, model: nn.Module) -> Tried:
        """One of the others."""
        value = self._value(model)
        drop = points_lost(self._task, self.objective, self._whole, value)
        kept = drop < self._max_drop
        return Tried(precision=precision, how=how, bytes=size_of(file), value=value, drop=drop, kept=kept)

    def _value(self, model: nn.Module) -> float:
        runtime = LocalRuntime(device=torch.device("cpu"))
        scores = evaluate(model, self._task, self._examples, runtime)
        if self.objective.metric not in scores:
            what = f"the model was chosen by `{self.objective.metric}`, which these examples do not have"
            raise InputError(what, where="--data")
        return scores[self.objective.metric]


def points_lost(task: Task[Any], objective: Objective, before: float, after: float) -> float:
    """By how much a score is worse: in hundredths of what it is when all is right; of a loss or an error in percent of
    what it was. Below 0 where it is better."""
    whole = max(task.shares.values(), default=1.0) if objective.mode == "max" else abs(before)
    lost = before - after if objective.mode == "max" else after - before
    if not whole:
        return math.inf if lost > 0 else 0.0
    return 100 * lost / whole


def processor() -> str:
    """The name of this machine's processor."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        told = ""
    match = re.search(r"^model name\s*: (.+)$", told, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def put_on_card(card: Path, report: OnnxReport) -> None:
    """Put the graphs on a model's card, in the place of what it says of earlier ones."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    before, found, after = text.partition(f"{SECTION}\n")
    _, heading, rest = after.partition("\n## ") if found else ("", "", "")
    section = "\n".join([SECTION, "", *told(report)])
    blank = "\n" if before and not before.endswith("\n\n") else ""
    atomic_write_text(card, f"{before}{blank}{section}\n{heading}{rest}")


def told(report: OnnxReport) -> Iterator[str]:
    """A report in Markdown."""
    inputs, outputs = (", ".join(f"`{name}`" for name in names) for names in (report.inputs, report.outputs))
    yield (
        f"Opset {report.opset}, for onnxruntime alone: {inputs} in, int64 of any shape (batch, length); {outputs} out. "
        f"In float32 the logits are those of PyTorch to {report.difference:.1e}. Scores are those of {report.examples} "
        f"from `{report.data}`."
    )
    yield from ("", f"| file | weights | MB | {report.metric} | points lost |", "|---|---|---|---|---|")
    yield f"| `{WEIGHTS}` | float32 | {_megabytes(report.weights_bytes)} | | |"
    for each in report.kept:
        lost = "" if each.precision == "fp32" else f"{each.drop:.2f}"
        name = f"`{FOLDER}/{FILES[each.precision]}`"
        yield f"| {name} | {each.how} | {_megabytes(each.bytes)} | {each.value:.6g} | {lost} |"
    for each in report.refused:
        yield f"| not kept | {each.how} | {_megabytes(each.bytes)} | {each.value:.6g} | {each.drop:.2f} |"
    yield from ("", *latency_table(report.latencies), "")
    runs = [each.runs for each in report.latencies]
    tokens = sum(each.tokens for each in report.latencies) / len(runs)
    yield (
        f"In turns on {report.processor}, {min(runs)} to {max(runs)} runs each, batches of about {tokens:.0f} tokens a "
        f"text; PyTorch {version('torch')} without padding, onnxruntime {version('onnxruntime')} with padding to the "
        "longest text of a batch."
    )


def latency_table(found: Sequence[Latency]) -> Iterator[str]:
    """Latencies as a table in Markdown."""
    settings = list(dict.fromkeys((each.threads, each.batch) for each in found))
    heads = (f"{threads} thread{'s' * (threads > 1)}, batch {batch}" for threads, batch in settings)
    yield f"| milliseconds a batch, p50 / p99 | {' | '.join(heads)} |"
    yield f"|---|{'---|' * len(settings)}"
    cells: Mapping[tuple[str, int, int], Latency] = {(each.model, each.threads, each.batch): each for each in found}
    for model in dict.fromkeys(each.model for each in found):
        row = (cells[model, *setting] for setting in settings)
        shown = (f"{each.p50_ms:.4g} / {each.p99_ms:.4g}" for each in row)
        yield f"| {model} | {' | '.join(shown)} |"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"
