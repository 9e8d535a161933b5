"""A real pretrained encoder with KoBERT's pieces, tuned on all of NSMC: how well it does on the test file.

One recipe that was fixed beforehand, the weights of its last step, and one look at the test file.
"""

from __future__ import annotations

import math
import time
from typing import Any

from common import NSMC, SEED, SHARED, WORK, reviews_file
from results import Results
from setting import NSMC_LENGTH, device, gigabytes, wait

from kobert_core.config import TrainConfig
from kobert_core.evaluation import evaluate
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.training import train

ENCODER = SHARED / "models/e5-kobert"
TEST = NSMC.with_name("ratings_test.txt")
BATCH, RATE, WARMUP, EPOCHS = 64, 1e-4, 0.1, 2
Z = 1.959963984540054
"""A normal number is within so many deviations of its mean 95 times of 100."""


def e5(results: Results, tiny: bool) -> None:
    import torch

    if not (ENCODER / "model.safetensors").is_file():
        results.missing("e5-kobert on NSMC", f"the encoder is not there: {ENCODER}")
        return
    with results.check("e5-kobert on NSMC"):
        began = time.perf_counter()
        task = task_class("nsmc")(config_of_run(tiny), cache=WORK / "cache")
        test = task.read(reviews_file(64, skip=1000) if tiny else TEST)
        sizes = len(task.train), len(task.dev), len(test)
        note = "{:,} reviews to train on, {:,} of dev, {:,} of the test file".format(*sizes)
        results.tell("read and tokenized in", time.perf_counter() - began, unit="s", note=note)
        model, metrics = tuned(results, task)
        began = time.perf_counter()
        runtime = LocalRuntime(device=device())
        found = evaluate(model, task.with_chosen(metrics), test, runtime)
        wait()
        seconds = time.perf_counter() - began
        tell_accuracy(results, found, test.items, metrics)
        results.tell("the test file", len(test) / seconds, unit="reviews/s", note=f"{seconds:.2f} s")
        if torch.cuda.is_available():
            results.tell("memory, the most", gigabytes(torch.cuda.max_memory_reserved), unit="GB")


def config_of_run(tiny: bool) -> TrainConfig:
    data: dict[str, Any] = {"train": NSMC, "max_length": NSMC_LENGTH}
    if tiny:
        data = {"train": reviews_file(256), "dev": reviews_file(64, skip=256), "max_length": NSMC_LENGTH}
    return parse_train_config(
        {
            "task": "nsmc",
            "data": data,
            "model": {"backbone": str(ENCODER)},
            "optim": {
                "batch_size": BATCH // (4 if tiny else 1),
                "backbone_lr": RATE,
                "classifier_lr": RATE,
                "warmup_ratio": WARMUP,
            },
            "train": {"epochs": 1 if tiny else EPOCHS, "seed": SEED, "eval_percent": 50},
        }
    )


def tuned(results: Results, task: Any) -> tuple[Any, dict[str, float]]:
    """The model after its last step, and what it had on dev then."""
    reports: list[Report] = []

    def hear(report: Report) -> None:
        reports.append(report)
        shown = {name: value for name, value in report.metrics.items() if name.startswith(("eval/acc", "train/"))}
        words = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        print(f"    {report.progress}%, step {report.step}: {words}", flush=True)

    began = time.perf_counter()
    model = train(task.config, task, LocalRuntime(device=device(), on_report=hear))
    wait()
    seconds = time.perf_counter() - began
    last = reports[-1]
    examples = task.config.train.epochs * len(task.train)
    rates = [report.metrics["train/examples_per_second"] for report in reports]
    note = f"{last.step} steps of {task.config.optim.batch_size}, {task.config.train.epochs:g} epochs; with the"
    note += f" start of the model and {len(reports)} evaluations on dev; the steps alone"
    note += f" {' and '.join(f'{rate:,.0f}' for rate in rates)} reviews/s"
    results.tell("tuned in", seconds, unit="s", note=note)
    results.tell("tuned, reviews/s in all", examples / seconds, unit="reviews/s", updating=rates)
    return model, last.metrics


def tell_accuracy(results: Results, found: dict[str, float], count: int, dev: dict[str, float]) -> None:
    accuracy = found["eval/accuracy"]
    low, high = wilson(round(accuracy * count), count)
    note = f"{accuracy:.4f} of {count:,} reviews, 95% interval (Wilson) {low:.4f} - {high:.4f}; on dev"
    note += f" {dev['eval/accuracy']:.4f}; one fixed recipe, the last step, read once"
    results.tell("accuracy on the test file", accuracy, note=note, interval=[low, high], metrics=found)


def wilson(successes: int, count: int) -> tuple[float, float]:
    """The 95% interval of a proportion."""
    share, weight = successes / count, Z * Z / count
    middle = share + weight / 2
    half = Z * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    return (middle - half) / (1 + weight), (middle + half) / (1 + weight)
