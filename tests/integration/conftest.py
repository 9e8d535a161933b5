"""What tests of whole sweeps and of worker groups share."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT, environment


@pytest.fixture(scope="session")
def readme_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the shell commands of the README were run in their order."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "search_spaces").symlink_to(ROOT / "search_spaces")
    (folder / "kobert-tune").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tuning "$@"\n')
    (folder / "kobert-tune").chmod(0o755)
    path = f"{folder}:{environment()['PATH']}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL):
        done = subprocess.run(
            ["sh", "-e", "-c", block],
            cwd=folder,
            env=environment() | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, block + done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module", params=["in-process", pytest.param("stock", marks=pytest.mark.slow)])
def trainer(request: pytest.FixtureRequest) -> Iterator[None]:
    """Worker groups run on the trainer that is expected of a supported Ray, and then on that for any other."""
    from tuning.workers import group_trainer
    from tuning.workers.in_process_trainer import InProcessTorchTrainer

    if request.param == "in-process":
        assert group_trainer.trainer_class() is InProcessTorchTrainer
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_trainer, "trainer_class", lambda: group_trainer.StockTorchTrainer)
        yield
