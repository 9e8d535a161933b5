"""The study of a sweep."""

from __future__ import annotations

from pathlib import Path

from kobert_core.errors import InputError
from tuning.study import StudyConfig, load_dumped_study
from tuning.sweep_dir.layout import STUDY


def load_sweep_study(folder: Path) -> StudyConfig:
    """The study that a sweep was started with, from the sweep's folder.

    Raises:
        InputError: there is none, or the file was altered.
    """
    path = folder / STUDY
    if not path.is_file():
        raise InputError("this is no folder of a sweep", where=folder, fix="see `kobert-tune list`")
    return load_dumped_study(path)
