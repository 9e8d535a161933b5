"""Everything that a run needs to go on bit for bit, in a folder that is either whole or not there.

model.safetensors   the weights
optimizer.pt        the optimizer's moments (in older checkpoints a part of state.pt)
state.pt            schedule, random generators, place in the data: plain values and tensors
SHA256SUMS          of all, in the format of `sha256sum --check`
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_folder, is_disk_full, permit
from kobert_core.io.checksums import SUMS, read_sums, sha256_file, write_sums

_log = logging.getLogger(__name__)

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.pt"
FOLDS = "folds.json"
"""In the folder of a run's checkpoints, where the run is one over folds: what it knows of them."""


def fold_folder(checkpoints: Path, fold: int) -> Path:
    """Where the checkpoints of a fold lie, counted from 0: the first one's are the run's own, which it keeps."""
    return checkpoints / f"fold-{fold + 1}" if fold else checkpoints


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return checkpoints / f"update-{step:08d}"


class CheckpointCopies(Protocol):
    """Copies of a run's checkpoints in a place that outlives its disk, made while the run goes on."""

    def add(self, folder: Path) -> None:
        """A checkpoint was written: copy it, in the order of these calls. Waits while too many wait for it."""
        ...

    def add_file(self, path: Path) -> None:
        """Copy a small file beside the checkpoints as it is now, in the order of these calls and those of `add`."""
        ...

    def keep(self, checkpoints: Path, names: set[str]) -> None:
        """Once all that was added before is copied, remove the copies of older checkpoints of this folder, the run's or
        that of a fold, but those of these names."""
        ...

    def keep_only(self, names: set[str]) -> None:
        """Likewise, all copies of the run's checkpoints but those of these names: newer ones and those of folds too."""
        ...


class CheckpointWriter:
    """Writes and removes the checkpoints of a run in threads, while the run goes on.

    Use it as a context manager: its end waits for what is under way.
    """

    def __init__(self, copies: CheckpointCopies | None = None) -> None:
        """`copies` hears of all that is written and removed."""
        self._copies = copies
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="checkpoint")
        self._removal: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown()
        if error == (None, None, None):
            self._wait_for_removal()

    @contextmanager
    def new(self, folder: Path, model: nn.Module, optimizer: Optimizer) -> Iterator[dict[str, Any]]:
        """Write a checkpoint aside, and rename it when the block ends well; one of the same step is replaced.

        The tensors are written while the block runs, which must leave weights and moments as they are, and gives back
        a dict for the rest of the state, which the block fills.

        Raises:
            OSError: it cannot be written. What was there before is there still, and nothing else.
        """
        self._wait_for_removal()  # or the disk would hold more than it must
        state: dict[str, Any] = {}
        try:
            with atomic_folder(folder) as temporary:
                weights, moments = on_cpu(model.state_dict()), on_cpu(optimizer.state_dict())
                writing = {
                    WEIGHTS: self._threads.submit(_write, save_tensors, weights, temporary / WEIGHTS),
                    OPTIMIZER: self._threads.submit(_write, _save, moments, temporary / OPTIMIZER),
                }
                try:
                    yield state
                finally:
                    wait(writing.values())
                _save(state, temporary / STATE)
                write_sums(temporary, known={name: written.result() for name, written in writing.items()})
                if folder.exists():
                    shutil.rmtree(folder)
        except Exception as error:
            if is_disk_full(error):
                raise OSError(errno.ENOSPC, "no space is left for a checkpoint", str(folder)) from error
            raise
        if self._copies is not None:
            self._copies.add(folder)

    def remove_others(self, checkpoints: Path, keep: set[str]) -> None:
        """Begin to remove a run's checkpoints, except those whose folders are named in `keep`."""
        self._wait_for_removal()
        self._removal = self._threads.submit(remove_checkpoints, checkpoints, keep)
        if self._copies is not None:
            self._copies.keep(checkpoints, keep)

    def _wait_for_removal(self) -> None:
        if self._removal is not None:
            self._removal.result()


