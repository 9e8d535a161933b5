"""MLflow's models in an environment made from their requirements alone, where nothing of the checkout is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT, environment

ROWS = 100


@pytest.mark.slow
def test_a_fresh_environment_loads_and_serves_what_predict_says(shared: Path, tmp_path: Path) -> None:
    """The pinned packages install, and every task gives the answers of `kobert-tune predict` on real rows."""
    command = [sys.executable, ROOT / "benchmarks" / "mlflow_models.py", "--rows", ROWS]
    done = subprocess.run(
        [*map(str, command)],
        cwd=tmp_path,
        env=environment() | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    del found["environment_seconds"]
    assert found.keys() == {"nsmc", "pairs", "multilabel", "regression", "tokens", "korquad"}
    for task, told in found.items():
        assert told["rows"] == told["equal_when_loaded"] == told["equal_when_served"] == ROWS, task
