"""A sweep of one trial of one epoch on so many reviews: what grows with them, and the memory of its driver.

`seconds` is the whole command, `training` the trial as its table has it (evaluated once, on a dev set of the same
size), `features` the making of the features from the file, without a cache. The driver's peak is `VmHWM` of the
process that runs the sweep, read until it ends: that of its workers is not in it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import time
from pathlib import Path

from common import ROOT, empty_folder, give, reviews_file
from our_sweep import sweep_command, write_study

READ_EVERY = 0.05  # seconds


def peak_of(pid: int, before: int) -> int:
    """Most resident memory of a process so far, in bytes; `before` when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return before
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, required=True)
    given = parser.parse_args()
    folder = empty_folder(f"growth-{given.reviews}")
    study = write_study(folder / "study.yaml", reviews=given.reviews, trials=1, epochs=1, eval_percent=100)

    from tuning.sweep_dir.lock import driver_of

    began = time.perf_counter()
    peak = 0
    with open(folder / "result.json", "w+", encoding="utf-8") as output:
        command = subprocess.Popen(sweep_command(study, folder / "sweeps"), cwd=ROOT, stdout=output)
        while command.poll() is None:
            if (driver := driver_of(folder / "sweeps/benchmark")) is not None:
                peak = peak_of(driver[0], peak)
            time.sleep(READ_EVERY)
        seconds = time.perf_counter() - began
        if command.returncode:
            raise SystemExit(command.returncode)
        output.seek(0)
        result = json.loads(output.read().splitlines()[-1])
    trials = json.loads(Path(result["sweep"], "trials.json").read_text(encoding="utf-8"))

    from kobert_core.tasks import task_class
    from tuning.study import load_study

    loaded = load_study(study)
    config = loaded.train_config(loaded.example_values())
    few = config.data.model_copy(update={"train": reviews_file(320)})
    task_class("nsmc")(config.model_copy(update={"data": few})).train  # noqa: B018  warm-up
    task = task_class("nsmc")(config)
    began = time.perf_counter()
    task.train  # noqa: B018  builds them
    give(
        {
            "side": f"{given.reviews:,} reviews",
            "reviews": given.reviews,
            "seconds": seconds,
            "training": trials[0]["seconds"],
            "features": time.perf_counter() - began,
            "peak_megabytes": peak / 1e6,
        }
    )


if __name__ == "__main__":
    main()
