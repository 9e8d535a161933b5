"""Two drivers on the folder of one sweep."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.drills.conftest import Drill
from tests.fixtures.commands import UNCONFIRMED, tune_forked
from tests.fixtures.sweeps import QUICKSTART, start_sweep
from tuning.sweep_dir.lock import is_running


def test_the_second_driver_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path, drill: Drill) -> None:
    """Two drivers on one sweep folder: the second is refused, and a crash leaves no lock behind."""
    first = start_sweep(tmp_path, "one")
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "one" / "study.yaml").is_file():
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.05)
        command = ["sweep", QUICKSTART, "--name", "one", "--output", tmp_path, *UNCONFIRMED, "--resume"]
        second = tune_forked(*command, cwd=tmp_path, code=2)
        assert first.poll() is None and is_running(tmp_path / "one")
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    deadline = time.monotonic() + 10
    while is_running(tmp_path / "one"):  # the sweep's own process dies with the one that was killed, a moment later
        assert time.monotonic() < deadline
        time.sleep(0.05)
    other_study = tune_forked(*command, "--set", "train.epochs=9", cwd=tmp_path, code=2)
    drill.lost("second drivers that were let in", int("another process runs this sweep" not in second.stderr), of=1)
    drill.lost("locks left behind", int("is not what this sweep began with" not in other_study.stderr), of=1)
