"""The names that sweeps may have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kobert_core.errors import InputError
from tuning.sweep_dir.layout import CACHE, FRAMES, PLANS, PROFILES, SWEEPS

if TYPE_CHECKING:
    from tuning.study import StudyConfig

MAX_NAME_BYTES = 200
"""File systems allow 255; names of temporary files are longer."""


def sweep_name(name: str, *, where: str = "--name") -> str:
    """Check that a name can be that of a sweep's folder.

    Raises:
        InputError: it could lead out of the output folder.
    """
    from tuning.tracking.uris import ARTIFACTS, STORE_FILE

    names_in_use = (CACHE, PROFILES, PLANS, FRAMES, ARTIFACTS, STORE_FILE)  # in the folder of all sweeps
    plain = name == Path(name).name and not name.startswith((".", "-")) and name.isprintable()
    if not name or not plain or len(name.encode()) > MAX_NAME_BYTES or name in names_in_use:
        raise InputError(f"`{name}` cannot be the name of a sweep", where=where, fix="use a plain name such as nsmc-2")
    return name


def sweep_folder(study: StudyConfig, name: str | None, output: Path | None, *, where: str = "--name") -> Path:
    """The folder of a study's sweep: with this name instead of the study's, and in this folder of all sweeps.

    Raises:
        InputError: as from `sweep_name`; `where` is named then.
    """
    return ((output or study.sweeps_folder or SWEEPS) / sweep_name(name or study.name, where=where)).resolve()


def sweep_address(study: StudyConfig, folder: Path) -> str | None:
    """The address in an object store of a sweep with this working folder; None where the folder is all there is."""
    return None if study.home is None else f"{study.home}/{folder.name}"
