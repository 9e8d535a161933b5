"""One trial: a config goes in, reports come out."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ray
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.search import ConcurrencyLimiter

from kobert_core.config import MODEL_COSTS
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.io.checksums import file_digest
from tuning.sweep_dir.layout import (
    CHECKPOINTS,
    COSTS,
    LOG,
    MAX_PBT_CHECKPOINTS,
    MODEL_FILES,
    PBT_CHECKPOINTS,
    trial_folder,
)
from tuning.sweep_dir.reviews import write_review
from tuning.workers.broker import packed
from tuning.workers.failures import TrialFailed, TrialRefused, in_one_line

if TYPE_CHECKING:
    import torch
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher
    from torch import nn

    from kobert_core.runtime import Report, Runtime
    from kobert_core.tasks.base import Task
    from tuning.study import StudyConfig
    from tuning.workers.broker import Function, ReportContent
    from tuning.workers.group_runtime import GroupRuntime
    from tuning.workers.results import HoldoutScores, TogetherScores, TrialConfig, TrialResult, TunedDecoding
    from tuning.workers.stored_tasks import StoredRun
    from tuning.workers.worker_groups import WorkerGroups
    from tuning.workers.worker_pool import WorkerPool


class Trial(tune.Trainable):
    """A trial as Ray Tune sees it: it leases a worker group and passes on the group's reports.

    Tune's actor holds no resources and no model, so that it can be reused, killed or restarted at no cost.
    """

    def setup(self, config: dict[str, object], **shared: Any) -> None:
        """`shared`: the `broker`, the `metric` to compare by, the `function` of a trial, its `fixed` arguments, and
        `max_failures`: how often in a row, without a report between, it continues after its workers were lost, or ran
        out of memory or disk space."""
        self._shared, self._lease = shared, None
        self._begin()

    def reset_config(self, new_config: dict[str, object]) -> bool:
        """Reuse the actor for the next trial."""
        self._end()
        self._begin()
        return True

    def _begin(self) -> None:
        self._failures, self._heard = 0, -1
        self._report: ReportContent | None = None
        self._adopt: str | None = None

    def step(self) -> dict[str, object]:
        """The next report of the trial, as a result of Ray Tune."""
        if self._shared["take_turns"] and ray.get(self._shared["broker"].is_awaited.remote()):
            self._end()
        content = self._next_report()
        while content["progress"] <= self._heard:  # a resumed run repeats its last report
            content = self._next_report()
        self._heard, self._report, self._adopt, self._failures = content["progress"], content, None, 0
        result: TrialResult = {
            "objective": content["metrics"][self._shared["metric"]],
            "progress": content["progress"],
            "report": content,
            "done": content["progress"] == 100,
        }
        return dict(result)

    def _next_report(self) -> ReportContent:
        broker = self._shared["broker"]
        while True:
            if self._lease is None:  # not in `reset_config`: Tune resets an actor before it restores a checkpoint
                arguments = self._shared["fixed"] | {"trial": self.config["trial"], "values": self.config["values"]}
                arguments |= {"adopt": self._adopt} if self._adopt else {}
                task = packed(self._shared["function"], **arguments)
                self._lease = ray.get(broker.submit.remote(task, self.config["trial"]))
            kind, content = ray.get(broker.take.remote(self._lease))
            if kind == "report":
                return cast("ReportContent", content)
            if kind == "input":
                raise TrialRefused(content)
            if kind == "error":
                raise TrialFailed(content)
            if kind == "value":
                raise RuntimeError("the trial was stopped before its end")
            self._lease = None
            if kind == "moved":
                continue
            self._failures += 1
            if self._failures > self._shared["max_failures"]:
                lost = f"the trial's workers were lost (failure {self._failures}): {in_one_line(content)}"
                raise TrialFailed(lost if kind == "lost" else content)

    def cleanup(self) -> None:
        """The trial is over, however it ended."""
        self._end()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, object]:
        """Keep the checkpoint of the last report for other trials: the worker will remove its own copy."""
        held = None
        if self._shared["take_turns"] and self._report is not None:
            from kobert_core.checkpoint import link_checkpoint

            assert self._report["checkpoint"] is not None
            checkpoint = Path(self._report["checkpoint"])
            if stored := self._shared["fixed"].get("sweep"):
                run = stored.key_of(trial_folder(Path(self._shared["fixed"]["folder"]), self.config["trial"]))
                held = stored.donate(
                    f"{run}/{CHECKPOINTS}/{checkpoint.name}", f"{run}/{PBT_CHECKPOINTS}", most=MAX_PBT_CHECKPOINTS
                )
            else:
                donations = checkpoint.parents[1] / PBT_CHECKPOINTS
                before = sorted(int(folder.name) for folder in donations.glob("*"))
                # By number, not by step: a trial that went back to another's weights comes to the same step again.
                held = donations / str(before[-1] + 1 if before else 0) / checkpoint.name
                link_checkpoint(checkpoint, held)
                for number in before[: 1 - MAX_PBT_CHECKPOINTS]:
                    shutil.rmtree(donations / str(number))
        return {"trial": self.config["trial"], "heard": self._heard, "checkpoint": str(held) if held else None}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Continue from the newest whole checkpoint of the trial, or adopt that of another one."""
        assert checkpoint is not None, "as `save_checkpoint` gave it"
        if checkpoint["trial"] == self.config["trial"]:
            self._heard = checkpoint["heard"]
        else:
            self._heard, self._adopt = -1, checkpoint["checkpoint"]

    def _end(self) -> None:
        if self._lease is not None:
            ray.get(self._shared["broker"].stop.remote(self._lease))
            self._lease = None


