"""On the workers of a group: what a checkpoint is asked for, besides being trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kobert_core.data.source import Source
from tuning.sweep_dir.reviews import write_review

if TYPE_CHECKING:
    from torch import nn

    from kobert_core.runtime import Runtime
    from kobert_core.tasks.base import Task
    from tuning.workers.results import HoldoutScores, TogetherScores, TunedDecoding


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