def on_cpu(value: Any) -> Any:
    """Dicts and lists of tensors and plain values, with the tensors on the CPU; those that are there are not copied."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous()
    if isinstance(value, Mapping):
        return {name: on_cpu(each) for name, each in value.items()}
    return [on_cpu(each) for each in value] if isinstance(value, list) else value


def _write(save: Callable[[Any, Path], None], tensors: Any, path: Path) -> str:
    """Write a file through to the disk; its SHA-256."""
    save(tensors, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return sha256_file(path)


def _save(value: Any, path: Path) -> None:
    with open(path, "wb") as file:  # given a path, PyTorch does not say why it cannot write
        torch.save(value, file)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file that transformers loads, readable for whom the umask lets read: by itself, safetensors
    makes it for its owner alone."""
    from safetensors.torch import save_file

    save_file(dict(tensors), path, metadata={"format": "pt"})
    permit(path)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, on the CPU.

    Raises:
        InputError: the checkpoint is not whole, or was altered after it was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify_checkpoint(folder, only=WEIGHTS)
    try:
        return load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise InputError(f"this is not a file of safetensors ({error})", where=folder / WEIGHTS) from error


def load_state(folder: Path) -> dict[str, Any]:
    """The state beside the weights, with that of the optimizer as `optimizer`. Raises as `load_weights`."""
    verify_checkpoint(folder, only=STATE)
    state = _load(folder / STATE)
    if "optimizer" not in state:
        verify_checkpoint(folder, only=OPTIMIZER)
        state["optimizer"] = _load(folder / OPTIMIZER)
    return state


def _load(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError("holds more than tensors and plain values, and is not loaded", where=path) from error
    return content


def verify_checkpoint(folder: Path, *, only: str | None = None) -> None:
    """Hold the files of a checkpoint (or `only` one) against their SHA-256.

    Raises:
        InputError: a file is missing or is not what was written.
    """
    fix = "take another trial's or an earlier checkpoint"
    try:
        sums = read_sums(folder)
    except (OSError, ValueError) as error:
        raise InputError("no whole checkpoint is here", where=folder, fix=fix) from error
    found = {file.name for file in folder.iterdir()} - {SUMS}
    for name in (only,) if only else sorted({WEIGHTS, STATE, *sums, *found}):
        if not (folder / name).is_file():
            raise InputError("the file is missing from its checkpoint", where=folder / name, fix=fix)
        if sha256_file(folder / name) != sums.get(name):
            raise InputError(
                "the checkpoint is corrupt: its SHA-256 is not the one written", where=folder / name, fix=fix
            )


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The latest whole checkpoint in a run's folder; torn and altered ones are passed over."""
    for folder in sorted(checkpoints.glob("update-*"), reverse=True):
        try:
            verify_checkpoint(folder)
        except InputError as error:
            _log.warning("passed over: %s", error)
            continue
        return folder
    return None


def link_checkpoint(source: Path, folder: Path) -> None:
    """The same checkpoint in another place, which outlives the first: linked, or copied to another file system."""
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as temporary:
        for file in source.iterdir():
            try:
                os.link(file, temporary / file.name)
            except OSError:
                shutil.copyfile(file, temporary / file.name)


def adopt_checkpoint(source: Path, checkpoints: Path) -> None:
    """Make another run's checkpoint the only one of this run, which so goes on from there."""
    new = checkpoints / f".adopted-{source.name}"
    link_checkpoint(source, new)
    remove_checkpoints(checkpoints, keep=set())
    os.rename(new, checkpoints / source.name)


def remove_checkpoints(checkpoints: Path, keep: set[str]) -> None:
    """Remove a run's checkpoints but those whose folders are named in `keep`, those of its folds too, and what a kill
    left of one."""
    for folder in [each for name in ("update-*", ".update-*.tmp", "fold-*") for each in checkpoints.glob(name)]:
        if folder.name not in keep:
            shutil.rmtree(folder)


def remove_unfinished(checkpoints: Path) -> None:
    """Remove what a kill left of checkpoints that were being written, those of folds too."""
    for leftover in list(checkpoints.rglob(".*")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)  # safetensors writes a hidden file, which went with its folder


def get_rng_state() -> dict[str, Any]:
    """The state of every random generator of this process, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put every random generator of this process where `get_rng_state` saw it."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
