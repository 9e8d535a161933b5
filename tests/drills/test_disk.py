"""A disk that becomes full: what was written before is whole, and all goes on when there is space again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import optuna
import pytest

from tests.drills.conftest import Drill
from tests.fixtures.commands import tune_forked
from tests.fixtures.disks import Mount, fill, resize
from tests.fixtures.sweeps import (
    QUICKSTART,
    Curves,
    ending_all,
    records_of,
    reported_curves,
    start_sweep,
    sweep_to_its_end,
    wait_for,
)
from tuning.search.journal import SweepJournal
from tuning.sweep_dir.layout import JOURNAL

STUDY = [
    part
    for setting in (
        "search={algorithm: random, seed: 5}",
        "scheduler.name=none",
        "train.epochs=6",
        "resources={concurrent: 1, max_failures: 20}",
        "budget.trials=2",
    )
    for part in ("--set", setting)
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    """What the trials report when nobody disturbs them."""
    output = tmp_path_factory.mktemp("whole")
    sweep_to_its_end(output, "whole", *STUDY)
    return reported_curves(output / "whole")


def compare(drill: Drill, sweep: Path, whole: Curves) -> None:
    """Count what a sweep that was disturbed has lost against one that was not."""
    curves = reported_curves(sweep)
    drill.lost("metrics", sum(curves.get(key) != metrics for key, metrics in whole.items()), of=len(whole))
    drill.lost("metrics too many", len(curves.keys() - whole.keys()), of=len(whole))
    records = records_of(sweep)
    drill.lost("trials", sum(records[n]["state"] != "COMPLETE" for n in (0, 1)) + len(records) - 2, of=2)
    rubbish = [*sweep.glob("trials/*/checkpoints/.*"), *sweep.glob(".*.tmp")]
    drill.lost("files left over", len(rubbish), of=sum(1 for _ in sweep.rglob("*")))


def test_too_little_disk_is_told_before_the_start(drill: Drill, mount_small_disk: Mount, tmp_path: Path) -> None:
    """6. Too little disk, told before the start."""
    disk = mount_small_disk(tmp_path / "disk", 16 * 1024)
    refused = tune_forked("sweep", QUICKSTART, "--output", disk, "--dry-run", cwd=tmp_path, code=2).stderr
    assert "MiB for checkpoints of 1.9MiB, but" in refused and "are free; free some space" in refused
    drill.lost("lines that say so", len(refused.strip().splitlines()) - 1, of=1)


@pytest.mark.slow
def test_a_disk_that_is_full_at_a_checkpoint(
    drill: Drill, mount_small_disk: Mount, tmp_path: Path, whole: Curves
) -> None:
    """6. Disk full at a checkpoint of a trial, until there is more of it."""
    here = mount_small_disk(tmp_path / "full" / "trials" / "0001", 3 * 1024)  # for one checkpoint, and not for two
    process = start_sweep(tmp_path, "full", *STUDY)
    with ending_all(process):
        assert wait_for(process, lambda: "no space is left for a checkpoint" in log_of(here))
        resize(here, 64 * 1024)
        assert process.wait(timeout=500) == 0
    compare(drill, tmp_path / "full", whole)


@pytest.mark.slow
def test_a_disk_that_fills_up(drill: Drill, mount_small_disk: Mount, tmp_path: Path, whole: Curves) -> None:
    """6. Disk nearly full under a whole sweep, which ends before and goes on after."""
    disk = mount_small_disk(tmp_path / "disk", 256 * 1024)
    process = start_sweep(disk, "full", *STUDY)
    with ending_all(process):
        assert wait_for(process, lambda: any(disk.glob("full/trials/0000/checkpoints/update-*")))
        filler = fill(disk, but=8 * 2**20)
        assert process.wait(timeout=500) == 1
    printed = (disk / "full.out").read_text(encoding="utf-8")
    assert f"are free in {disk / 'full'}" in printed and "go on with: kobert-tune" in printed
    assert "Traceback" not in printed
    assert {record["state"] for record in records_of(disk / "full").values()} <= {"INTERRUPTED", "COMPLETE"}
    filler.unlink()
    sweep_to_its_end(disk, "full", *STUDY, "--resume")
    compare(drill, disk / "full", whole)


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_journal(
    drill: Drill, mount_small_disk: Mount, tmp_path: Path, whole: Curves
) -> None:
    """6. Disk full at the Optuna journal, in the middle of a record."""
    journal = tmp_path / "full" / JOURNAL
    journal.parent.mkdir()
    journal.touch()
    small = mount_small_disk(tmp_path / "small", 4) / JOURNAL
    small.touch()
    subprocess.run(["mount", "--bind", str(small), str(journal)], check=True)
    try:
        printed = sweep_to_its_end(tmp_path, "full", *STUDY, code=2)
    finally:
        subprocess.run(["umount", str(journal)], check=True)
    assert "no space is left; free some, and go on with `--resume`" in printed
    content = small.read_bytes()
    drill.lost("torn records", int(not content.endswith(b"\n")), of=content.count(b"\n"))
    shutil.copyfile(small, journal)
    sweep_to_its_end(tmp_path, "full", *STUDY, "--resume")
    compare(drill, tmp_path / "full", whole)
    storage = optuna.storages.JournalStorage(SweepJournal(journal))
    told = optuna.load_study(study_name="full", storage=storage).trials
    drill.lost("trials in the journal", sum(not trial.state.is_finished() for trial in told) + len(told) - 2, of=2)


def log_of(trial: Path) -> str:
    log = trial / "log.txt"
    return log.read_text(encoding="utf-8") if log.is_file() else ""
