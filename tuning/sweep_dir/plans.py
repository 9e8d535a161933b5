"""What a sweep was expected to take: written beside the sweeps before it begins, and taken along when it does."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kobert_core.io.atomic import atomic_write_json
from tuning.study import StudyConfig
from tuning.sweep_dir.layout import PLAN, PLANS


def write_plan(folder: Path, study: StudyConfig, plan: Mapping[str, Any]) -> None:
    """Keep the plan of a study for a sweep that is to have this folder."""
    path = _plan_of(folder, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, dict(plan))


def take_plan(folder: Path, study: StudyConfig) -> None:
    """Put the plan of a study, if there is one, into the folder of its sweep."""
    if (planned := _plan_of(folder, study)).is_file():
        shutil.copyfile(planned, folder / PLAN)


def plan_of(folder: Path) -> dict[str, Any] | None:
    """The plan of a sweep; None where it has none that can be read."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def _plan_of(folder: Path, study: StudyConfig) -> Path:
    digest = hashlib.sha256(json.dumps(study.resolved(), sort_keys=True).encode()).hexdigest()
    return folder.parent / PLANS / f"{digest[:16]}.json"
