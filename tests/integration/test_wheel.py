"""The wheel, in an environment that has nothing else, used from a folder that has nothing: what someone gets who types
`pipx install` or `uv tool install`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the environment's commands."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)  # what is built leaves its traces
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    commands = folder / "venv" / "bin"
    pip[0] = str(commands / "python")
    subprocess.run([*pip, "install", "--constraint", str(ROOT / "constraints.txt"), str(wheel)], check=True)
    return commands


def run(commands: Path, *words: object, cwd: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    path = f"{commands}:{kept['PATH']}"
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=kept | {"PATH": path}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_quickstart_runs_from_a_wheel_outside_of_the_repository(installed: Path, tmp_path: Path) -> None:
    run(installed, "kobert-tune", "init", "--example", "quickstart", cwd=tmp_path)
    first = (tmp_path / "quickstart.yaml").read_text(encoding="utf-8").splitlines()[0]
    schema = Path(first.removeprefix("# yaml-language-server: $schema=file://"))
    assert schema.is_file() and installed.parent in schema.parents, "what editors read is that of the environment"
    run(installed, "kobert-tune", "sweep", "quickstart.yaml", "--dry-run", cwd=tmp_path)
    told = run(installed, "kobert-tune", "sweep", "quickstart.yaml", "--trials", 2, "--json", cwd=tmp_path)
    assert json.loads(told.splitlines()[-1])["winner"] is not None
    assert (tmp_path / "sweeps" / "quickstart" / "report.html").is_file()
    run(installed, "kobert-tune", "export", "sweeps/quickstart", "--output", "best", cwd=tmp_path)
    run(installed, "python", "-m", "tuning", "evaluate", "best", "sample/test.tsv", cwd=tmp_path)
    assert json.loads(run(installed, "kobert-tune", "schema", cwd=tmp_path)) == json.loads(schema.read_text())
