"""Arrays that are built once, kept under the hash of all that they depend on, and memory-mapped by every process."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kobert_core.files import atomic_folder, atomic_write_json

Arrays = dict[str, np.ndarray]


def cached_arrays(cache: Path | None, key: Mapping[str, object], build: Callable[[], Arrays]) -> Arrays:
    """The arrays of `build`, from `cache` if they are there, else built and kept there.

    Args:
        cache: Folder of all entries; None builds in memory.
        key: All that the arrays depend on: hashes of files, lengths, a version of the code. JSON values.
        build: Gives the arrays.

    Returns:
        Read-only memory maps of the files, so that the processes of one machine share one copy.
    """
    if cache is None:
        return build()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    entry = cache / digest[:32]
    try:
        return _open(entry)
    except FileNotFoundError:
        pass
    except ValueError:
        shutil.rmtree(entry, ignore_errors=True)
    try:
        with atomic_folder(entry) as folder:
            for name, array in build().items():
                np.save(folder / f"{name}.npy", array)
            atomic_write_json(folder / "key.json", key)
    except FileExistsError:
        pass  # another process was first, with the same arrays
    return _open(entry)


def _open(entry: Path) -> Arrays:
    if not (entry / "key.json").is_file():
        raise FileNotFoundError(entry)
    return {file.stem: np.load(file, mmap_mode="r") for file in sorted(entry.glob("*.npy"))}
