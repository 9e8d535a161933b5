"""The model of a trial as a HuggingFace folder."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kobert_core.checkpoint import load_weights
from kobert_core.data.source import Source
from kobert_core.ensemble import mean_weights
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_folder, atomic_write_json, atomic_write_text, check_writable
from kobert_core.io.checksums import check_sums, write_sums
from kobert_core.pretrained import TRAIN_CONFIG, empty_model, exported_weights, keep_chosen, save_weights
from kobert_core.tasks import SPECS, task_class
from kobert_core.tasks.examples import EXAMPLE_TEXTS
from kobert_core.texts import printable
from tuning.study import StudyConfig
from tuning.sweep.comparison import Comparison, test_name
from tuning.sweep.extras import DecodingScores, SeedScores, Variant
from tuning.sweep_dir.confirm_runs import confirmed_models
from tuning.sweep_dir.home import bring_confirmed, bring_trial
from tuning.sweep_dir.layout import LEDGER, MODEL_FILES, TEST_SET_LOG, checkpoint_of, trial_folder
from tuning.sweep_dir.test_set_log import tuned_on_test
from tuning.sweep_dir.trial_table import TrialRecord, read_winner, standing

if TYPE_CHECKING:
    import torch
    from huggingface_hub import EvalResult

Weights = Callable[[], Mapping[str, "torch.Tensor"]]
CARD = "README.md"


def export_model(
    sweep: Path,
    study: StudyConfig,
    record: TrialRecord,
    output: Path,
    *,
    test: Mapping[str, Mapping[str, float]] | None = None,
    comparison: Comparison | None = None,
    verdict: Mapping[str, Any] | None = None,
    complete: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Write the best checkpoint of a trial with its config, tokenizer and model card.

    Args:
        sweep: Folder of its sweep.
        study: Of that sweep.
        record: The trial.
        output: Folder to make.
        test: For the winner only: metrics on the test file, its own and those of the baselines.
        comparison: For the winner only: what it is compared with.
        verdict: For the winner only: `Verdict.as_json`.
        complete: Puts what else there is into the folder, before it has its name.

    Raises:
        InputError: the trial has no checkpoint any more, it is corrupt, it was trained with other values than the
            ledger says, or `output` cannot be made.
    """
    check_model_output(output)
    checkpoint = checkpoint_of(sweep, record)
    bring_trial(sweep, record)
    with new_model(sweep, study, record, output, lambda: load_weights(checkpoint), record.metrics) as folder:
        told = comparison or Comparison()
        card = model_card(sweep, study, record, test or {}, told, verdict, caveat=caveat_of(study, folder))
        atomic_write_text(folder / CARD, card)
        complete(folder)


