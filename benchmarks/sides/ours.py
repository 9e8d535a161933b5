"""Our loop on one epoch: `kobert_core.training.train` as `kobert-tune` calls it.

The time is from the model's being built, so that making the optimizer and drawing the order count, to the moment when
the loop asks for the dev split, so that evaluation does not. The features are there before, as in a sweep from the
second trial on. KorQuAD without the boundary head, which the other sides do not have.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from common import (
    DOC_STRIDE,
    KORQUAD_LENGTH,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NSMC_LENGTH,
    QUERY_LENGTH,
    SEED,
    WARMUP_RATIO,
    WEIGHT_DECAY,
    Size,
    give,
    model_folder,
    training_arguments,
    training_file,
)


def run_config(task: str, folder: Path, file: Path, batch: int) -> dict[str, Any]:
    """The values of one run of one epoch, as a study file would have them."""
    few = training_file(task, 8)
    data: dict[str, Any] = {"train": file, "dev": few}
    model: dict[str, Any] = {"backbone": str(folder)}
    if task == "nsmc":
        data |= {"max_length": NSMC_LENGTH}
    else:
        data |= {"max_seq_length": KORQUAD_LENGTH, "doc_stride": DOC_STRIDE, "max_query_length": QUERY_LENGTH}
        model |= {"boundary_head": False}
    return {
        "task": task,
        "data": data,
        "model": model,
        "optim": {
            "backbone_lr": LEARNING_RATE,
            "classifier_lr": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "warmup_ratio": WARMUP_RATIO,
            "max_grad_norm": MAX_GRAD_NORM,
            "batch_size": batch,
        },
        "train": {"epochs": 1, "seed": SEED, "eval_percent": 100, "precision": "fp32"},
    }


def train_once(task: str, shape: str, examples: int, batch: int) -> dict[str, Any]:
    """Train one epoch; seconds, examples and the mean loss."""
    import torch
    from safetensors.torch import load_file

    from kobert_core.runtime import LocalRuntime, Report
    from kobert_core.tasks import parse_train_config, task_class
    from kobert_core.training import train

    folder = model_folder(task, shape)

    class Timed(task_class(task)):  # type: ignore[misc]
        """The task, with the starting weights of all sides; notes when the training begins and ends."""

        def build_model(self) -> Any:
            model = super().build_model()
            model.load_state_dict(load_file(folder / "model.safetensors"))
            self.began = time.perf_counter()
            return model

        @property
        def dev(self) -> Any:
            self.ended = time.perf_counter()
            return self.few

    config = parse_train_config(run_config(task, folder, training_file(task, examples), batch))
    few = task_class(task)(config).dev
    timed = Timed(config)
    timed.few = few
    count = len(timed.train)  # reads and tokenizes
    reports: list[Report] = []
    train(config, timed, LocalRuntime(device=torch.device("cpu"), on_report=reports.append))
    return {
        "examples": count,
        "tokens": int(timed.train.lengths.sum()),
        "seconds": timed.ended - timed.began,
        "loss": reports[-1].metrics["train/loss"],
    }


def main() -> None:
    given = training_arguments(__doc__)
    size: Size = given.size
    train_once(given.task, given.shape, size.warmup, size.batch)
    give({"side": "ours"} | train_once(given.task, given.shape, size.examples, size.batch))


if __name__ == "__main__":
    main()
