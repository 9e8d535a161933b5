"""What the environment tells Python, and what becomes of it."""

from __future__ import annotations

import subprocess
import sys

from tests.fixtures.commands import ROOT, TUNE, environment

SHOW = """
import os, warnings
from tuning.cli.interpreter import settle_interpreter
settle_interpreter()
warnings.warn("a library's", DeprecationWarning)
warnings.warn("a user's")
print("PYTHONWARNINGS" in os.environ)
"""


def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", SHOW]
    return subprocess.run(command, cwd=ROOT, env=environment() | variables, capture_output=True, text=True)


def test_warnings_are_no_errors() -> None:
    for done in (run(PYTHONWARNINGS="error"), run("-W", "error"), run(PYTHONWARNINGS="error::DeprecationWarning")):
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("False"), "the processes that follow are not told so either"
        assert "UserWarning: a user's" in done.stderr and "a library's" not in done.stderr


def test_what_a_user_asked_for_else_stays() -> None:
    assert run(PYTHONWARNINGS="ignore").stdout.startswith("True")


def test_docstrings_are_needed() -> None:
    done = subprocess.run(
        [*TUNE, "list"], cwd=ROOT, env=environment() | {"PYTHONOPTIMIZE": "2"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: PYTHONOPTIMIZE: Python drops the docstrings"), done.stderr
    assert len(done.stderr.splitlines()) == 1