def make_tuner(
    groups: WorkerGroups | WorkerPool,
    function: Function,
    fixed: dict[str, object],
    *,
    metric: str,
    configs: Searcher | list[TrialConfig],
    scheduler: TrialScheduler,
    trials: int,
    storage: Path,
    callbacks: list[tune.Callback],
    stop: tune.Stopper | None = None,
    max_failures: int = 0,
    name: str = "tune",
) -> tune.Tuner:
    """A Ray Tune run of so many trials on worker groups.

    Args:
        groups: They do the work, as many trials at once as there are groups.
        function: Runs on the workers as `function(runtime, trial=…, values=…, **fixed)` and reports.
        fixed: Its arguments that are the same for all trials.
        metric: The name, in a report, of what trials are compared by.
        configs: Of the trials: a searcher that gives one when a group is free (a `ConcurrencyLimiter` knows itself how
            many run at once), or a list. With a list all trials begin at once and share the groups: a trial gives up
            its group after a report when another one waits.
        scheduler: Stops trials; its metric is `objective`, its clock `progress`.
        trials: How many.
        storage: Folder for Tune's own files.
        callbacks: Of Ray Tune.
        stop: Decides when to stop all trials.
        max_failures: How often in a row a trial continues from its newest checkpoint after its workers were lost, or
            ran out of memory or disk space, before its next report.
        name: Of the folder in `storage`.
    """
    trainable = tune.with_parameters(
        Trial,
        broker=groups.broker,
        metric=metric,
        function=function,
        fixed=fixed,
        max_failures=max_failures,
        take_turns=isinstance(configs, list),
    )
    # Tune wants resources, but the CPUs and GPUs are the groups': a request of one byte, on the driver's machine.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    beside_us = tune.PlacementGroupFactory([{"CPU": 0, "memory": 1}], bundle_label_selector=[here])
    if isinstance(configs, list):
        space, how = tune.grid_search(configs), tune.TuneConfig(reuse_actors=True, scheduler=scheduler)
    else:
        space, how = (
            None,
            tune.TuneConfig(
                reuse_actors=True,
                scheduler=scheduler,
                num_samples=trials,
                max_concurrent_trials=None if isinstance(configs, ConcurrencyLimiter) else groups.count,
                search_alg=configs,
            ),
        )
    return tune.Tuner(
        tune.with_resources(trainable, beside_us),
        param_space=space,
        tune_config=how,
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(storage),
            storage_filesystem=LocalFileSystem(),  # a path: Ray would take it for an address, and %41 in it for A
            callbacks=callbacks,
            stop=stop,
            verbose=0,
        ),
    )


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
    from kobert_core.checkpoint import adopt_checkpoint
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
            for leftover in list((here / CHECKPOINTS).rglob(".*")):  # of a worker that was killed as it wrote
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
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


def evaluate_checkpoint(
    runtime: Runtime, *, model: str, cache: str, checkpoint: str, metrics: dict[str, float], file: str | list[str]
) -> dict[str, float]:
    """On the workers of a group: the metrics of a checkpoint on another labelled file, equal to those of its export.

    Args:
        runtime: The worker's runtime.
        model: Folder with the trial's config and tokenizer.
        cache: Folder of the feature cache.
        checkpoint: Folder of the checkpoint.
        metrics: Of the checkpoint on the dev split, with what was chosen there.
        file: What to read.
    """
    from kobert_core.evaluation import evaluate

    task, network = load_checkpoint(Path(model), Path(cache), Path(checkpoint), metrics)
    found = evaluate(network.to(runtime.device), task, task.read(Source.of(file)), runtime)
    return {name.replace("eval/", "test/"): value for name, value in found.items()}


