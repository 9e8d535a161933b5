"""Predictions and scores of an exported model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.evaluation import predict
from kobert_core.io.atomic import atomic_write_json, atomic_write_text, check_output
from kobert_core.pretrained import load_pretrained
from kobert_core.progress import Progress, unseen
from kobert_core.runtime import LocalRuntime
from tuning.sweep.evaluation import evaluate_model

FORMATS = (".tsv", ".jsonl")


def predict_file(
    model_dir: Path, source: Source, output: Path, *, progress: Progress = unseen
) -> tuple[int, list[str]]:
    """Write one record for each usable row of a file: its id, its text, and the prediction.

    Returns:
        How many there were, and the place and reason of each row that was set aside.

    Raises:
        InputError: the model, the file or the output cannot be used.
    """
    if output.suffix not in FORMATS:
        raise InputError(
            f"unknown format `{output.suffix}`", where=output, fix=f"end its name in {' or '.join(FORMATS)}"
        )
    check_output(output)
    pretrained, runtime = load_pretrained(model_dir, progress=progress), LocalRuntime()
    model, task = pretrained.model.to(runtime.device), pretrained.task
    records, bad = list[dict[str, object]](), list[str]()
    for inputs in task.input_parts(source):
        outputs = predict(model, task, inputs.examples, runtime)
        answers = task.answers(inputs.ids, inputs.examples, outputs)
        given = [dict(zip(inputs.texts, texts, strict=True)) for texts in zip(*inputs.texts.values(), strict=True)]
        records += [{"id": one} | texts | said for one, texts, said in zip(inputs.ids, given, answers, strict=True)]
        bad += map(str, inputs.bad)
    atomic_write_text(output, as_tsv(records) if output.suffix == ".tsv" else as_json_lines(records))
    return len(records), bad


def evaluate_file(
    model_dir: Path,
    source: Source,
    predictions: Path | None = None,
    *,
    say: Callable[[str], object],
    progress: Progress = unseen,
) -> dict[str, Any]:
    """The task's metrics on a labelled file, over how many examples or questions they are a mean and how many are in
    none, how often the file was read before, and the task's scores in detail.

    The reading is recorded in the model's folder, if that can be written.

    Args:
        model_dir: Folder of an exported model.
        source: The labelled file.
        predictions: Where answers to questions go, as the official script takes them: `{question id: text}`.
        say: Gets a line if the reading could not be recorded.
        progress: Hears how far it has come.

    Raises:
        InputError: the model, the file or the place for predictions cannot be used.
    """
    if predictions is not None:
        check_output(predictions)
    pretrained = load_pretrained(model_dir, progress=progress)
    task = pretrained.task
    if predictions is not None and not task.spec.predictions_by_id:
        raise InputError("this model answers no questions", where=model_dir, fix="leave out --predictions")
    found = evaluate_model(pretrained, model_dir, source, by="evaluate", say=say)
    if predictions is not None:
        answers = task.answers(found.examples.ids, found.examples, found.outputs)
        given = {answer["id"]: answer["prediction_text"] for answer in answers if answer["id"]}
        atomic_write_json(predictions, given)
    in_detail = task.score_in_detail(found.examples, found.outputs)
    return found.metrics | {"earlier_readings": found.earlier_readings} | in_detail


def as_tsv(records: list[dict[str, object]]) -> str:
    """Records with a header row, without quoting; tabs and line ends become spaces."""
    rows = [columns(records[0]), *(record.values() for record in records)] if records else []
    return "".join("\t".join(map(in_one_line, row)) + "\n" for row in rows)


def columns(names: Iterable[str]) -> list[str]:
    """Names of columns without line ends; if two become equal, the later ones get a number."""
    found: dict[str, None] = {}
    for name in map(in_one_line, names):
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        found[name if name not in found else next(each for each in numbered if each not in found)] = None
    return list(found)


def in_one_line(cell: object) -> str:
    """A cell without tabs and line ends: they become blanks. A list is JSON."""
    text = json.dumps(cell, ensure_ascii=False) if isinstance(cell, list) else str(cell)
    return " ".join(text.split())


def as_json_lines(records: list[dict[str, object]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
