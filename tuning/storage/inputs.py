"""Data files and pretrained encoders, kept in a store under the hash of their content, and fetched once a node."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kobert_core.config import TrainConfig
from kobert_core.data.source import HUB, HubPart, Source
from kobert_core.errors import InputError
from kobert_core.io.checksums import file_digest
from kobert_core.io.remote import here_or_none
from tuning.storage.store import Damaged, Store


@dataclass(frozen=True)
class StoredInput:
    """A file or folder in the store."""

    digest: str
    """The SHA-256 of a file, or of the names and sums of a folder's files."""
    name: str
    """Its own, which says what kind of file it is."""
    is_folder: bool

    @property
    def key(self) -> str:
        """Its key in the store of all inputs."""
        return f"{self.digest}/{self.name}"

    @classmethod
    def of(cls, path: Path) -> StoredInput:
        """What a file or folder of this machine is in the store.

        Raises:
            InputError: it cannot be read.
        """
        if not path.is_dir():
            return cls(file_digest(path), path.name, is_folder=False)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = (f"{file_digest(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return cls(hashlib.sha256("".join(lines).encode()).hexdigest(), path.name, is_folder=True)


def put_input(store: Store, path: Path) -> StoredInput:
    """Put a file or folder into the store of all inputs, unless it is there.

    Raises:
        InputError: it cannot be read, or the store refuses it.
    """
    given = StoredInput.of(path)
    if given.is_folder:
        if store.folder_files(given.key) is None:
            store.upload_folder(path, given.key)
    elif given.key not in store.objects(given.digest):
        store.upload(path, given.key)
    return given


def place_of_input(given: StoredInput, folder: Path) -> Path:
    """Where it lies on a machine, below the folder of all inputs."""
    return folder / given.digest / given.name


def fetch_input(store: Store, given: StoredInput, folder: Path) -> Path:
    """Its path on this machine, below `folder`: the first process that asks for it fetches it, others wait.

    Raises:
        InputError: it is not there as it was put, or the store does not answer.
    """
    place = place_of_input(given, folder)
    with only_one(folder / f"{given.digest}.lock"):
        if place.exists():
            return place
        remove_leftovers(place)
        if given.is_folder:
            if not store.download_folder(given.key, place):
                what = "this folder is not in the object store any more"
                raise InputError(what, where=f"{store.address}/{given.key}")
        else:
            fetched = place.with_name(f".{place.name}.fetched.tmp")
            if store.download(given.key, fetched) != given.digest:
                what = "the object is damaged: its SHA-256 is not the one written"
                raise Damaged(what, where=f"{store.address}/{given.key}")
            os.rename(fetched, place)
    return place


def remove_leftovers(place: Path) -> None:
    """Remove what processes that were killed left while they fetched a file or folder; only one may be at it."""
    for leftover in place.parent.glob(f".*{glob.escape(place.name)}.*.tmp"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextmanager
def only_one(lock: Path, *, wait: bool = True) -> Iterator[None]:
    """One process of this machine at a time is in here.

    Raises:
        BlockingIOError: another one is, and this one does not `wait`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@dataclass(frozen=True)
class Inputs:
    """What of the files that a study names lies in the store, so that workers that share no disk find them."""

    store: Store
    paths: Mapping[str, StoredInput]
    """By the absolute path on the driver's machine; an encoder that has an address, by that."""
    entries: Mapping[str, tuple[tuple[str, str, str], ...]]
    """Of each entry of a source what it stands for: a prefix, a path, and what follows it."""

    @classmethod
    def put(cls, store: Store, sources: Iterable[Source], folders: Iterable[str]) -> Inputs:
        """Put files and folders into the store, and return where they are.

        Args:
            store: Of all inputs.
            sources: Of rows; data sets of the hub are left to the workers.
            folders: Of encoders and tokenizers, or their addresses; or names on the hub, which are left to the workers.

        Raises:
            InputError: something cannot be read, or the store refuses it.
        """
        entries = {entry: tuple(_parts(entry)) for source in sources for entry in source.entries}
        paths = {path: Path(path) for parts in entries.values() for _, path, _ in parts}
        paths |= {name: folder for name in folders if (folder := here_or_none(name)) is not None}
        return cls(store, {name: put_input(store, path) for name, path in paths.items()}, entries)

    def here(self, path: str, folder: Path) -> str:
        """The path on this machine of a path on the driver's; what is not in the store stays as it is."""
        given = self.paths.get(path)
        return path if given is None else str(fetch_input(self.store, given, folder))

    def source_here(self, source: Source, folder: Path) -> Source:
        """A source with paths of this machine."""
        found: list[str] = []
        for entry in source.entries:
            parts = self.entries.get(entry) or (("", entry, ""),)
            found += [f"{before}{self.here(path, folder)}{after}" for before, path, after in parts]
        return Source(tuple(found))

    def config_here(self, config: TrainConfig, folder: Path, *, model: bool = True) -> TrainConfig:
        """A config whose training and dev files are those of this machine, and its encoder and tokenizer, if `model`.
        The test file is none of a run's."""
        named = {name: getattr(config.data, name) for name in ("train", "dev")}
        data = {name: self.source_here(source, folder) for name, source in named.items() if source}
        update: dict[str, object] = {"data": config.data.model_copy(update=data)}
        if model:
            named = {name: getattr(config.model, name) for name in ("backbone", "tokenizer")}
            paths = {name: self.here(path, folder) for name, path in named.items() if path}
            update["model"] = config.model.model_copy(update=paths)
        if config.distill is not None:
            labels = self.source_here(config.distill.soft_labels, folder)
            update["distill"] = config.distill.model_copy(update={"soft_labels": labels})
        return config.model_copy(update=update)


def _parts(entry: str) -> Iterator[tuple[str, str, str]]:
    for part in Source((entry,)).parts():
        if not isinstance(part, HubPart):
            yield "", str(part.path), "" if part.within is None else f":{part.within}"
        elif Path(part.name).is_dir():
            yield HUB, part.name, "".join(f":{each}" for each in part.within)
