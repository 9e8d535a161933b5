"""Record learning curves of real trainings, for searches to be replayed on: the tables of `benchmarks/hpo`.

    PYTHONPATH=. python benchmarks/hpo/record.py nsmc-tiny [TABLE …] [--configurations 200] [--seeds 3] [--minutes 60]

The study `spaces/TABLE.yaml` says what is trained and from which space the configurations are drawn: its first point,
then at random, as a sweep with `algorithm: random` draws them. Each is trained to its end with each seed, by the
product's own loop on one thread, `--jobs` of them side by side; `--device cuda` trains on a GPU, which they share. It
goes on where it was cut off, in as many sittings as it takes: a run that has ended is a line of `recorded/TABLE.jsonl`,
and at the end of a sitting, or with `--pack`, these are added to `tables/TABLE.parquet`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from kobert_core.config import TrainConfig
from kobert_core.evaluation import evaluate
from kobert_core.models.heads import EncoderWithHead
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from kobert_core.training import train
from tuning.search.preview import trials_by_chance
from tuning.study import StudyConfig, load_study

HERE = Path(__file__).resolve().parent
CACHE = HERE / "recorded/cache"


class Run(NamedTuple):
    """A training that is to be recorded."""

    table: str
    configuration: int
    values: dict[str, Any]
    seed: int


def main() -> None:
    """Train what is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = sorted(path.stem for path in (HERE / "spaces").glob("*.yaml"))
    parser.add_argument("tables", nargs="+", choices=tables, metavar="TABLE", help=", ".join(tables))
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pack", action="store_true", help="only write the Parquet files of what is recorded")
    asked = parser.parse_args()
    if not asked.pack:
        runs = list(left(asked.tables, asked.configurations, asked.seeds))
        record(runs, device=asked.device, jobs=asked.jobs, until=time.time() + 60 * asked.minutes)
    for table in asked.tables:
        pack(table)


def left(tables: list[str], configurations: int, seeds: int) -> Iterator[Run]:
    """The runs that are not there yet, the tables in turn: wherever it is cut off, whole configurations are there."""
    drawn, there = dict[str, list[dict[str, Any]]](), dict[str, set[tuple[int, int]]]()
    for table in tables:
        drawn[table] = trials_by_chance(study_of(table), configurations)
        there[table] = {(run["configuration"], run["seed"]) for run in recorded(table)}
        there[table] |= set(packed(table)[["configuration", "seed"]].itertuples(index=False, name=None))
    for configuration in range(configurations):
        for table in tables:
            for seed in range(1, seeds + 1):
                if (configuration, seed) not in there[table]:
                    yield Run(table, configuration, drawn[table][configuration], seed)


def record(runs: list[Run], *, device: str, jobs: int, until: float) -> None:
    """Train, until a moment after which no run begins, and write down each run that has ended."""
    for table in {run.table for run in runs}:
        study = study_of(table)
        task_of(study.train_config(trials_by_chance(study, 1)[0]))  # once, before all read what it caches
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        curves = {pool.submit(curve, run, device=device, until=until): run for run in runs}
        for done in as_completed(curves):
            run, points = curves[done], done.result()
            if points is None:
                continue
            line = {"configuration": run.configuration, "seed": run.seed, "values": run.values, "curve": points}
            write_down(run.table, line)
            seconds = points[-1]["seconds"]
            print(f"{run.table}: configuration {run.configuration}, seed {run.seed}, {seconds:.1f} s", flush=True)


@lru_cache
def study_of(table: str) -> StudyConfig:
    """What is trained."""
    return load_study(HERE / "spaces" / f"{table}.yaml")


def task_of(config: TrainConfig) -> Task[Any]:
    """The task of a run, with its data read and its features cached."""
    task: Task[Any] = task_class(config.task)(config, cache=CACHE)
    len(task.train), len(task.dev), len(task.holdout)
    return task


def curve(run: Run, *, device: str, until: float) -> list[dict[str, float]] | None:
    """Train once: of each evaluation the percentage of the run, the steps, the seconds up to there (of CPU, or on a GPU
    by the clock), the objective on dev and, where a sweep would keep these weights for best, on the rows held out.
    None after `until`."""
    if time.time() > until:
        return None
    study = study_of(run.table)
    config = study.train_config(run.values)
    config = config.model_copy(update={"train": config.train.model_copy(update={"seed": run.seed})})
    task: Any = task_of(config)
    keep_model(task)
    clock = time.process_time if device == "cpu" else time.perf_counter
    points: list[dict[str, float]] = []
    unseen = 0.0

    def on_report(report: Report) -> None:
        nonlocal unseen
        now = clock()
        point = {"percent": report.progress, "step": report.step, "seconds": now - begin - unseen}
        point["dev"] = report.metrics[study.objective.metric]
        if report.is_best:
            held_out = evaluate(task.built, task, task.holdout, runtime)
            point["held_out"] = held_out[study.objective.metric]
        points.append(point)
        unseen += clock() - now

    runtime = LocalRuntime(device=torch.device(device, 0), on_report=on_report)
    begin = clock()
    train(config, task, runtime)
    return points


def keep_model(task: Any) -> None:
    """Have the task remember the model that the loop trains, as `task.built`."""
    build = task.build_model

    def build_and_keep() -> EncoderWithHead:
        task.built = build()
        return task.built

    task.build_model = build_and_keep


def recorded(table: str) -> list[dict[str, Any]]:
    """The runs that have ended; a line that was cut off is none."""
    runs = []
    if (path := recording_file(table)).exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                runs.append(json.loads(line))
            except ValueError:
                continue
    return runs


def write_down(table: str, run: dict[str, Any]) -> None:
    """Add a run that has ended."""
    with recording_file(table).open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(run))  # a line that was cut off stays alone


def recording_file(table: str) -> Path:
    path = HERE / "recorded" / f"{table}.jsonl"
    path.parent.mkdir(exist_ok=True)
    return path


def packed(table: str) -> pd.DataFrame:
    """The rows of a table so far, one an evaluation."""
    path = HERE / "tables" / f"{table}.parquet"
    return pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=["configuration", "seed"])


def pack(table: str) -> None:
    """Add the runs of this sitting to the table."""
    rows = [
        {"configuration": run["configuration"], "seed": run["seed"]} | run["values"] | point
        for run in recorded(table)
        for point in run["curve"]
    ]
    both = [frame for frame in (packed(table), pd.DataFrame(rows)) if len(frame)]
    frame = pd.concat(both).drop_duplicates(["configuration", "seed", "percent"])
    frame = frame.sort_values(["configuration", "seed", "percent"], ignore_index=True)
    path = HERE / "tables" / f"{table}.parquet"
    path.parent.mkdir(exist_ok=True)
    frame.to_parquet(path, compression="zstd")
    print(f"{path.name}: {frame.groupby(['configuration', 'seed']).ngroups} runs, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
