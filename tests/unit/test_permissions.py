"""Whatever is written can be read by whom the umask lets read: teams share sweeps and models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from kobert_core.checkpoint import link_checkpoint, load_weights
from kobert_core.data.cache import cached_arrays
from kobert_core.io.atomic import atomic_write_text
from kobert_core.pretrained import save_model_files, save_weights
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.tiny import tiny_config
from tuning.tracking.spool import Spool


@pytest.fixture(params=[0o002, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_umask_decides_who_may_read_what_is_written(umask: int, cache: Path, tmp_path: Path) -> None:
    here = tmp_path / "made"
    save_checkpoint(here / "checkpoint", nn.Linear(2, 2), {"step": 1})
    link_checkpoint(here / "checkpoint", here / "linked")
    save_model_files(here / "model", Nsmc(tiny_config(), cache=cache))
    save_weights(here / "model", Nsmc, load_weights(here / "checkpoint"))
    cached_arrays(here / "cache", {}, lambda: {"numbers": np.zeros(3)})
    atomic_write_text(here / "predictions.tsv", "id")
    Spool(here / "tracking.jsonl", sweep="one", experiment="one").close()
    modes = {str(path.relative_to(here)): path.stat().st_mode & 0o777 for path in here.rglob("*")}
    assert len([name for name in modes if name.endswith(".safetensors")]) == 3
    for name, mode in modes.items():
        assert mode == (0o777 if (here / name).is_dir() else 0o666) & ~umask, name
