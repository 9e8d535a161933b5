"""What tests of whole sweeps and of worker groups share."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT, tune_forked
from tests.fixtures.pages import page


@pytest.fixture(scope="session")
def readme_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the commands of `docs/first-ten-minutes.md` were run in their order."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "search_spaces").symlink_to(ROOT / "search_spaces")
    for line in "".join(page("docs/first-ten-minutes.md").code("sh")).splitlines():
        program, *words = shlex.split(line)
        assert program == "kobert-tune", line
        tune_forked(*words, cwd=folder)
    return folder


@pytest.fixture
def reader_work(readme_work: Path, tmp_path: Path) -> Path:
    """A copy of it to work in: the sweep `sweeps/first`, its model `best`, and the sample's `test.tsv`."""
    for name in ("sweeps", "best"):
        shutil.copytree(readme_work / name, tmp_path / name, symlinks=True)
    (tmp_path / "search_spaces").symlink_to(ROOT / "search_spaces")
    shutil.copyfile(ROOT / "search_spaces" / "sample" / "test.tsv", tmp_path / "test.tsv")
    return tmp_path


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
