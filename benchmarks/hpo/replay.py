"""Replay searches on the recorded tables, side by side: compute until the best is found, and regret on the way.

    PYTHONPATH=. python benchmarks/hpo/replay.py [TABLE …] [--replays 200] [--workers 4] [--budget 16] [--write]

A unit of compute is one average run of the table to its end. The gap is how much worse, in points, the trial that would
be handed over is than the best configuration of the table, both by their true values. Every replay is kept in
`replayed/`: what was cut off goes on, and more replays add to those that are there. After a search has changed,
`--again` forgets its own. Prints Markdown; `--write` puts it into `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import optuna
from methods import Optuna, Product, RayTune, SyneTune, trials_of
from results import report
from simulate import Replay, simulate
from tables import HERE, Table

from tuning.planning.simulation import Method

KEPT, RESULTS = HERE / "replayed", HERE / "RESULTS.md"
Task = tuple[str, str, int, float, int]
"""Table, search, workers, budget, number of the replay."""
Maker = Callable[[Table, int], Method]
"""A search, from a table and a seed."""


def ours(algorithm: str, scheduler: str, *, startup: int = 10, warm: bool = False) -> Maker:
    """A search of the product, or a candidate; `warm` from random sweeps on the other tables that have the same
    parameters."""

    def make(table: Table, seed: int) -> Method:
        earlier = []
        for other in relatives(table.study.name) if warm else ():
            earlier += trials_of(load(other), table.study.space, np.random.default_rng([seed, 1]))
        return Product(
            table.study, algorithm=algorithm, scheduler=scheduler, seed=seed, startup=startup, earlier=earlier
        )

    return make


COMPLETE_FIRST = ("TPE and ASHA, complete first", "Optuna: ", "Trainer's default: ")
"""How the names of searches begin that hand over a complete trial where there is one, as the product did until November
2026: Optuna's `best_trial` and Trainer's best run are complete; in Ray Tune and Syne Tune a stopped one may be the
best."""
MAKERS: dict[str, Maker] = {
    "TPE and ASHA, complete first": ours("tpe", "asha"),
    "TPE and ASHA, ours": ours("tpe", "asha"),
    "random, to the end": ours("random", "none"),
    "random and ASHA": ours("random", "asha"),
    "random and promotion": ours("random", "promotion"),
    "TPE, to the end": ours("tpe", "none"),
    "TPE and Hyperband, ours": ours("tpe", "hyperband"),
    "TPE and median rule, ours": ours("tpe", "median"),
    "TPE and promotion": ours("tpe", "promotion"),
    "TPE of all rungs and ASHA": ours("tpe-rungs", "asha"),
    "TPE of all rungs and promotion": ours("tpe-rungs", "promotion"),
    "TPE, 5 random, and ASHA": ours("tpe", "asha", startup=5),
    "TPE of all rungs, 5 random, and promotion": ours("tpe-rungs", "promotion", startup=5),
    "TPE, each parameter alone, and ASHA": ours("tpe-alone", "asha"),
    "TPE without constant liar, and ASHA": ours("tpe-no-liar", "asha"),
    "TPE, warm start, and ASHA": ours("tpe", "asha", warm=True),
    "TPE, warm start, and promotion": ours("tpe", "promotion", warm=True),
    "GP, to the end": ours("gp", "none"),
    "GP and ASHA": ours("gp", "asha"),
    "GP and promotion": ours("gp", "promotion"),
    "Optuna: TPE and HyperbandPruner": lambda t, seed: Optuna(
        t.study, optuna.pruners.HyperbandPruner(min_resource=10, max_resource=100, reduction_factor=3), seed=seed
    ),
    "Trainer's default: TPE and MedianPruner": lambda t, seed: Optuna(
        t.study, optuna.pruners.MedianPruner(), seed=seed, given=False
    ),
    "Ray Tune: OptunaSearch and ASHA": lambda t, seed: RayTune(t.study, seed=seed),
    "Syne Tune: ASHABORE": lambda t, seed: SyneTune(t.study, "ASHABORE", seed=seed),
    "Syne Tune: ASHACQR": lambda t, seed: SyneTune(t.study, "ASHACQR", seed=seed),
}


def main() -> None:
    """Replay what is not there yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = sorted(path.stem for path in (HERE / "tables").glob("*.parquet"))
    parser.add_argument("tables", nargs="*", default=tables)
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[4])
    parser.add_argument("--budget", type=float, default=16)
    parser.add_argument("--methods", nargs="+", default=list(MAKERS), choices=list(MAKERS), metavar="METHOD")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--again", action="store_true", help="forget the replays of these methods on these tables")
    parser.add_argument("--report", action="store_true", help="replay nothing")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}, of all that is there")
    asked = parser.parse_args()
    if asked.again:
        forget(asked.tables, asked.methods)
    there = kept(asked.tables)
    missing = [
        (table, method, workers, asked.budget, number)
        for number in range(0 if asked.report else asked.replays)
        for table in asked.tables
        for workers in asked.workers
        for method in asked.methods
        if (table, method, workers, asked.budget, number) not in there
        and ("warm start" not in method or relatives(table))
    ]
    for count, (task, found) in enumerate(replayed(missing, jobs=asked.jobs), 1):
        keep(task, found)
        if count % 100 == 0:
            print(f"{count} of {len(missing)}", flush=True)
    replays = {key: each for key, each in kept(asked.tables).items() if key[3] == asked.budget}
    text = report(replays, list(MAKERS))
    print(text)
    if asked.write:
        RESULTS.write_text(text, encoding="utf-8")


