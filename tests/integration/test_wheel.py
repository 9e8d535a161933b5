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
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)  # what is built leaves its traces
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module", params=["pipx", "uv"])
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the command, in an environment that has what the wheel asks for, and nothing else."""
    home, constraints = tmp_path_factory.mktemp(request.param), ROOT / "constraints.txt"
    folders = {f"PIPX_{name}": str(home / name.lower()) for name in ("HOME", "BIN_DIR", "MAN_DIR", "COMPLETION_DIR")}
    folders |= {"UV_TOOL_DIR": str(home / "home" / "venvs"), "UV_TOOL_BIN_DIR": str(home / "bin_dir")}
    if links := os.environ.get("PIP_FIND_LINKS"):
        folders["UV_FIND_LINKS"] = links
    how = {
        "pipx": ["pipx", "install", "--python", sys.executable, f"--pip-args=--constraint {constraints}"],
        "uv": ["uv", "tool", "install", "--quiet", "--python", sys.executable, "--constraints", constraints],
    }[request.param]
    commands = Path(sys.executable).parent
    path = f"{commands}:{os.environ['PATH']}"
    done = subprocess.run(
        [commands / how[0], *map(str, how[1:]), str(wheel)],
        env=os.environ | folders | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "bin_dir"


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
    run(installed, "kobert-tune", "evaluate", "best", "sample/test.tsv", cwd=tmp_path)
    run(installed, "kobert-tune", "serve", "--help", cwd=tmp_path)
    assert json.loads(run(installed, "kobert-tune", "schema", cwd=tmp_path)) == json.loads(schema.read_text())
