"""The model of a trial as a HuggingFace folder."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kobert_core.checkpoint import load_weights
from kobert_core.errors import InputError
from kobert_core.files import atomic_folder, atomic_write_json, atomic_write_text, check_sums, check_writable
from kobert_core.pretrained import TRAIN_CONFIG, keep_chosen, save_weights
from kobert_core.tasks import TASKS
from tuning.readings import READINGS
from tuning.results import TrialRecord
from tuning.study import StudyConfig
from tuning.trial_files import MODEL_FILES, checkpoint_of, trial_folder


def export_model(
    sweep: Path,
    study: StudyConfig,
    record: TrialRecord,
    output: Path,
    *,
    test: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write the best checkpoint of a trial with its config, tokenizer and model card.

    Raises:
        InputError: the trial has no checkpoint any more, it is corrupt, or `output` cannot be made.
    """
    check_output(output)
    output = output.resolve()
    checkpoint = checkpoint_of(sweep, record)
    files = trial_folder(sweep, record.trial) / MODEL_FILES
    check_sums(files)
    with atomic_folder(output) as folder:
        shutil.copytree(files, folder, dirs_exist_ok=True)
        keep_chosen(folder, TASKS[study.task], record.metrics)
        without_local_paths(folder / TRAIN_CONFIG)
        save_weights(folder, TASKS[study.task], load_weights(checkpoint))
        if (sweep / READINGS).is_file():
            shutil.copyfile(sweep / READINGS, folder / READINGS)
        atomic_write_text(folder / "README.md", model_card(sweep, study, record, test or {}))


def check_output(output: Path) -> None:
    """Refuse a folder that no model can be exported to.

    Raises:
        InputError: it is in use, or cannot be made.
    """
    if not is_free(output):
        raise InputError("the output is not empty", where=output, fix="give a folder that is not there yet")
    check_writable(output.resolve().parent)


def is_free(output: Path) -> bool:
    """Whether a new folder can take this name: nothing is there, or an empty folder that is no disk of its own."""
    return not output.exists() or (output.is_dir() and not any(output.iterdir()) and not os.path.ismount(output))


def unused(output: Path) -> Path:
    """The folder, or one with a number after its name when somebody has taken it since `check_output`."""
    numbered = (output.with_name(f"{output.name}-{number}") for number in itertools.count(2))
    return output if is_free(output) else next(filter(is_free, numbered))


def model_card(sweep: Path, study: StudyConfig, record: TrialRecord, test: Mapping[str, Mapping[str, float]]) -> str:
    """A model card in the format of the HuggingFace hub: data, values and results."""
    metrics = {**record.metrics, **test.get("winner", {})}
    backbone = local_name(study.model.backbone) if study.model.backbone else "none"
    rows = [f"| {name} | {value:.6g} |" for name, value in sorted(metrics.items())]
    values = [f"| `{name}` | {shown(value)} |" for name, value in record.values.items()]
    baseline = test.get("trial_0", {})
    compared = [f"| {name}, trial 0 for comparison | {value:.6g} |" for name, value in sorted(baseline.items())]
    return "\n".join(
        [
            "---",
            "language: ko",
            "library_name: transformers",
            f"pipeline_tag: {'text-classification' if study.task == 'nsmc' else 'question-answering'}",
            "---",
            "",
            f"# {sweep.name}, trial {record.trial}",
            "",
            f"Task `{study.task}`, encoder {backbone} ({study.model.init} weights). "
            f"Chosen by {study.objective.mode} `{study.objective.metric}` "
            f"on the dev split among the trials of the sweep `{sweep.name}`; the checkpoint is that of "
            f"{record.best_progress}% of the run.",
            "",
            "| result | value |",
            "|---|---|",
            *rows,
            *compared,
            "",
            "| searched parameter | value |",
            "|---|---|",
            *values,
            "",
            f"Trained on `{study.data.train.name}`, "
            f"{'dev split carved from it' if study.data.dev is None else f'dev file `{study.data.dev.name}`'}"
            f"{f', tested on `{study.data.test.name}`' if study.data.test else ''}. "
            "All values are in `train_config.json`; who read the test file, and when, in `test_readings.jsonl`.",
            "",
        ]
    )


def without_local_paths(train_config: Path) -> None:
    """An exported folder is made to be given away: it names files, and not where they lie on this machine."""
    values = json.loads(train_config.read_text(encoding="utf-8"))
    for section, names in (("data", ("train", "dev", "test")), ("model", ("backbone", "tokenizer"))):
        for name in names:
            if values[section].get(name):
                values[section][name] = local_name(values[section][name])
    atomic_write_json(train_config, values)


def local_name(path: str) -> str:
    """The last part of an absolute path; a name of the hub as it is."""
    return Path(path).name if Path(path).is_absolute() else path


def shown(value: Any) -> str:
    """A value as the card shows it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
