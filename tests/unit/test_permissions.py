"""Whatever is written can be read by whom the umask lets read: teams share sweeps and models."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="elsewhere a umask is read by setting it")
def test_threads_that_write_at_once_leave_the_umask_as_it_is(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the whole process: were it another one for a moment, a thread would make its files with that."""
    set_umask = os.umask

    def slowly(mask: int) -> int:
        before = set_umask(mask)
        time.sleep(0.02)
        return before

    monkeypatch.setattr(os, "umask", slowly)
    with ThreadPoolExecutor(8) as threads:
        writing = [threads.submit(atomic_write_text, tmp_path / str(number), "id") for number in range(16)]
        while not all(each.done() for each in writing):
            (tmp_path / "plain").touch()
            assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o666 & ~umask
            (tmp_path / "plain").unlink()
    assert set_umask(umask) == umask
