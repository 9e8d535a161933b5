"""How much memory the features of 150,000 reviews take on a machine, with 1, 2 or 4 workers that train on them.

Each worker is a process that opens the features through the task, from the same cache folder, and makes every batch
once. Then the proportional set size (PSS: a shared page counts as its part) of their mappings of the cache's files is
added up over all workers. What else a worker's memory grew by meanwhile is its own: order, labels, modules.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common import NSMC, NSMC_LENGTH, WORK, give, model_folder, reviews_file

WORKERS = (1, 2, 4)
BATCH = 32
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)$")


def make_task(cache: Path) -> Any:
    """The task on all reviews."""
    from kobert_core.tasks import parse_train_config, task_class

    config = parse_train_config(
        {
            "task": "nsmc",
            "data": {"train": NSMC, "dev": reviews_file(8), "max_length": NSMC_LENGTH},
            "model": {"backbone": str(model_folder("nsmc", "tiny"))},
        }
    )
    return task_class("nsmc")(config, cache=cache)


def work(cache: Path, pipe: Connection) -> None:
    """Make all batches, say so, and stay until told to end."""
    import numpy as np

    task = make_task(cache)
    pipe.send("ready")
    pipe.recv()
    examples = task.train
    for start in range(0, len(examples), BATCH):
        examples.batch(np.arange(start, min(start + BATCH, len(examples))))
    pipe.send(len(examples))
    pipe.recv()


def mapped_pss(pid: int, folder: Path) -> int:
    """Bytes of PSS of a process's mappings of the files in a folder."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if found := _MAPPING.match(line):
            inside = found[1].startswith(f"{folder}/")
        elif inside and line.startswith("Pss:"):
            total += int(line.split()[1]) * 1024
    return total


def all_pss(pid: int) -> int:
    """Bytes of PSS of all that a process has mapped."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measure(cache: Path, workers: int) -> dict[str, Any]:
    """PSS with so many workers."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(workers)]
    processes = [context.Process(target=work, args=(cache, theirs)) for _, theirs in pairs]
    for process in processes:
        process.start()
    for pipe, _ in pairs:
        pipe.recv()
    before = [all_pss(process.pid) for process in processes if process.pid]
    for pipe, _ in pairs:
        pipe.send("go")
    reviews = [pipe.recv() for pipe, _ in pairs]
    grown = sum(all_pss(process.pid) for process in processes if process.pid) - sum(before)
    pss = [mapped_pss(process.pid, cache) for process in processes if process.pid]
    for pipe, _ in pairs:
        pipe.send("end")
    for process in processes:
        process.join()
    return {
        "reviews": reviews[0],
        "megabytes": sum(pss) / 1e6,
        "other_megabytes_a_worker": (grown - sum(pss)) / workers / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, required=True)
    given = parser.parse_args()
    cache = WORK / "memory-cache"
    make_task(cache).train  # noqa: B018  builds what is not there yet
    give({"side": f"{given.workers} workers"} | measure(cache, given.workers))


if __name__ == "__main__":
    main()
