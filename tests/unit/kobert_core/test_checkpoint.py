"""A checkpoint is either whole or recognised as not."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import AdamW

from kobert_core.checkpoint import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    CheckpointWriter,
    checkpoint_folder,
    get_rng_state,
    load_state,
    load_weights,
    newest_checkpoint,
    remove_unfinished,
    set_rng_state,
)
from kobert_core.errors import InputError
from kobert_core.io.checksums import SUMS, write_sums
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.disks import Mount, fill


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = checkpoint_folder(tmp_path, 7)
    save_checkpoint(folder, nn.Linear(4, 3), {"step": 7, "generators": [get_rng_state()]})
    return folder


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    folder = checkpoint_folder(tmp_path, 12)
    save_checkpoint(folder, model, {"step": 12, "generators": [get_rng_state()]})
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in load_weights(folder).items())
    assert load_state(folder)["step"] == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


def test_random_generators_go_on_where_they_were(folder: Path) -> None:
    draw = lambda: (random.random(), float(np.random.normal()), float(torch.randn(1)))  # noqa: E731
    np.random.normal()  # leaves a second normal number waiting inside the generator
    state = get_rng_state()
    expected = draw()
    draw()
    set_rng_state(state)
    assert draw() == expected


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_one_flipped_bit_is_noticed(folder: Path, name: str, place: float) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="corrupt"):
        load_weights(folder) if name == WEIGHTS else load_state(folder)
    assert newest_checkpoint(folder.parent) is None


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE, SUMS])
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert newest_checkpoint(folder.parent) is None


def test_the_newest_whole_checkpoint_is_taken(folder: Path) -> None:
    later = checkpoint_folder(folder.parent, 10)
    save_checkpoint(later, nn.Linear(4, 3), {"step": 10})
    assert newest_checkpoint(folder.parent) == later
    (later / WEIGHTS).write_bytes(b"torn")
    assert newest_checkpoint(folder.parent) == folder


def test_a_pickle_that_would_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"step": Hostile()}, folder / STATE)
    write_sums(folder)
    with pytest.raises(InputError, match="holds more than tensors"):
        load_state(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kib", [0, 4, 20, 40, 60, 90, 104])
def test_a_full_disk_leaves_the_checkpoints_that_are_there(mount_small_disk: Mount, tmp_path: Path, kib: int) -> None:
    """Weights and moments take 36 and 72 KiB, state and sums 4 each: there is too little for one of them."""
    checkpoints = mount_small_disk(tmp_path / "disk", 1024)
    model = nn.Linear(90, 90)
    folders = [checkpoint_folder(checkpoints, step) for step in (7, 9)]
    optimizer = AdamW(model.parameters())
    model(torch.ones(90)).sum().backward()
    optimizer.step()
    save_checkpoint(folders[0], model, {"step": 7}, optimizer)
    filler = fill(checkpoints, but=kib * 1024)
    for folder in folders:
        with pytest.raises(OSError, match="no space is left for a checkpoint"):
            save_checkpoint(folder, model, {"step": 9}, optimizer)
    assert {path.name for path in checkpoints.iterdir()} == {folders[0].name, filler.name}
    assert newest_checkpoint(checkpoints) == folders[0] and load_state(folders[0])["step"] == 7
    filler.unlink()
    save_checkpoint(folders[1], model, {"step": 9}, optimizer)
    assert newest_checkpoint(checkpoints) == folders[1]


def test_what_a_kill_left_of_a_checkpoint_is_removed_also_in_mid_file(folder: Path) -> None:
    whole = sorted(folder.parent.rglob("*"))
    for torn in (folder.parent / ".update-00000046.a.tmp", folder.parent / "fold-2" / ".update-00000047.b.tmp"):
        torn.mkdir(parents=True)
        (torn / WEIGHTS).touch()
        (torn / ".tmpynTJ1M").touch()  # safetensors was writing it
    (folder.parent / ".update-00000048.c").touch()
    remove_unfinished(folder.parent)
    assert sorted(folder.parent.rglob("*")) == sorted([*whole, folder.parent / "fold-2"])


def test_tensors_are_written_while_the_block_runs(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    with CheckpointWriter() as writer, writer.new(checkpoint_folder(tmp_path, 7), model, AdamW(model.parameters())):
        deadline = time.monotonic() + 30
        while {file.name for file in tmp_path.glob(".*/*")} != {WEIGHTS, OPTIMIZER}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert newest_checkpoint(tmp_path) is None, "it is a checkpoint once the block has ended"
    assert newest_checkpoint(tmp_path) is not None


def test_where_the_block_fails_there_is_no_checkpoint(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    writer = CheckpointWriter()
    with (
        pytest.raises(ArithmeticError),
        writer,
        writer.new(checkpoint_folder(tmp_path, 7), model, AdamW(model.parameters())),
    ):
        raise ArithmeticError
    assert not list(tmp_path.iterdir())


def test_an_error_that_is_no_lack_of_space_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="state_dict"):
        save_checkpoint(checkpoint_folder(tmp_path, 7), nn.Linear(4, 3), {}, "no optimizer")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
