"""Arrays that are built once, kept under the hash of all that they depend on, and memory-mapped by every process."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from kobert_core.io.atomic import atomic_folder, atomic_write_json
from kobert_core.io.checksums import check_sums, write_sums

_log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def cached_arrays(
    cache: Path | None, key: Mapping[str, object], build: Callable[[], Arrays | Iterator[Arrays]]
) -> Arrays:
    """The arrays of `build`, from `cache` if they are there, else built and kept there.

    Args:
        cache: Folder of all entries; None builds in memory.
        key: All that the arrays depend on: hashes of files, lengths, a version of the code. JSON values.
        build: Gives the arrays, or parts of them, which are written one by one: they are joined at their first axis.

    Returns:
        Read-only memory maps of the files, so that the processes of one machine share one copy.
    """
    if cache is None:
        built = build()
        return built if isinstance(built, dict) else joined(built)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    entry = cache / digest[:32]
    try:
        return _open(entry)
    except FileNotFoundError:
        pass
    except ValueError as error:
        _log.warning("what is cached is damaged, and is built anew: %s", error)
        shutil.rmtree(entry, ignore_errors=True)
    try:
        with atomic_folder(entry) as folder:
            built = build()
            with ExitStack() as files:
                writers: dict[str, NpyWriter] = {}
                for part in [built] if isinstance(built, dict) else built:
                    for name, array in part.items():
                        if name not in writers:
                            writers[name] = files.enter_context(NpyWriter(folder / f"{name}.npy"))
                        writers[name].append(array)
            atomic_write_json(folder / "key.json", key)
            write_sums(folder)
    except FileExistsError:
        pass  # another process was first, with the same arrays
    return _open(entry)


class NpyWriter:
    """A `.npy` file that grows at its first axis."""

    def __init__(self, path: Path) -> None:
        self._path, self._length = path, 0

    def __enter__(self) -> NpyWriter:
        self._file = open(self._path, "wb")
        return self

    def append(self, array: np.ndarray) -> None:
        """Add rows of the same dtype and shape."""
        if not self._file.tell():
            self._like = array[:0]
            self._write_header()
        self._length += len(array)
        self._file.write(np.ascontiguousarray(array).data)

    def __exit__(self, *_: object) -> None:
        self._file.seek(0)
        self._write_header()  # numpy leaves room for any length in it
        self._file.close()

    def _write_header(self) -> None:
        header = np.lib.format.header_data_from_array_1_0(self._like)
        np.lib.format.write_array_header_1_0(self._file, header | {"shape": (self._length, *self._like.shape[1:])})


def joined(parts: Iterable[Arrays]) -> Arrays:
    """The arrays of all parts, joined at their first axis."""
    parts = list(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _open(entry: Path) -> Arrays:
    if not (entry / "key.json").is_file():
        raise FileNotFoundError(entry)
    check_sums(entry)
    return {file.stem: np.load(file, mmap_mode="r") for file in sorted(entry.glob("*.npy"))}
