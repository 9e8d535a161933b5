"""What uploads cost the loop: runs that keep their checkpoints on their own disk, and ones that also upload them.

    python benchmarks/uploads.py [--hidden 512] [--steps 24] [--rounds 3] [--store s3]

The sides take turns in one process, on the same steps, and write a checkpoint after each quarter of them. With
`--store s3` the store is moto's server, a process of this machine at the lowest priority; with `file` it is a folder.
The time of a step is that from the end of one to the end of the next, without its evaluation and the writing of its
checkpoint. That the loop waits for its queue counts as writing; it is told besides.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kobert_core.runtime import LocalRuntime, Phase
from kobert_core.tasks import task_class
from kobert_core.training import train
from tests.fixtures.object_store import BUCKET, S3Server
from tests.fixtures.tiny import tiny_config
from tuning.storage.connection import stay_behind
from tuning.storage.store import Store
from tuning.storage.uploads import Uploads

BATCH, TRAIN_ROWS = 8, 360


@dataclass(kw_only=True)
class StepTimes(LocalRuntime):
    """Notes how long each step takes."""

    outbox: Path
    alone: list[float] = field(default_factory=list)
    """Seconds of steps at whose end no checkpoint was on its way."""
    beside: list[float] = field(default_factory=list)
    """Of the others."""
    writing: list[float] = field(default_factory=list)
    """Seconds that the loop spent on each checkpoint."""
    _begin: float | None = None
    _apart: float = 0.0
    _written: float = 0.0

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if name in ("evaluation", "checkpoint", "logging"):
            self._apart += time.perf_counter() - begin
        if name == "checkpoint":
            self._written += time.perf_counter() - begin

    def should_stop(self) -> bool:
        if self._begin is not None:
            uploads = self.outbox.is_dir() and any(self.outbox.iterdir())
            (self.beside if uploads else self.alone).append(time.perf_counter() - self._begin - self._apart)
        if self._written:
            self.writing.append(self._written)
        self._begin, self._apart, self._written = time.perf_counter(), 0.0, 0.0
        return False


def run(store: Store | None, folder: Path, options: argparse.Namespace, cache: Path) -> tuple[StepTimes, float]:
    """One run of one side, and the seconds that uploads took after its end."""
    sizes = {"hidden_size": options.hidden, "num_hidden_layers": 12, "num_attention_heads": 8}
    config = tiny_config(
        model={"config": sizes | {"intermediate_size": 4 * options.hidden}},
        optim={"batch_size": BATCH},
        train={"epochs": options.steps * BATCH / TRAIN_ROWS, "eval_percent": 25},
    )
    uploads = Uploads(store, folder / "checkpoints", folder / "outbox") if store else None
    runtime = StepTimes(
        device=torch.device("cpu"), checkpoints=folder / "checkpoints", copies=uploads, outbox=folder / "outbox"
    )
    train(config, task_class(config.task)(config, cache=cache), runtime)
    begin = time.perf_counter()
    if uploads is not None:
        uploads.close()
    return runtime, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512, help="with 12 layers, 512 makes checkpoints of 440 MB")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", choices=["s3", "file"], default="s3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--behind", action=argparse.BooleanOptionalAction, default=True, help="as workers do")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.behind:
        stay_behind()  # as workers do
    with tempfile.TemporaryDirectory() as name, S3Server() if options.store == "s3" else nullcontext() as server:
        folder = Path(name)
        if server is not None:
            os.environ |= server.environment()
            os.setpriority(os.PRIO_PROCESS, server._process.pid, 19)
        sides: dict[str, list[StepTimes]] = {"local": [], "uploaded": []}
        for number in range(-1, options.rounds):  # the first round makes features and warms up
            for side, runs in sides.items():
                here = folder / f"{number}-{side}"
                address = f"s3://{BUCKET}/{here.name}" if server else f"file://{folder}/store/{here.name}"
                store = Store.at(address) if side == "uploaded" else None
                runtime, after = run(store, here, options, folder / "cache")
                sizes = [sum(f.stat().st_size for f in c.iterdir()) for c in (here / "checkpoints").iterdir()]
                if store is not None:
                    store.delete(store.objects())
                if number >= 0:
                    runs.append(runtime)
                steps = runtime.alone + runtime.beside
                told = {
                    "round": number,
                    "side": side,
                    "checkpoint_mb": round(max(sizes) / 1e6),
                    "steps": len(steps),
                    "beside_an_upload": len(runtime.beside),
                    "step_s": round(statistics.median(steps), 4),
                    "writing_s": [round(each, 2) for each in runtime.writing],
                    "after_the_end_s": round(after, 2),
                }
                print(json.dumps(told), flush=True)
        local = statistics.median(each for run in sides["local"] for each in run.alone)
        uploaded = [each for run in sides["uploaded"] for each in run.beside + run.alone]
        beside = [each for run in sides["uploaded"] for each in run.beside]
        print(f"median step: local {local:.4f} s, with uploads {statistics.median(uploaded):.4f} s", end="")
        print(f" ({statistics.median(uploaded) / local - 1:+.1%})", end="")
        if beside:
            print(f", while one is on its way {statistics.median(beside):.4f} s ({len(beside)} steps,", end=" ")
            print(f"{statistics.median(beside) / local - 1:+.1%})", end="")
        print()


if __name__ == "__main__":
    main()
