"""A checkpoint is either whole or recognised as not."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kobert_core.checkpoint import (
    STATE,
    WEIGHTS,
    checkpoint_folder,
    get_rng_state,
    load_state,
    load_weights,
    newest_checkpoint,
    save_checkpoint,
    set_rng_state,
)
from kobert_core.errors import InputError
from kobert_core.io.checksums import SUMS
from tests.fixtures.disks import Mount, fill


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = checkpoint_folder(tmp_path, 7)
    save_checkpoint(folder, nn.Linear(4, 3), {"update": 7, "generators": [get_rng_state()]})
    return folder


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    folder = checkpoint_folder(tmp_path, 12)
    save_checkpoint(folder, model, {"update": 12, "generators": [get_rng_state()]})
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in load_weights(folder).items())
    assert load_state(folder)["update"] == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


def test_random_generators_go_on_where_they_were(folder: Path) -> None:
    draw = lambda: (random.random(), float(np.random.normal()), float(torch.randn(1)))  # noqa: E731
    np.random.normal()  # leaves a second normal number waiting inside the generator
    state = get_rng_state()
    expected = draw()
    draw()
    set_rng_state(state)
    assert draw() == expected


@pytest.mark.parametrize("name", [WEIGHTS, STATE])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_one_flipped_bit_is_noticed(folder: Path, name: str, place: float) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="corrupt"):
        load_weights(folder) if name == WEIGHTS else load_state(folder)
    assert newest_checkpoint(folder.parent) is None


@pytest.mark.parametrize("name", [WEIGHTS, STATE, SUMS])
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert newest_checkpoint(folder.parent) is None


def test_the_newest_whole_checkpoint_is_taken(folder: Path) -> None:
    later = checkpoint_folder(folder.parent, 10)
    save_checkpoint(later, nn.Linear(4, 3), {"update": 10})
    assert newest_checkpoint(folder.parent) == later
    (later / WEIGHTS).write_bytes(b"torn")
    assert newest_checkpoint(folder.parent) == folder


def test_a_pickle_that_would_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"update": Hostile()}, folder / STATE)
    sums = (folder / SUMS).read_text().splitlines()[0]
    digest = hashlib.sha256((folder / STATE).read_bytes()).hexdigest()
    (folder / SUMS).write_text(f"{sums}\n{digest}  {STATE}\n")
    with pytest.raises(InputError, match="holds more than tensors"):
        load_state(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kib", [0, 4, 20, 40, 52, 60, 64])
def test_a_full_disk_leaves_the_checkpoints_that_are_there(mount_small_disk: Mount, tmp_path: Path, kib: int) -> None:
    """Weights and state take 36 KiB each, the sums 4: there is too little for the first, the second, the third."""
    checkpoints = mount_small_disk(tmp_path / "disk", 1024)
    model = nn.Linear(90, 90)
    folders = [checkpoint_folder(checkpoints, update) for update in (7, 9)]
    save_checkpoint(folders[0], model, {"update": 7, "moments": torch.zeros(90, 90)})
    filler = fill(checkpoints, but=kib * 1024)
    for folder in folders:
        with pytest.raises(OSError, match="no space is left for a checkpoint"):
            save_checkpoint(folder, model, {"update": 9, "moments": torch.ones(90, 90)})
    assert {path.name for path in checkpoints.iterdir()} == {folders[0].name, filler.name}
    assert newest_checkpoint(checkpoints) == folders[0] and load_state(folders[0])["update"] == 7
    filler.unlink()
    save_checkpoint(folders[1], model, {"update": 9})
    assert newest_checkpoint(checkpoints) == folders[1]


def test_an_error_that_is_no_lack_of_space_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="state_dict"):
        save_checkpoint(checkpoint_folder(tmp_path, 7), None, {})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
