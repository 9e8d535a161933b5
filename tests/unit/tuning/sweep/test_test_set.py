"""The one time that a sweep reads its test file."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fixtures.commands import ROOT
from tuning.study import load_study
from tuning.sweep.test_set import read_test_set
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable


def test_ctrl_c_while_it_is_read_is_heard_at_once(tmp_path: Path) -> None:
    study = load_study(ROOT / "search_spaces" / "quickstart.yaml")
    table, begun, never = TrialTable(tmp_path, study.objective), threading.Event(), threading.Event()
    winner = TrialRecord(0, "COMPLETE", {}, progress=100, value=0.8, checkpoint="best")  # type: ignore[arg-type]
    table.put(winner)
    budget: Any = SimpleNamespace(interrupted=False)

    def run(*arguments: object, **more: object) -> None:
        """A group that takes longer than anybody waits."""
        begun.set()
        never.wait()

    threading.Thread(target=lambda: (begun.wait(), setattr(budget, "interrupted", True)), daemon=True).start()
    groups: Any = SimpleNamespace(run=run)
    assert read_test_set(study, table, groups, winner, [], budget=budget, say=pytest.fail) == {}
    assert begun.is_set()
    never.set()
