"""A new output folder with an MLflow store for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures.tracking import open_tracker


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new sqlite store; making one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("store")
    tracker = open_tracker(folder, experiment="other")
    assert tracker.close(60) == 0
    return folder / "mlflow.db"


@pytest.fixture
def output(tmp_path: Path, empty_store: Path) -> Path:
    """An output folder with a store in it."""
    folder = tmp_path / "출력 #1 100%"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder
