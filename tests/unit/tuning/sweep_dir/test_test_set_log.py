"""Who read the test file: a line of the record is whole, torn or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from kobert_core.errors import InputError
from tuning.sweep_dir.layout import TEST_SET_LOG
from tuning.sweep_dir.test_set_log import read_log, record_reading, times_read


def read(folder: Path, by: str) -> int:
    before = times_read(folder, "ab" * 32)
    record_reading(folder, file=Path("test.tsv"), sha256="ab" * 32, by=by, metrics={"accuracy": 0.5})
    return before


def test_readings_are_counted(tmp_path: Path) -> None:
    assert [read(tmp_path, "a"), read(tmp_path, "b"), read(tmp_path, "c")] == [0, 1, 2]
    assert [reading["by"] for reading in read_log(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("cut", [1, 2, 12, 60])
def test_a_torn_line_is_passed_over_and_stays_alone(tmp_path: Path, cut: int) -> None:
    read(tmp_path, "a"), read(tmp_path, "b")
    content = (tmp_path / TEST_SET_LOG).read_bytes()
    (tmp_path / TEST_SET_LOG).write_bytes(content[:-cut])
    whole = ["a", "b"] if cut == 1 else ["a"]
    assert [reading["by"] for reading in read_log(tmp_path)] == whole
    assert read(tmp_path, "c") == len(whole)
    assert [reading["by"] for reading in read_log(tmp_path)] == [*whole, "c"]


def test_a_damaged_line_is_not_passed_over(tmp_path: Path) -> None:
    read(tmp_path, "a"), read(tmp_path, "b")
    content = (tmp_path / TEST_SET_LOG).read_text()
    (tmp_path / TEST_SET_LOG).write_text(content.replace("abab", "abac", 1))
    with pytest.raises(InputError, match=r"test_readings\.jsonl:1: the record of a reading is damaged"):
        read(tmp_path, "c")
