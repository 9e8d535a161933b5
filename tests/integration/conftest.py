"""One sweep, made by the README's own commands, for all tests that look at a sweep."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT, environment


@pytest.fixture(scope="session")
def readme_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the shell commands of the README were run in their order."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "search_spaces").symlink_to(ROOT / "search_spaces")
    (folder / "kobert-tune").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tuning "$@"\n')
    (folder / "kobert-tune").chmod(0o755)
    path = f"{folder}:{environment()['PATH']}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL):
        done = subprocess.run(
            ["sh", "-e", "-c", block],
            cwd=folder,
            env=environment() | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, block + done.stdout + done.stderr
    return folder
