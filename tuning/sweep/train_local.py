"""One training run in this process, without Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from kobert_core.folds import train_folds
from kobert_core.io.atomic import check_writable
from kobert_core.pretrained import caveats_of, save_model_files
from kobert_core.profiling import ProfilingRuntime
from kobert_core.progress import Progress, unseen
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import task_class
from kobert_core.training import train
from tuning.study import StudyConfig
from tuning.sweep.export import check_model_output, export_model, unused
from tuning.sweep.guards import spoilers
from tuning.sweep.preflight import too_much_cut_off
from tuning.sweep_dir.layout import CHECKPOINTS, MODEL_FILES, trial_folder
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord


def train_once(
    study: StudyConfig,
    *,
    say: Callable[[str], object],
    warn: Callable[[str], object] | None = None,
    cache: Path,
    output: Path | None = None,
    trace: Path | None = None,
    progress: Progress = unseen,
) -> TrialRecord:
    """Train with the study's example values, as a trial of its sweep would on one worker.

    Args:
        study: Gives the values and the number of threads.
        say: Gets one line an evaluation.
        warn: Gets one line for each thing that is probably a mistake; `say`, when it is None.
        cache: Folder of the feature cache.
        output: Where the best checkpoint is exported to; None keeps no checkpoint.
        trace: Where to write a trace of the first steps; then a table says where the time of the run went.
        progress: Hears how far reading, training and evaluating have come.

    Raises:
        InputError: the study cannot be trained with, or `output` or `trace` cannot be written.
    """
    warn = warn or say
    if output is not None:
        check_model_output(output)
    if trace is not None:
        check_writable(trace.parent)
    study.check_files()
    if study.resources.gpus_per_worker and not torch.cuda.is_available():
        warn(
            f"no GPU is here, though `resources.gpus_per_worker` is {study.resources.gpus_per_worker:g}: the CPU trains"
        )
    torch.set_num_threads(max(1, int(study.resources.cpus_per_worker)))
    values = study.example_values()
    config = study.train_config(values)
    task = task_class(config.task)(config, cache=cache, progress=progress)
    model = task.check_model()
    for problem in spoilers([task], None):
        raise problem
    caveats = caveats_of(type(task), model.state_dict())
    for warning in [*caveats, *task.survey(None).warnings, *too_much_cut_off(task.cut_off())]:
        warn(warning)
    record = TrialRecord(0, TrialState.RUNNING, values)

    def tell(report: Report, about: str = "") -> None:
        shown = " ".join(f"{name}={value:.4g}" for name, value in report.metrics.items())
        say(f"{about}{report.progress:3d}% step {report.step} {shown}{' (best)' if report.is_best else ''}")

    def on_report(report: Report) -> None:
        if config.data.folds is None:
            tell(report)
        else:
            tell(replace(report, is_best=False), "mean of the folds: ")
        record.progress, record.steps = report.progress, report.step
        if report.is_best:
            record.value, record.metrics = report.metrics[study.objective.metric], report.metrics
            record.best_progress = report.progress
            record.checkpoint = Path(report.checkpoint).name if report.checkpoint else None

    in_fold = f", in the first of {config.data.folds} folds" if config.data.folds else ""
    say(f"{task.train} to train on, {task.dev} to compare on{in_fold}")
    runtime = ProfilingRuntime(on_report=on_report, trace=trace) if trace else LocalRuntime(on_report=on_report)
    with tempfile.TemporaryDirectory(prefix="kobert-tune-") as folder:
        here = trial_folder(Path(folder), 0)
        if output is not None:
            save_model_files(here / MODEL_FILES, task)
            runtime.checkpoints = here / CHECKPOINTS
        try:
            if config.data.folds is None:
                train(config, task, runtime)
            else:
                train_folds(config, task, runtime, on_evaluation=lambda fold, report: tell(report, f"fold {fold}: "))
        finally:
            if isinstance(runtime, ProfilingRuntime):
                say_where_time_went(runtime, say)
        if output is not None:
            record.state = TrialState.COMPLETE
            output = unused(output)
            export_model(Path(folder), study, record, output)
            say(f"exported to {output}")
    return record


def say_where_time_went(runtime: ProfilingRuntime, say: Callable[[str], object]) -> None:
    """One line a phase: seconds, share of the run, milliseconds a step."""
    phases = runtime.end()
    total = sum(seconds for _, seconds in phases)
    say(f"{'phase':12} {'seconds':>9} {'share':>7} {'ms a step':>13}")
    for name, seconds in [*phases, ("all", total)]:
        say(f"{name:12} {seconds:9.2f} {seconds / total:7.1%} {1000 * seconds / max(1, runtime.steps):13.2f}")
    say(f"trace: {runtime.trace} (open it in https://ui.perfetto.dev or chrome://tracing)")
