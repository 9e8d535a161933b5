"""`kobert-tune sweep` from start to end: a fresh process, an empty folder, a cold feature cache.

The winner is exported, all is in the trial table and in MLflow: what the command always does. `accuracy` is the
winner's, at its best evaluation on the same dev set as the other side's. The trials have the same values as there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import (
    LEARNING_RATES,
    NSMC_LENGTH,
    ROOT,
    SEED,
    SWEEP_BATCH,
    SWEEP_DEV,
    SWEEP_EPOCHS,
    WARMUP_RATIOS,
    WEIGHT_DECAY,
    empty_folder,
    give,
    model_folder,
    reviews_file,
    search_points,
    sweep_arguments,
)


def write_study(
    file: Path,
    *,
    reviews: int,
    trials: int,
    epochs: int,
    eval_percent: int = 10,
    seed: int = SEED,
    points: Sequence[Mapping[str, float]] = (),
) -> Path:
    """A study over learning rates and warmup on so many reviews; JSON is YAML too."""
    rates = {"distribution": "log_uniform", "min": LEARNING_RATES[0], "max": LEARNING_RATES[1]}
    study: dict[str, Any] = {
        "schema_version": 1,
        "name": "benchmark",
        "task": "nsmc",
        "data": {
            "train": str(reviews_file(reviews)),
            "dev": str(reviews_file(SWEEP_DEV, skip=reviews)),
            "max_length": NSMC_LENGTH,
            "max_leak": 1,
        },
        "model": {"backbone": str(model_folder("nsmc", "tiny"))},
        "optim": {"batch_size": SWEEP_BATCH, "weight_decay": WEIGHT_DECAY},
        "train": {"epochs": epochs, "eval_percent": eval_percent, "seed": seed},
        "parameters": {
            "optim.backbone_lr": rates,
            "optim.classifier_lr": rates,
            "optim.warmup_ratio": {"distribution": "uniform", "min": WARMUP_RATIOS[0], "max": WARMUP_RATIOS[1]},
        },
        "objective": {"metric": "eval/accuracy", "mode": "max"},
        "search": {
            "algorithm": "tpe",
            "seed": seed,
            "points": [{f"optim.{name}": value for name, value in point.items()} for point in points],
        },
        "scheduler": {"name": "asha", "grace_percent": 10, "reduction_factor": 3},
        "resources": {"workers": 1, "cpus_per_worker": 1, "concurrent": "auto"},
        "budget": {"trials": trials},
    }
    file.write_text(json.dumps(study, indent=1), encoding="utf-8")
    return file


def sweep_command(study: Path, output: Path) -> list[str]:
    """The command line of a sweep."""
    return [sys.executable, "-m", "tuning", "sweep", str(study), "--output", str(output), "--json"]


def main() -> None:
    given = sweep_arguments(__doc__)
    folder = empty_folder("our-sweep")
    study = write_study(
        folder / "study.yaml",
        reviews=given.reviews,
        trials=given.trials,
        epochs=SWEEP_EPOCHS,
        seed=given.seed,
        points=search_points(given.seed, given.trials),
    )

    began = time.perf_counter()
    done = subprocess.run(sweep_command(study, folder / "sweeps"), cwd=ROOT, stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - began
    result = json.loads(done.stdout.splitlines()[-1])
    trials = json.loads(Path(result["sweep"], "trials.json").read_text(encoding="utf-8"))
    give(
        {
            "side": "kobert-tune sweep",
            "seconds": seconds,
            "trials": len(trials),
            "whole": sum(trial["progress"] == 100 for trial in trials),
            "evaluations": sum(trial["progress"] // 10 for trial in trials),
            "accuracy": result["winner"]["value"],
        }
    )


if __name__ == "__main__":
    main()
