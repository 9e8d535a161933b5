"""Does it cost accuracy that the examples of a step are of about the same length? The same runs with steps drawn at
random, side by side.

    PYTHONPATH=. python benchmarks/order_of_examples.py [TABLE] [--seeds 5] [--jobs 2] [--eval-percent 50]

Trains the baseline of `hpo/spaces/TABLE.yaml` on one thread with each seed, once as the product orders examples and
once at random, and scores both after the same steps on the dev rows, by which nothing is chosen here. A run that has
ended is a line of `hpo/recorded/order-TABLE.jsonl`, so what was cut off goes on. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "hpo"))

from record import CACHE, study_of

from kobert_core.data import batching
from kobert_core.evaluation import evaluate_on_dev
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import task_class
from kobert_core.training import train
from tuning.search.preview import trials_by_chance
from tuning.statistics.significance import paired_t

ORDERS = {"of like length": batching.SORTED_TOGETHER, "at random": 1}
"""So many steps have their examples sorted by length together."""
DEV_EXAMPLES = 4000
Run = tuple[str, int]
"""Order, seed."""


def main() -> None:
    """Train what is not there yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="nsmc-e5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--eval-percent", type=int, default=50)
    asked = parser.parse_args()
    file = CACHE.parent / f"order-{asked.table}.jsonl"
    file.parent.mkdir(exist_ok=True)
    runs: dict[Run, dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        order, seed, found = json.loads(line)
        runs[order, seed] = found
    left = [(order, seed) for seed in range(1, asked.seeds + 1) for order in ORDERS if (order, seed) not in runs]
    with ProcessPoolExecutor(
        asked.jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        places = [pool.submit(trained, asked.table, *run, eval_percent=asked.eval_percent) for run in left]
        for run, place in zip(left, places, strict=True):
            runs[run] = place.result()
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps([*run, runs[run]]) + "\n")
            print(*run, runs[run], file=sys.stderr, flush=True)
    print(report(runs))


def trained(table: str, order: str, seed: int, *, eval_percent: int) -> dict[str, Any]:
    """The metrics of each evaluation of one run, by the steps before it, and its seconds of CPU without evaluations."""
    study = study_of(table)
    config = study.train_config(trials_by_chance(study, 1)[0])
    data = config.data.model_copy(update={"max_dev_examples": DEV_EXAMPLES, "holdout_fraction": None})
    settings = config.train.model_copy(update={"seed": seed, "eval_percent": eval_percent})
    config = config.model_copy(update={"data": data, "train": settings})
    task: Any = task_class(config.task)(config, cache=CACHE)
    len(task.train), len(task.dev)
    metrics: dict[str, dict[str, float]] = {}
    runtime = LocalRuntime(
        device=torch.device("cpu"), on_report=lambda report: metrics.update({str(report.step): report.metrics})
    )
    evaluating = 0.0

    def timed(*arguments: Any) -> Any:
        nonlocal evaluating
        begin = time.process_time()
        scores = evaluate_on_dev(*arguments)
        evaluating += time.process_time() - begin
        return scores

    begin = time.process_time()
    with patch.object(batching, "SORTED_TOGETHER", ORDERS[order]), patch("kobert_core.training.evaluate_on_dev", timed):
        train(config, task, runtime)
    return {"metrics": metrics, "seconds": time.process_time() - begin - evaluating}


def report(runs: dict[Run, dict[str, Any]]) -> str:
    """The scores after as many steps, and what the steps cost."""
    like, random = ORDERS
    seeds = sorted(seed for order, seed in runs if order == random and (like, seed) in runs)
    first = runs[like, seeds[0]]["metrics"]
    lines = [
        f"| after steps | metric | {like} | {random} | {like} less {random}, 95% interval | p |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for step, metrics in first.items():
        for name in (name for name in metrics if name.startswith("eval/") and name != "eval/examples"):
            ours, theirs = (np.array([runs[order, seed]["metrics"][step][name] for seed in seeds]) for order in ORDERS)
            interval, p = paired_t(ours, theirs)
            lines.append(
                f"| {step} | {name} | {ours.mean():.4f} (deviation {ours.std(ddof=1):.4f}) | {theirs.mean():.4f} "
                f"(deviation {theirs.std(ddof=1):.4f}) | {interval.estimate:+.4f} ({interval.low:+.4f} to "
                f"{interval.high:+.4f}) | {p:.2f} |"
            )
    ratios = [runs[like, seed]["seconds"] / runs[random, seed]["seconds"] for seed in seeds]
    lines.append(
        f"\n{len(seeds)} seeds. Seconds of CPU in training, {like} / {random}: {np.median(ratios):.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f})."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
