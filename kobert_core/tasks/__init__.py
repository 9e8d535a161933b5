"""Tasks: one a file, behind the protocol in base.py."""

from __future__ import annotations

from kobert_core.tasks.nsmc import Nsmc

TASKS = {Nsmc.name: Nsmc}
