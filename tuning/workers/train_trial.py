"""On the workers of a group: the training of one trial."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kobert_core.config import MODEL_COSTS
from kobert_core.errors import InputError
from kobert_core.io.checksums import file_digest
from tuning.sweep_dir.layout import CHECKPOINTS, COSTS, LOG, MODEL_FILES, trial_folder

if TYPE_CHECKING:
    import torch

    from kobert_core.runtime import Report
    from kobert_core.tasks.base import Task
    from tuning.study import StudyConfig
    from tuning.workers.group_runtime import GroupRuntime
    from tuning.workers.stored_tasks import StoredRun


def train_trial(
    runtime: GroupRuntime,
    *,
    trial: int,
    values: dict[str, object],
    study: str,
    folder: str,
    cache: str,
    seed: int | None = None,
    adopt: str | None = None,
    stored: StoredRun | None = None,
) -> None:
    """On the workers of a group: train with these values, from the trial's newest checkpoint if it has one.

    Args:
        runtime: The worker's runtime.
        trial: Its number.
        values: The searched values, by parameter.
        study: Path of the resolved study file.
        folder: The sweep's folder.
        cache: Folder of the feature cache.
        seed: Takes the place of `train.seed`. The run is then no trial, and its costs are not asked for.
        adopt: Folder of another trial's checkpoint, to go on from instead.
        stored: Where the sweep's home is an object store: what that means for the run.
    """
    from kobert_core.checkpoint import adopt_checkpoint, remove_unfinished
    from kobert_core.folds import train_folds
    from kobert_core.pretrained import save_model_files
    from kobert_core.tasks import task_class
    from kobert_core.training import train
    from tuning.sweep_dir.provenance import refuse_changed_addresses

    study_config = study_of(Path(study), file_digest(Path(study)))
    config = study_config.train_config(values)
    if seed is not None:
        config = config.with_seed(seed)
    if len(set(runtime.all_gather(config.model_dump_json()))) > 1:
        raise RuntimeError("the workers of the group read different values: is the sweep's folder a shared one?")
    here = trial_folder(Path(folder), trial)
    with printing_to(here / LOG, rank=runtime.rank):
        print(f"trial {trial} on {runtime.device}, {runtime.workers} worker(s): {json.dumps(values)}")
        if stored is None:
            refuse_changed_addresses(Path(study).parent, study_config)
        task = task_class(config.task)(stored.config_here(config) if stored else config, cache=Path(cache))
        runtime.checkpoints, runtime.resume = here / CHECKPOINTS, True
        if runtime.rank == 0:
            remove_unfinished(here / CHECKPOINTS)
            save_model_files(here / MODEL_FILES, task, config)
            if adopt is not None:
                print(f"goes on from {adopt}")
                if stored is None:  # else it lies there already
                    adopt_checkpoint(Path(adopt), here / CHECKPOINTS)
            asked = {each.metric for each in study_config.further}
            if seed is None and (names := [name for name in MODEL_COSTS if name in asked]):
                agree = stored.agree_on if stored else None
                runtime.costs = costs_of(names, task, runtime.device, values, Path(folder), agree_on=agree)
        if stored:
            stored.begin(task, here / MODEL_FILES)
        runtime.all_gather(None)  # all workers see the same checkpoints
        if config.data.folds is None:
            runtime.on_report = print_report
            train(config, task, runtime)
        else:
            runtime.on_report = print_mean
            train_folds(config, task, runtime, on_evaluation=print_fold)


def costs_of(
    names: Sequence[str],
    task: Task[Any],
    device: torch.device,
    values: Mapping[str, object],
    folder: Path,
    *,
    agree_on: Callable[[Path], object] | None = None,
) -> dict[str, float]:
    """What a trial's model costs. The first trial with a model of its shape measures it, for all of them: so it is no
    matter of chance which of them costs less, and a resumed trial has what it had.

    Args:
        names: Of the costs that its study asks for.
        task, device: Give the model, and where it runs.
        values: The searched values of the trial; some of them shape the model or its examples.
        folder: Of the sweep.
        agree_on: Of nodes that share no folder: makes a file what the first of them has written.
    """
    from kobert_core.costs import model_costs
    from kobert_core.io.atomic import atomic_write_json
    from kobert_core.io.checksums import sealed, unsealed
    from tuning.study.searchable_keys import CHANGEABLE

    shape = {name: value for name, value in values.items() if name.startswith(("data.", "model."))}
    shape = {name: value for name, value in sorted(shape.items()) if name not in CHANGEABLE}
    kept = folder / COSTS / f"{hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]}.json"

    def read() -> dict[str, float] | None:
        try:
            content: dict[str, float] = unsealed(json.loads(kept.read_text(encoding="utf-8")), where=kept)
            return {name: content[name] for name in names}
        except (OSError, ValueError, LookupError, InputError):  # there is none yet, or it is damaged
            return None

    found = read()
    if found is None and agree_on:
        agree_on(kept)
        found = read()
    if found is None:
        measured = model_costs(task, device, names)
        found = read() or measured  # another trial may have been faster
        kept.parent.mkdir(exist_ok=True)
        atomic_write_json(kept, sealed({"of": shape, **found}))
        if agree_on:
            agree_on(kept)
            found = read() or found
    print(" ".join(f"{name}={value:.6g}" for name, value in found.items()))
    return found


@functools.lru_cache(maxsize=1)
def study_of(path: Path, digest: str) -> StudyConfig:
    """The study of all trials of a sweep; its file is parsed once in a worker's process."""
    from tuning.study import load_study

    return load_study(path)


def print_report(report: Report) -> None:
    """For the trial's log."""
    metrics = " ".join(f"{name}={value:.6g}" for name, value in report.metrics.items())
    print(f"{report.progress:3d}% step {report.step}: {metrics}{' (best)' if report.is_best else ''}", flush=True)


def print_fold(fold: int, report: Report) -> None:
    """An evaluation within a fold."""
    print(f"fold {fold}: ", end="")
    print_report(report)


def print_mean(report: Report) -> None:
    """What a trial says after a fold."""
    print("mean of the folds: ", end="")
    print_report(replace(report, is_best=False))


@contextlib.contextmanager
def printing_to(log: Path, *, rank: int) -> Iterator[None]:
    """Redirect prints and logs to the trial's log; ranks other than 0 have files of their own."""
    import logging
    import traceback

    log.parent.mkdir(parents=True, exist_ok=True)
    path = log if rank == 0 else log.with_suffix(f".rank{rank}{log.suffix}")
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        except Exception:
            traceback.print_exc(file=file)
            raise
        finally:
            logging.getLogger().removeHandler(handler)
