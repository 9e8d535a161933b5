"""Paths in a study file that start from its folder, or from the current one, become absolute."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from kobert_core.config import DistillConfig
from kobert_core.data.source import Source
from kobert_core.tasks.spec import TaskSpec
from search_spaces.distributions import Space
from search_spaces.loader import RawStudy
from tuning.study.searchable_keys import kinds_of
from tuning.tracking.uris import escaped_path, experiment_of

FOLDERS = ("model.backbone", "model.tokenizer")
"""Keys whose values are folders, or names on the hub."""
ADDRESSES = (("search", "storage"), ("tracking", "uri"))
"""Keys whose values may be the address of a database in a file."""


def with_absolute_folders(raw: RawStudy) -> Space:
    """The space, where encoders and tokenizers that are folders have absolute paths; in conditions on them, too."""
    parameters = raw.space.to_dict()
    for name, content in parameters.items():
        start = raw.folder_of(f"parameters.{name}")
        for key in FOLDERS if "when" in content else ():
            if key in content["when"]:
                content["when"][key] = [_folder_or_name(value, start) for value in content["when"][key]]
        if name in FOLDERS and "values" in content:
            content["values"] = [_folder_or_name(value, start) for value in content["values"]]
        elif name in FOLDERS and "value" in content:
            content["value"] = _folder_or_name(content["value"], start)
    return Space.from_dict(parameters, where=raw.where)


def _folder_or_name(value: Any, start: Path) -> Any:
    """What looks like a folder or is one as an absolute path, anything else as it is: a name on the hub."""
    if not isinstance(value, str):
        return value
    path = os.path.abspath(start / value)
    return path if value.startswith(("./", "../", "/")) or os.path.isdir(path) else value


def make_absolute(raw: RawStudy, task: TaskSpec, values: dict[str, Any]) -> None:
    """Files of the data, encoders and tokenizers that are folders, the storage, SQLite's files of an address."""
    for section, model in (("data", task.Data), ("model", task.Model), ("distill", DistillConfig)):
        content: Any = values.get(section)
        for name, value in list(content.items()) if isinstance(content, dict) else ():
            if name not in model.model_fields:
                continue
            folder = raw.folder_of(f"{section}.{name}")
            if Source in kinds_of(model.model_fields[name].annotation):
                with contextlib.suppress(ValueError):  # what is none is told with all else that is wrong
                    content[name] = Source.of(value).starting_from(folder).as_json()
            elif f"{section}.{name}" in FOLDERS and isinstance(value, str):
                content[name] = _folder_or_name(value, folder)
    points = values["search"].get("points") if isinstance(values["search"], dict) else None
    if isinstance(points, list):
        values["search"]["points"] = [
            {
                name: _folder_or_name(value, raw.folder_of(f"search.points.{place}")) if name in FOLDERS else value
                for name, value in point.items()
            }
            if isinstance(point, dict)
            else point
            for place, point in enumerate(points)
        ]
    sweeps = values["search"].get("warm_start") if isinstance(values["search"], dict) else None
    if isinstance(sweeps, list):
        values["search"]["warm_start"] = [
            os.path.abspath(raw.folder_of(f"search.warm_start.{place}") / sweep)
            if isinstance(sweep, str) and "://" not in sweep and experiment_of(sweep) is None
            else sweep
            for place, sweep in enumerate(sweeps)
        ]
    storage = values.get("storage")
    if isinstance(storage, str) and "://" not in storage:
        values["storage"] = os.path.abspath(raw.folder_of("storage") / storage)
    for section, name in ADDRESSES:
        content = values[section]
        if isinstance(content, dict) and isinstance(address := content.get(name), str):
            content[name] = with_absolute_path(address, raw.folder_of(f"{section}.{name}"))


def with_absolute_path(address: str, folder: Path) -> str:
    """An address whose database is a file under a relative path, such as `sqlite:///runs.db`, with the absolute path
    that starts from a folder; every other address as it is."""
    match = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)([^?]+)(\?.*)?", address)
    if match is None:
        return address
    return f"{match[1]}{os.path.abspath(Path(escaped_path(folder)) / match[2])}{match[3] or ''}"
