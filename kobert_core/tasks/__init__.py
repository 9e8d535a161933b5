"""Tasks: one a file, each a subclass of `Task` in base.py."""

from __future__ import annotations

from typing import Any

from kobert_core.tasks.base import Task
from kobert_core.tasks.korquad import Korquad
from kobert_core.tasks.nsmc import Nsmc

TASKS: dict[str, type[Task[Any]]] = {Nsmc.name: Nsmc, Korquad.name: Korquad}