def review_checkpoint(
    runtime: Runtime, *, model: str, cache: str, checkpoint: str, metrics: dict[str, float], output: str
) -> None:
    """On the workers of a group: write what a checkpoint answers to each row or question of the dev split.

    Args:
        runtime: The worker's runtime.
        model, cache, checkpoint, metrics: As `evaluate_checkpoint` takes them.
        output: The file to write.
    """
    from kobert_core.evaluation import predict

    task, network = load_checkpoint(Path(model), Path(cache), Path(checkpoint), metrics)
    outputs = predict(network.to(runtime.device), task, task.dev, runtime)
    if runtime.rank == 0:
        write_review(Path(output), task.review(task.dev, outputs))


def score_holdout(
    runtime: Runtime, *, model: str, cache: str, checkpoint: str, metrics: dict[str, float], objective: str, review: str
) -> HoldoutScores:
    """On the workers of a group: how a checkpoint does on the part of the dev split that no trial was chosen by.

    Args:
        runtime: The worker's runtime.
        model, cache, checkpoint, metrics: As `evaluate_checkpoint` takes them.
        objective: The metric to give the pseudo-values of.
        review: Where to write what it answers to each row or question.
    """
    from kobert_core.evaluation import predict
    from kobert_core.pseudo_values import pseudo_values

    task, network = load_checkpoint(Path(model), Path(cache), Path(checkpoint), metrics)
    outputs = predict(network.to(runtime.device), task, task.holdout, runtime)
    if runtime.rank == 0:
        write_review(Path(review), task.review(task.holdout, outputs))
    return {
        "metrics": task.score(task.holdout, outputs),
        "pseudo_values": pseudo_values(task, task.holdout, outputs, objective).tolist(),
    }


def score_together(runtime: Runtime, *, model: str, cache: str, models: list[str]) -> TogetherScores:
    """On the workers of a group: how models of the same values do together on the dev split, which also chooses anew
    what it chose for each.

    Args:
        runtime: The worker's runtime.
        model: Folder with the config and tokenizer of a trial with these values.
        cache: Folder of the feature cache.
        models: Their folders.
    """
    from kobert_core.ensemble import Ensemble, mean_weights
    from kobert_core.evaluation import evaluate_on_dev
    from kobert_core.pretrained import exported_weights, task_of

    task = task_of(Path(model), cache=Path(cache))
    averaged, *each = [task.build_model() for _ in range(1 + len(models))]
    for network, folder in zip(each, models, strict=True):
        network.load_state_dict(exported_weights(Path(folder)))
    averaged.load_state_dict(mean_weights(exported_weights(Path(folder)) for folder in models))
    return {
        "ensemble": evaluate_on_dev(Ensemble(each).to(runtime.device), task, runtime),
        "averaged": evaluate_on_dev(averaged.to(runtime.device), task, runtime),
    }


def tune_checkpoint_decoding(
    runtime: Runtime, *, model: str, cache: str, checkpoint: str, metric: str, mode: str
) -> TunedDecoding | None:
    """On the workers of a group: with which settings the answers of a checkpoint are best on the dev split, which also
    chooses anew what it chose before; None where the objective does not depend on them.

    Args:
        runtime: The worker's runtime.
        model, cache, checkpoint: As `evaluate_checkpoint` takes them.
        metric, mode: The objective.
    """
    from kobert_core.config import Objective
    from kobert_core.evaluation import predict, tune_decoding

    task, network = load_checkpoint(Path(model), Path(cache), Path(checkpoint), {})
    outputs = predict(network.to(runtime.device), task, task.dev, runtime)
    found = tune_decoding(task, outputs, Objective.model_validate({"metric": metric, "mode": mode}))
    return None if found is None else cast("TunedDecoding", found._asdict())


def load_checkpoint(
    model: Path, cache: Path, checkpoint: Path, metrics: dict[str, float]
) -> tuple[Task[Any], nn.Module]:
    """The task and the network of a checkpoint, on the CPU, with what was chosen on the dev split."""
    from kobert_core.checkpoint import load_weights
    from kobert_core.pretrained import empty_model

    task, network = empty_model(model, cache=cache)
    network.load_state_dict(load_weights(checkpoint))
    return task.with_chosen(metrics), network


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