def export_averaged(
    sweep: Path,
    study: StudyConfig,
    record: TrialRecord,
    output: Path,
    *,
    complete: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Write one model with the mean of the weights of the runs that confirm a sweep's winner, as `export_model` does.

    Args:
        sweep, study: The sweep.
        record: Its winner.
        output: Folder to make.
        complete: As `export_model` takes it.

    Raises:
        InputError: the sweep has no such runs, their models are not what was written, or `output` cannot be made.
    """
    bring_trial(sweep, record)
    bring_confirmed(sweep)
    models, scores = confirmed_models(sweep), read_winner(sweep).get("seeds")
    if len(models) < 2 or scores is None:
        what = "this sweep has not scored the averaged weights of several seeds"
        raise InputError(what, where=sweep, fix="`confirm: {}` in the study trains the winner with other seeds")

    def weights() -> dict[str, torch.Tensor]:
        return mean_weights(map(exported_weights, models))

    export_variant(sweep, study, record, output, SeedScores(**scores).variant, weights, complete)


def export_with_tuned_decoding(
    sweep: Path,
    study: StudyConfig,
    record: TrialRecord,
    output: Path,
    *,
    complete: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Write a sweep's winner with the settings that read its answers best on dev, as `export_averaged` does."""
    scores = read_winner(sweep).get("decoding")
    if not scores or not scores["values"]:
        what = "this sweep has found no better settings to read the winner's answers with"
        raise InputError(what, where=sweep, fix="leave out --tuned-decoding")
    checkpoint = checkpoint_of(sweep, record)
    bring_trial(sweep, record)
    variant = DecodingScores(**scores).variant
    export_variant(sweep, study, record, output, variant, lambda: load_weights(checkpoint), complete)


def export_variant(
    sweep: Path,
    study: StudyConfig,
    record: TrialRecord,
    output: Path,
    variant: Variant,
    weights: Weights,
    complete: Callable[[Path], object],
) -> None:
    """Write a variant of the winner. Its card has no score on the test file: that was read for the winner as it is."""
    check_model_output(output)
    with new_model(sweep, study, record, output, weights, variant.metrics, variant.values) as folder:
        card = model_card(sweep, study, record, {}, Comparison(), variant=variant, caveat=caveat_of(study, folder))
        atomic_write_text(folder / CARD, card)
        complete(folder)


VARIANTS = {"--averaged": export_averaged, "--tuned-decoding": export_with_tuned_decoding}
"""What `export` may make of a winner, by its option."""


@contextmanager
def new_model(
    sweep: Path,
    study: StudyConfig,
    record: TrialRecord,
    output: Path,
    weights: Weights,
    metrics: Mapping[str, float],
    values: Mapping[str, object] = MappingProxyType({}),
) -> Iterator[Path]:
    """A folder with all of a model but its card, that becomes `output` when the block ends well.

    Args:
        sweep, study, record, output: As `export_model` takes them.
        weights: Loads them.
        metrics: Of the weights on dev, with what was chosen there.
        values: Of the model's config, in the place of the trial's.
    """
    files = trial_folder(sweep, record.trial) / MODEL_FILES
    check_sums(files)
    with atomic_folder(output.resolve()) as folder:
        shutil.copytree(files, folder, dirs_exist_ok=True)
        take_values(folder, record, where=sweep)
        keep_chosen(folder, task_class(study.task), metrics, values)
        without_local_paths(folder / TRAIN_CONFIG)
        save_weights(folder, task_class(study.task), weights())
        if (sweep / TEST_SET_LOG).is_file():
            shutil.copyfile(sweep / TEST_SET_LOG, folder / TEST_SET_LOG)
        yield folder


def check_model_output(output: Path) -> None:
    """Refuse a folder that no model can be exported to.

    Raises:
        InputError: it is in use, or cannot be made.
    """
    if not is_free(output):
        raise InputError("the output is not empty", where=output, fix="give a folder that is not there yet")
    check_writable(output.resolve().parent)


def is_free(output: Path) -> bool:
    """Whether a new folder can have this name: nothing is there, or an empty folder that is not a mount point."""
    return not output.exists() or (output.is_dir() and not any(output.iterdir()) and not os.path.ismount(output))


def unused(output: Path) -> Path:
    """The folder, or one with a number in its name if it was taken since `check_model_output`."""
    numbered = (output.with_name(f"{output.name}-{number}") for number in itertools.count(2))
    return output if is_free(output) else next(filter(is_free, numbered))


def take_values(folder: Path, record: TrialRecord, *, where: Path) -> None:
    """Write the values that the weights were trained with, according to the ledger, into a model's files.

    The files are written when a trial begins; only in a population (`pbt`) do its values change later.

    Raises:
        InputError: they differ for any other trial.
    """
    config = json.loads((folder / TRAIN_CONFIG).read_text(encoding="utf-8"))
    changed = []
    for name, value in record.values.items():
        section, _, field = name.partition(".")
        if config[section].get(field) != value:
            changed.append(name)
            config[section][field] = value
    if not changed:
        return
    if not record.lineage:
        raise InputError(
            f"{LEDGER} has another `{changed[0]}` for trial {record.trial} than it was trained with",
            where=where,
            fix="begin a new sweep: the trials of this one were mixed up",
        )
    atomic_write_json(folder / TRAIN_CONFIG, config)
    write_sums(folder)
    task, _ = empty_model(folder)
    task.hf_config().to_json_file(folder / "config.json")  # has the dropouts


def model_card(
    sweep: Path,
    study: StudyConfig,
    record: TrialRecord,
    test: Mapping[str, Mapping[str, float]],
    beside: Comparison,
    verdict: Mapping[str, Any] | None = None,
    *,
    variant: Variant | None = None,
    caveat: str | None = None,
) -> str:
    """A model card of the HuggingFace hub: data, values and results; of a variant its own ones."""
    from huggingface_hub import ModelCard, ModelCardData

    test = {name: found for name, found in test.items() if not tuned_on_test(found)}
    metrics = variant.metrics if variant else {**record.metrics, **test.get("winner", {})}
    encoder = study.train_config(record.values).model.backbone
    backbone = code(local_name(encoder)) if encoder else "none"
    rows = [f"| {name} | {value:.6g} |" for name, value in sorted(metrics.items())]
    values = [f"| `{name}` | {shown(value)} |" for name, value in record.values.items()]
    compared = [
        f"| {name}, {standing(baseline)}{', for comparison' if baseline.state == 'COMPLETE' else ''} | {value:.6g} |"
        for baseline in beside.baselines
        if baseline.trial != record.trial
        for name, value in sorted({**objective_of(baseline, study), **test.get(test_name(baseline), {})}.items())
    ]
    if variant:
        compared.append("| {} | {:.6g} |".format(*variant.instead))
    data = ModelCardData(
        language="ko",
        library_name="transformers",
        pipeline_tag=SPECS[study.task].pipeline_tag,
        base_model=encoder if encoder and "/" in encoder and not Path(encoder).is_absolute() else None,
        model_name=sweep.name,
        widget=[widget_of(SPECS[study.task].pipeline_tag)],
        eval_results=list(eval_results(study, record, test.get("winner", {}), verdict)),
    )
    content = "\n".join(
        [
            f"---\n{data.to_yaml()}\n---",
            "",
            f"# {code(sweep.name)}, trial {record.trial}{f', {variant.title}' if variant else ''}",
            "",
            f"Task `{study.task}`, encoder {backbone} ({study.model.init} weights). "
            f"Chosen by {study.objective.mode} `{study.objective.metric}` "
            f"{chosen_on(study)} among the trials of the sweep {code(sweep.name)}; "
            f"{variant.how if variant else weights_of(study, record)}.",
            *([f"\n**Verdict:** {verdict['sentence']}."] if verdict else []),
            *(f"\n**Note:** {note}." for note in [*beside.notes, *([caveat] if caveat else [])]),
            "",
            f"| result ({variant.title if variant else standing(record)}) | value |",
            "|---|---|",
            *rows,
            *compared,
            "",
            "| searched parameter | value |",
            "|---|---|",
            *values,
            "",
            f"Trained on {code(study.data.train.name)}, "
            f"{compared_on(study)}"
            f"{f', tested on {code(study.data.test.name)}' if study.data.test else ''}. "
            f"All values are in `train_config.json`; who read the test file, and when, in `{TEST_SET_LOG}`.",
            "",
        ]
    )
    return str(ModelCard(content))


def caveat_of(study: StudyConfig, folder: Path) -> str | None:
    """What who loads a model of this folder must know, for the card."""
    caveats = task_class(study.task).caveats
    return next((caveat for name, caveat in caveats.items() if (folder / name).is_file()), None)


def widget_of(pipeline_tag: str) -> dict[str, str]:
    """What the hub's page offers to try the model with."""
    if pipeline_tag == "question-answering":
        return {"text": EXAMPLE_TEXTS["question"], "context": EXAMPLE_TEXTS["context"]}
    return {"text": EXAMPLE_TEXTS["text"]}


def chosen_on(study: StudyConfig) -> str:
    """What trials are compared on, for the card."""
    return "on the dev split" if study.data.folds is None else f"as the mean of {study.data.folds} folds"


def weights_of(study: StudyConfig, record: TrialRecord) -> str:
    """Which of a trial's weights are exported, for the card."""
    if study.data.folds is None:
        return f"the checkpoint is that of {record.best_progress}% of the run"
    return (
        f"the weights are the best ones of the first fold, trained on the other {study.data.folds - 1}, while the "
        "results below, but those on a test file, are means of all folds' best"
    )


def compared_on(study: StudyConfig) -> str:
    """Where the rows come from that no trial was trained on, for the card."""
    if study.data.dev is not None:
        return f"dev file {code(study.data.dev.name)}"
    return "dev split carved from it" if study.data.folds is None else f"cut into {study.data.folds} folds"


def eval_results(
    study: StudyConfig, record: TrialRecord, test: Mapping[str, float], verdict: Mapping[str, Any] | None
) -> Iterator[EvalResult]:
    """The objective for the card's model-index, where the model was not chosen by it: on the holdout, a mean over
    seeds, and on the test file."""
    from huggingface_hub import EvalResult

    name = study.objective.metric.removeprefix("eval/")
    means = (verdict and verdict["means"]) or {}
    found = {
        "holdout": (study.data.dev or study.data.train, means.get(str(record.trial))),
        "test": (study.data.test, test.get(f"test/{name}")),
    }
    for split, (source, value) in found.items():
        if source is None or value is None:
            continue
        yield EvalResult(
            task_type=SPECS[study.task].pipeline_tag,
            dataset_type=source.name,
            dataset_name=source.name,
            dataset_split=split,
            metric_type=name,
            metric_value=value,
        )


def objective_of(record: TrialRecord, study: StudyConfig) -> dict[str, float]:
    """What a trial was chosen by, or not."""
    return {} if record.value is None else {study.objective.metric: record.value}


def without_local_paths(train_config: Path) -> None:
    """An exported folder is made to be given away: it names files, and not where they lie on this machine."""
    values = json.loads(train_config.read_text(encoding="utf-8"))
    files = [("data", "train"), ("data", "dev"), ("data", "test"), ("distill", "soft_labels")]
    for section, name in files:
        if source := values.get(section, {}).get(name):
            values[section][name] = Source.of(source).without_folders().as_json()
    for name in ("backbone", "tokenizer"):
        if values["model"].get(name):
            values["model"][name] = local_name(values["model"][name])
    atomic_write_json(train_config, values)


def local_name(path: str) -> str:
    """The last part of an absolute path; a name of the hub as it is."""
    return Path(path).name if Path(path).is_absolute() else path


def code(name: str) -> str:
    """A name as Markdown shows it as it is: in more backticks than it has in a row, and in one line."""
    name = printable(" ".join(name.split()))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", name)), default=0))
    return f"{fence} {name} {fence}" if "`" in name else f"{fence}{name}{fence}"


def shown(value: object) -> str:
    """A value as the card shows it."""
    return f"{value:.6g}" if isinstance(value, float) else local_name(str(value))
