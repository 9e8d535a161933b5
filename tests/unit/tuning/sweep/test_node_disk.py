"""What the nodes of a sweep in an object store need on their disks, and what is said where that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT
from tests.fixtures.disks import Mount
from tuning.storage.node import node_folder
from tuning.study import load_study
from tuning.sweep.node_disk import EACH_RUNNING, FILES_TWICE, DiskWatch, NodeDisk, disk_for, needs_of, problems_in

MIB = 2**20


def test_what_a_node_needs() -> None:
    study = load_study(ROOT / "search_spaces" / "quickstart.yaml")
    inputs, trial = needs_of(study, MIB)
    files = [file for source in study.sources.values() for file in source.files()]
    assert (inputs, trial) == (FILES_TWICE * sum(file.stat().st_size for file in files), EACH_RUNNING * MIB)


@pytest.mark.parametrize(
    ("free", "said"),
    [
        (26, None),
        (25, "its trials take up to 26.0MiB in /n, but 25.0MiB are free; let TMPDIR be on a larger disk"),
        (7, "a trial takes up to 8.0MiB in /n, but 7.0MiB are free; let TMPDIR be on a larger disk"),
    ],
)
def test_too_little_room_is_told(free: int, said: str | None) -> None:
    assert NodeDisk("/n", free * MIB, one=8 * MIB, all=26 * MIB).problem == said


def test_who_has_too_little_room_is_told_by_its_name() -> None:
    disks = {
        "10.0.0.1": NodeDisk("/n", 7 * MIB, one=8 * MIB, all=26 * MIB),
        "10.0.0.2": NodeDisk("/n", 26 * MIB, one=8 * MIB, all=26 * MIB),
        "10.0.0.3": RuntimeError("it is leaving"),
    }
    (line,) = problems_in(disks)
    assert line.startswith("node 10.0.0.1: a trial takes up to 8.0MiB")


def test_more_trials_at_once_are_held_against_the_disk_of_the_sweep(mount_small_disk: Mount, tmp_path: Path) -> None:
    study, said = load_study(ROOT / "search_spaces" / "quickstart.yaml", ["confirm=null"]), list[str]()
    folder = mount_small_disk(tmp_path / "disk", 128 * 1024)
    watch = DiskWatch(study, 4 * MIB, folder, running=1, say=said.append)
    watch({"n1"}, 2)
    assert not said
    watch({"n2"}, 8)
    (line,) = said
    assert re.match(r"warning: .*: the sweep takes up to \d.*MiB for checkpoints of 4.0MiB, but \d.*MiB are free", line)
    watch({"n3"}, 8)
    assert len(said) == 1, "no more at once than before"


def test_the_disk_is_that_of_tmpdir(mount_small_disk: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(mount_small_disk(tmp_path / "disk", 64 * 1024)))
    before = disk_for(2 * MIB, 6 * MIB, at_once=3)
    assert before.folder == str(node_folder()) and before.free <= 64 * MIB
    assert (before.one, before.all) == (8 * MIB, 20 * MIB)
    (node_folder() / "inputs").mkdir()
    (node_folder() / "inputs" / "train.tsv").write_bytes(b"x" * MIB)
    after = disk_for(2 * MIB, 6 * MIB, at_once=3)
    assert after.free == pytest.approx(before.free, abs=MIB // 4), "what is there already needs no room"
    assert disk_for(2**50, 2**50, at_once=0).problem is None, "nothing runs there"
