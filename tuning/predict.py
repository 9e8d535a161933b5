"""Predictions and scores of an exported model."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from kobert_core.errors import InputError
from kobert_core.evaluation import predict
from kobert_core.files import atomic_write_json, atomic_write_text, file_digest
from kobert_core.pretrained import load_pretrained
from kobert_core.progress import Progress, unseen
from kobert_core.runtime import LocalRuntime
from tuning.readings import record_reading

FORMATS = (".tsv", ".jsonl")


def predict_file(model_dir: Path, source: Path, output: Path, *, progress: Progress = unseen) -> tuple[int, list[str]]:
    """Write one record for each usable row of a file: its id, its text, and what the model says.

    Returns:
        How many there were, and the place and reason of each row that was set aside.

    Raises:
        InputError: the model, the file or the output cannot be used.
    """
    if output.suffix not in FORMATS:
        raise InputError(
            f"unknown format `{output.suffix}`", where=output, fix=f"end its name in {' or '.join(FORMATS)}"
        )
    pretrained, runtime = load_pretrained(model_dir, progress=progress), LocalRuntime()
    inputs = pretrained.task.read_inputs(source)
    outputs = predict(pretrained.model.to(runtime.device), pretrained.task, inputs.examples, runtime)
    answers = pretrained.task.answers(inputs.ids, inputs.examples, outputs)
    given = [dict(zip(inputs.texts, texts, strict=True)) for texts in zip(*inputs.texts.values(), strict=True)]
    records = [{"id": row_id} | texts | said for row_id, texts, said in zip(inputs.ids, given, answers, strict=True)]
    atomic_write_text(output, as_tsv(records) if output.suffix == ".tsv" else as_json_lines(records))
    return len(records), [str(row) for row in inputs.bad]


def evaluate_file(
    model_dir: Path, source: Path, predictions: Path | None = None, *, progress: Progress = unseen
) -> dict[str, Any]:
    """The task's metrics on a labelled file, the number of examples and of what was set aside, how often the file
    was read before, and the task's scores in detail.

    The reading is recorded in the model's folder.

    Args:
        model_dir: Folder of an exported model.
        source: The labelled file.
        predictions: Where answers to questions go, as the official script takes them: `{question id: text}`.
        progress: Hears how far it has come.

    Raises:
        InputError: the model or the file cannot be used.
    """
    pretrained, runtime = load_pretrained(model_dir, progress=progress), LocalRuntime()
    if predictions is not None and pretrained.task.name != "korquad":
        raise InputError("this model answers no questions", where=model_dir, fix="leave out --predictions")
    examples = pretrained.task.read(source)
    outputs = predict(pretrained.model.to(runtime.device), pretrained.task, examples, runtime)
    metrics = pretrained.task.score(examples, outputs)
    if predictions is not None:
        answers = pretrained.task.answers(examples.ids, examples, outputs)
        atomic_write_json(predictions, {answer["id"]: answer["prediction_text"] for answer in answers})
    result: dict[str, Any] = {name.removeprefix("eval/"): value for name, value in metrics.items()}
    result["examples"] = len(examples)
    result["set_aside"] = len(pretrained.task.bad_rows(source))
    result["earlier_readings"] = record_reading(
        model_dir, file=source, sha256=file_digest(source), by="evaluate", metrics=result.copy()
    )
    return result | pretrained.task.score_in_detail(examples, outputs)


def as_tsv(records: list[dict[str, Any]]) -> str:
    """Records with a header row, without quoting; what would break a row becomes a space."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
    for record in [dict.fromkeys(records[0])] if records else []:
        writer.writerow(record)
    for record in records:
        writer.writerow([" ".join(str(cell).split()) for cell in record.values()])
    return buffer.getvalue()


def as_json_lines(records: list[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
