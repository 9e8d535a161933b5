"""Record learning curves of real trainings, for searches to be replayed on: the tables of `benchmarks/hpo`.

    PYTHONPATH=. python benchmarks/hpo/record.py nsmc-tiny [--configurations 200] [--seeds 3] [--minutes 60]

The study `spaces/TABLE.yaml` says what is trained and from which space the configurations are drawn: its first point,
then at random, as a sweep with `algorithm: random` draws them. Each is trained to its end with each seed, by the
product's own loop on one thread. It goes on where it was cut off, in as many sittings as it takes: a run that has ended
is a line of `recorded/TABLE.jsonl`, and at the end of a sitting, or with `--pack`, these are added to
`tables/TABLE.parquet`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kobert_core.evaluation import evaluate
from kobert_core.models.heads import EncoderWithHead
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import task_class
from kobert_core.training import train
from tuning.search.preview import trials_by_chance
from tuning.study import StudyConfig, load_study

HERE = Path(__file__).resolve().parent
CACHE = HERE / "recorded/cache"


def main() -> None:
    """Train what is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted(path.stem for path in (HERE / "spaces").glob("*.yaml")))
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--pack", action="store_true", help="only write the Parquet file of what is recorded")
    asked = parser.parse_args()
    if not asked.pack:
        record(asked.table, asked.configurations, asked.seeds, until=time.monotonic() + 60 * asked.minutes)
    pack(asked.table)


def record(table: str, configurations: int, seeds: int, *, until: float) -> None:
    """Train each configuration with each seed, but for those that are there."""
    torch.set_num_threads(1)
    study = load_study(HERE / "spaces" / f"{table}.yaml")
    there = {(run["configuration"], run["seed"]) for run in recorded(table)}
    there |= set(packed(table)[["configuration", "seed"]].itertuples(index=False, name=None))
    with recording_file(table).open("a", encoding="utf-8") as file:
        for configuration, values in enumerate(trials_by_chance(study, configurations)):
            for seed in range(1, seeds + 1):
                if (configuration, seed) in there:
                    continue
                if time.monotonic() > until:
                    return
                run = {"configuration": configuration, "seed": seed, "values": values}
                file.write(json.dumps(run | {"curve": curve(study, values, seed)}) + "\n")
                file.flush()
                print(f"{table}: configuration {configuration}, seed {seed}", flush=True)


def curve(study: StudyConfig, values: dict[str, Any], seed: int) -> list[dict[str, float]]:
    """Train once: of each evaluation the percentage of the run, the steps, the seconds of CPU up to there, the
    objective on dev and, where a sweep would keep these weights for best, on the rows held out."""
    config = study.train_config(values)
    config = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
    task = task_class(config.task)(config, cache=CACHE)
    keep_model(task)
    len(task.train), len(task.dev), len(task.holdout)  # read before the clock starts
    points: list[dict[str, float]] = []
    unseen = 0.0

    def on_report(report: Report) -> None:
        nonlocal unseen
        now = time.process_time()
        point = {"percent": report.progress, "step": report.step, "seconds": now - begin - unseen}
        point["dev"] = report.metrics[study.objective.metric]
        if report.is_best:
            held_out = evaluate(task.built, task, task.holdout, runtime)
            point["held_out"] = held_out[study.objective.metric]
        points.append(point)
        unseen += time.process_time() - now

    runtime = LocalRuntime(device=torch.device("cpu"), on_report=on_report)
    begin = time.process_time()
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
