"""Data sets of HuggingFace's `datasets`: folders that `save_to_disk` wrote, which are read without that package, and
what `load_dataset` loads."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kobert_core.data.arrow_tables import ROWS_AT_ONCE, Records, leaves, rows_of
from kobert_core.errors import InputError

if TYPE_CHECKING:
    import pyarrow

EXTRA = "pip install 'kobert-tuning[datasets]'"


class Dataset(NamedTuple):
    """One split."""

    table: pyarrow.Table
    features: dict[str, Any]
    """What `datasets` knows of the columns, as it writes it down."""

    def read(self, wanted: Collection[str]) -> tuple[list[str], Records]:
        """Columns and records; a value of a `ClassLabel` is the name of its class."""
        features = {name: self._feature(path) for name, path in leaves(self.table.schema).items()}
        named = {name: _namer(feature) for name, feature in features.items() if "ClassLabel" in str(feature)}
        return rows_of(self.table.schema, self.table.to_batches(max_chunksize=ROWS_AT_ONCE), wanted, named)

    def _feature(self, path: tuple[str, ...]) -> Any:
        feature: Any = self.features
        for name in path:
            feature = feature.get(name, {}) if isinstance(feature, dict) else {}
        return feature

    def digest(self) -> str:
        """The SHA-256 of names, features and values, whatever files they are in."""
        import pyarrow

        sha = hashlib.sha256(json.dumps([self.table.schema.names, self.features], sort_keys=True).encode())
        for start in range(0, len(self.table), ROWS_AT_ONCE):
            rows = self.table.slice(start, ROWS_AT_ONCE).combine_chunks().replace_schema_metadata(None)
            sink = pyarrow.BufferOutputStream()
            with pyarrow.ipc.new_stream(sink, rows.schema) as stream:
                stream.write_table(rows)
            sha.update(sink.getvalue())
        return sha.hexdigest()


def saved_dataset(folder: Path, split: str | None) -> Dataset:
    """A split of a folder that `save_to_disk` wrote; of one without splits `split` is None.

    Raises:
        InputError: the folder is none, or has no such split.
    """
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        with _damaged(folder):
            names = json.loads(splits.read_text(encoding="utf-8"))["splits"]
        folder /= chosen_split(names, split, folder)
    elif split is not None:
        raise InputError("has no splits", where=folder, fix=f"leave out `:{split}`")
    if not (folder / "state.json").is_file():
        what = "is a folder, and none that `datasets.save_to_disk` wrote"
        raise InputError(what, where=folder, fix=f"give a file, or a pattern such as {folder.name}/*.tsv")
    with _damaged(folder):
        import pyarrow

        state, info = (json.loads((folder / name).read_text("utf-8")) for name in ("state.json", "dataset_info.json"))
        files = [pyarrow.memory_map(str(folder / each["filename"])) for each in state["_data_files"]]
        table = pyarrow.concat_tables(pyarrow.ipc.open_stream(file).read_all() for file in files)
        return Dataset(table, info["features"])


@cache
def hub_dataset(name: str, within: tuple[str, ...]) -> Dataset:
    """What `load_dataset` loads, once per process: a data set of the hub, or a local folder of CSV, Parquet and so on.

    Args:
        name: Its name, or the folder.
        within: Configuration and split; or one of them alone, where the other is the only one.

    Raises:
        InputError: `datasets` is not installed, there is no such data set, or it has no such split.
    """
    where = ":".join((f"hf://{name}", *within))
    if importlib.util.find_spec("datasets") is None:
        raise InputError("the package `datasets` is not installed", where=where, fix=EXTRA)
    if len(within) > 2:
        raise InputError("has too many colons", where=where, fix="write hf://name:config:split")
    import datasets

    datasets.disable_progress_bars()
    try:
        config, split = within if len(within) == 2 else (None, *within) if within else (None, None)
        if len(within) == 1 and split in datasets.get_dataset_config_names(name):
            config, split = split, None
        loaded = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # of all kinds: no network, no such name, files that cannot be read
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the data set cannot be loaded ({first})", where=where) from error
    found = loaded if split else loaded[chosen_split(list(loaded), None, where)]
    return Dataset(found.data.table, found.features.to_dict())


def chosen_split(names: list[str], split: str | None, where: object) -> str:
    """The split of this name, or the only one.

    Raises:
        InputError: there is none of this name, or there are several and no name.
    """
    if split is None and len(names) == 1:
        return names[0]
    if split not in names:
        what = f"has no split {split!r}" if split else "has several splits"
        raise InputError(what, where=where, fix=f"take {' or '.join(f':{name}' for name in names)}")
    return split


@cache
def hub_digest(name: str, within: tuple[str, ...]) -> str:
    """The digest of `hub_dataset`."""
    return hub_dataset(name, within).digest()


def saved_digest(folder: Path, split: str | None) -> str:
    """The digest of `saved_dataset`, computed once per process while its files keep their sizes and times."""
    statuses = [(str(file), file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    return _saved_digest(folder, split, tuple((name, each.st_size, each.st_mtime_ns) for name, each in statuses))


@cache
def _saved_digest(folder: Path, split: str | None, files: tuple[tuple[str, int, int], ...]) -> str:
    return saved_dataset(folder, split).digest()


def _namer(feature: Any) -> Callable[[Any], object]:
    """What makes names of the numbers that a feature of `ClassLabel`, or one that holds some, has for them."""
    if isinstance(feature, list):
        feature = {"_type": "List", "feature": feature[0]}
    if feature.get("_type") == "ClassLabel":
        names = feature["names"]
        return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    if isinstance(inner := feature.get("feature"), dict | list):
        named = _namer(inner)
        return lambda value: [named(each) for each in value] if isinstance(value, list) else named(value)
    if "_type" in feature:
        return lambda value: value
    fields = {name: _namer(each) for name, each in feature.items()}
    return lambda value: value and {name: fields[name](each) for name, each in value.items()}


@contextmanager
def _damaged(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # for a damaged file pyarrow raises all kinds of exceptions, not only its own
        fix = "write it again with `save_to_disk`"
        raise InputError(f"the data set in this folder is damaged ({error})", where=folder, fix=fix) from error
