"""Arrays are built once, kept whole or not at all, and mapped by every process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kobert_core.data.cache import cached_arrays


def test_arrays_are_built_once_and_mapped_after(tmp_path: Path) -> None:
    built = []

    def build() -> dict[str, np.ndarray]:
        built.append(1)
        return {"ids": np.arange(10)}

    for _ in range(3):
        arrays = cached_arrays(tmp_path, {"file": "a"}, build)
        assert arrays["ids"].tolist() == list(range(10))
    assert isinstance(arrays["ids"], np.memmap) and not arrays["ids"].flags.writeable
    assert len(built) == 1
    cached_arrays(tmp_path, {"file": "b"}, build)
    assert len(built) == 2


def test_a_torn_entry_is_built_anew(tmp_path: Path) -> None:
    def build() -> dict[str, np.ndarray]:
        return {"ids": np.arange(10)}

    cached_arrays(tmp_path, {"file": "a"}, build)
    (file,) = tmp_path.glob("*/ids.npy")
    file.write_bytes(b"torn")
    assert cached_arrays(tmp_path, {"file": "a"}, build)["ids"].tolist() == list(range(10))


def test_an_empty_array_is_kept_too(tmp_path: Path) -> None:
    for _ in range(2):
        arrays = cached_arrays(tmp_path, {"file": "a"}, lambda: {"none": np.zeros(0, dtype=np.int64)})
        assert arrays["none"].shape == (0,)


def test_parts_are_joined_with_and_without_a_folder(tmp_path: Path) -> None:
    def build() -> Iterator[dict[str, np.ndarray]]:
        for number in range(3):
            yield {"ids": np.full(number, number, dtype=np.int32), "spans": np.full((1, 2), number)}

    for folder in (None, tmp_path):
        arrays = cached_arrays(folder, {"file": "a"}, build)
        assert arrays["ids"].tolist() == [1, 2, 2] and arrays["ids"].dtype == np.int32
        assert arrays["spans"].tolist() == [[0, 0], [1, 1], [2, 2]]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def build() -> Iterator[dict[str, np.ndarray]]:
        yield {"ids": np.arange(3)}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cached_arrays(tmp_path, {"file": "a"}, build)
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_build_at_once_the_first_one_counts(tmp_path: Path) -> None:
    key = {"file": "a"}

    def build() -> dict[str, np.ndarray]:
        cached_arrays(tmp_path, key, lambda: {"ids": np.arange(3)})
        return {"ids": np.arange(9)}

    assert cached_arrays(tmp_path, key, build)["ids"].tolist() == [0, 1, 2]


def test_an_altered_entry_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached_arrays(tmp_path, {"file": "a"}, lambda: {"ids": np.arange(3)})
    (key,) = tmp_path.glob("*/key.json")
    key.write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert cached_arrays(tmp_path, {"file": "a"}, lambda: {"ids": np.arange(4)})["ids"].tolist() == [0, 1, 2, 3]
    assert "built anew" in caplog.text and str(key) in caplog.text
