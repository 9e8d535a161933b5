"""Replay searches on the recorded tables, side by side: compute until the best is found, and regret on the way.

    PYTHONPATH=. python benchmarks/hpo/replay.py [TABLE …] [--replays 200] [--workers 1 4 16] [--budget 32]

A unit of compute is one average run of the table to its end. The gap is how much worse, in points, the trial that would
be handed over is than the best configuration of the table, both by their true values. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import optuna
from methods import Optuna, Product, RayTune
from scipy.stats import bootstrap
from simulate import Replay, simulate
from tables import HERE, Table

from tuning.planning.simulation import Method

TARGET = 0.2
"""Points."""
MAKERS: dict[str, Callable[[Table, int], Method]] = {
    "TPE and ASHA, ours": lambda t, seed: Product(t.study, algorithm="tpe", scheduler="asha", seed=seed),
    "random, to the end": lambda t, seed: Product(t.study, algorithm="random", scheduler="none", seed=seed),
    "random and ASHA": lambda t, seed: Product(t.study, algorithm="random", scheduler="asha", seed=seed),
    "TPE, to the end": lambda t, seed: Product(t.study, algorithm="tpe", scheduler="none", seed=seed),
    "TPE and Hyperband, ours": lambda t, seed: Product(t.study, algorithm="tpe", scheduler="hyperband", seed=seed),
    "Optuna: TPE and HyperbandPruner": lambda t, seed: Optuna(
        t.study.space, optuna.pruners.HyperbandPruner(min_resource=10, max_resource=100, reduction_factor=3), seed=seed
    ),
    "Trainer's default: TPE and MedianPruner": lambda t, seed: Optuna(
        t.study.space, optuna.pruners.MedianPruner(), seed=seed
    ),
    "Ray Tune: OptunaSearch and ASHA": lambda t, seed: RayTune(t.study.space, seed=seed),
    "TPE and promotion": lambda t, seed: Product(t.study, algorithm="tpe", scheduler="promotion", seed=seed),
    "random and promotion": lambda t, seed: Product(t.study, algorithm="random", scheduler="promotion", seed=seed),
}


def main() -> None:
    """Replay, and print."""
    parser = argparse.ArgumentParser()
    there = sorted(path.stem for path in (HERE / "tables").glob("*.parquet"))
    parser.add_argument("tables", nargs="*", default=there)
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[4])
    parser.add_argument("--budget", type=float, default=32)
    parser.add_argument("--methods", nargs="+", default=list(MAKERS))
    asked = parser.parse_args()
    for name in asked.tables:
        table = Table.load(name)
        print(f"\n## {name}: {len(table.values)} configurations, {table.dev.shape[1]} seeds\n")
        for workers in asked.workers:
            print(f"{workers} workers\n")
            stops = [2.0**power for power in range(6) if 2**power <= asked.budget]
            print("| search | compute to the target | reached | " + " | ".join(f"gap at {s:g}" for s in stops) + " |")
            print("|---|---|---|" + "---|" * len(stops))
            for method in asked.methods:
                with ProcessPoolExecutor() as pool:
                    one = partial(replay, name, method, workers, asked.budget)
                    replays = list(pool.map(one, range(asked.replays), chunksize=5))
                print(f"| {method} | {row(replays, stops)} |", flush=True)


def replay(table: str, method: str, workers: int, budget: float, seed: int) -> Replay:
    """One simulated sweep."""
    loaded = Table.load(table)
    generator = np.random.default_rng(seed)
    return simulate(loaded, MAKERS[method](loaded, seed), workers=workers, budget=budget, generator=generator)


def row(replays: list[Replay], stops: list[float]) -> str:
    """Median compute to the target with its share, and the mean gap at each stop with its 95% interval."""
    reached = np.array([each.spent_until(TARGET) for each in replays])
    cells = [f"{np.median(reached):.1f}", f"{np.isfinite(reached).mean():.0%}"]
    for stop in stops:
        gaps = np.array([each.gap_at(stop) for each in replays])
        gaps = gaps[np.isfinite(gaps)]
        interval = bootstrap((gaps,), np.mean, n_resamples=1000, rng=0).confidence_interval if len(gaps) > 1 else None
        cells.append(f"{gaps.mean():.2f} ({interval.low:.2f} to {interval.high:.2f})" if interval else "")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