def replayed(tasks: Iterable[Task], *, jobs: int) -> Iterator[tuple[Task, Replay]]:
    """Each task with what came of it, in their order."""
    tasks = list(tasks)
    if not tasks:
        return
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(threads, "1")  # read by the processes that begin now
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from zip(tasks, pool.map(replay, tasks, chunksize=4), strict=True)


def replay(task: Task) -> Replay:
    """One simulated sweep."""
    name, method, workers, budget, seed = task
    table = load(name)
    generator = np.random.default_rng(seed)
    return simulate(
        table,
        MAKERS[method](table, seed),
        workers=workers,
        budget=budget,
        generator=generator,
        complete_first=method.startswith(COMPLETE_FIRST),
    )


load = cache(Table.load)


@cache
def relatives(name: str) -> list[str]:
    """The other tables that have all parameters of this one."""
    others = [path.stem for path in sorted((HERE / "tables").glob("*.parquet")) if path.stem != name]
    return [other for other in others if load(other).study.space.keys() >= load(name).study.space.keys()]


@cache
def digest(name: str) -> str:
    """Of a table, its space, and how it answers: replays of another one do not count."""
    parts = (f"tables/{name}.parquet", f"spaces/{name}.yaml", "tables.py", "simulate.py")
    content = b"".join((HERE / part).read_bytes() for part in parts)
    return hashlib.sha256(content).hexdigest()[:16]


def kept_in(name: str) -> Path:
    return KEPT / f"{name}-{digest(name)}.jsonl"


def keep(task: Task, found: Replay) -> None:
    """Add a replay to those of its table."""
    KEPT.mkdir(exist_ok=True)
    columns = [np.round(column, 5).tolist() for column in (found.spent, found.gap, found.weights_gap, found.seconds)]
    with kept_in(task[0]).open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps([*task[1:], *columns, found.confirmed]))  # a line that was cut off stays alone


def kept(names: Iterable[str]) -> dict[Task, Replay]:
    """All replays of these tables that are there; a line that was cut off is none."""
    found: dict[Task, Replay] = {}
    for name in names:
        lines = kept_in(name).read_text(encoding="utf-8").splitlines() if kept_in(name).exists() else []
        for line in lines:
            try:
                method, workers, budget, number, *columns, confirmed = json.loads(line)
            except ValueError:
                continue
            if method in MAKERS:
                found[name, method, workers, budget, number] = Replay(*map(np.array, columns), confirmed)
    return found


def forget(names: Iterable[str], methods: Iterable[str]) -> None:
    """Remove the replays of some methods."""
    for name in names:
        if (path := kept_in(name)).exists():
            there, path = kept([name]), path.rename(path.with_suffix(".old"))
            for task, found in there.items():
                if task[1] not in methods:
                    keep(task, found)
            path.unlink()


if __name__ == "__main__":
    main()
