"""Does it cost accuracy that the examples of a step are of about the same length? The same runs with steps drawn at
random, side by side.

    PYTHONPATH=. python benchmarks/order_of_examples.py [TABLE] [--seeds 5] [--jobs 2] [--eval-percent 50]

Trains the baseline of `hpo/spaces/TABLE.yaml` on one thread with each seed, once as the product orders examples and
once at random, and scores both after the same steps on the dev rows, by which nothing is chosen here. A run that has
ended is a line of `hpo/recorded/order-TABLE.jsonl`, so what was cut off goes on. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "hpo"))

from record import recorded, study_of, task_of, write_down

from kobert_core.data import batching
from kobert_core.runtime import LocalRuntime, Phase
from kobert_core.training import train
from tuning.search.preview import trials_by_chance
from tuning.statistics.significance import paired_t

ORDERS = {"of like length": batching.SORTED_TOGETHER, "at random": 1}
"""So many steps have their examples sorted by length together."""
DEV_EXAMPLES = 4000


def main() -> None:
    """Train what is not there yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="nsmc-e5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--eval-percent", type=int, default=50)
    asked = parser.parse_args()
    name = f"order-{asked.table}"
    runs = {(run["order"], run["seed"]): run for run in recorded(name)}
    left = [(order, seed) for seed in range(1, asked.seeds + 1) for order in ORDERS if (order, seed) not in runs]
    with ProcessPoolExecutor(
        asked.jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for done in as_completed(
            [pool.submit(trained, asked.table, *each, eval_percent=asked.eval_percent) for each in left]
        ):
            run = done.result()
            runs[run["order"], run["seed"]] = run
            write_down(name, run)
            print(run, file=sys.stderr, flush=True)
    print(report(runs))


@dataclass(kw_only=True)
class CountingRuntime(LocalRuntime):
    """A run that knows what its evaluations took."""

    evaluating: float = 0.0
    """Seconds of CPU."""

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        begin = time.process_time()
        yield
        if name == "evaluation":
            self.evaluating += time.process_time() - begin


def trained(table: str, order: str, seed: int, *, eval_percent: int) -> dict[str, Any]:
    """The metrics of each evaluation of one run, by the steps before it, and its seconds of CPU without evaluations."""
    study = study_of(table)
    config = study.train_config(trials_by_chance(study, 1)[0])
    data = config.data.model_copy(update={"max_dev_examples": DEV_EXAMPLES, "holdout_fraction": None})
    settings = config.train.model_copy(update={"seed": seed, "eval_percent": eval_percent})
    config = config.model_copy(update={"data": data, "train": settings})
    task = task_of(config)
    metrics: dict[str, dict[str, float]] = {}
    runtime = CountingRuntime(
        device=torch.device("cpu"), on_report=lambda report: metrics.update({str(report.step): report.metrics})
    )
    batching.SORTED_TOGETHER = ORDERS[order]
    begin = time.process_time()
    train(config, task, runtime)
    seconds = time.process_time() - begin - runtime.evaluating
    return {"order": order, "seed": seed, "metrics": metrics, "seconds": seconds}


def report(runs: dict[tuple[str, int], dict[str, Any]]) -> str:
    """The scores after as many steps, and what the steps cost; of runs by order and seed, with two seeds at least."""
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
