"""What the first pages show is what happens: their commands, Python and study file are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.fixtures.pages import page
from tuning.cli.app import app
from tuning.study import load_study

FIRST = page("docs/first-ten-minutes.md")


def test_the_shell_commands_leave_what_they_promise(readme_work: Path) -> None:
    assert len((readme_work / "labels.tsv").read_text(encoding="utf-8").splitlines()) == 161
    shown = {path.name for path in (readme_work / "sweeps" / "first").iterdir()}
    for name in re.findall(
        r"`([\w./]+)`",
        page("docs/sweep-folder.md").text.split("`sweeps/NAME/` holds")[1].split("`sweeps/mlflow.db`")[0],
    ):
        assert name.split("/")[0] in shown, name
    assert (readme_work / "sweeps" / "mlflow.db").is_file()
    assert len(list((readme_work / "sweeps" / "profiles").glob("quickstart-*.json"))) == 1


def test_the_python_example_runs(
    readme_work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = FIRST.code("python")
    monkeypatch.chdir(readme_work)
    exec(example, {})
    assert capsys.readouterr().out.strip() in ("positive", "negative")


def test_the_study_file_is_one(tmp_path: Path) -> None:
    (example,) = page("docs/study-file.md").code("yaml")
    (tmp_path / "study.yaml").write_text(example, encoding="utf-8")
    study = load_study(tmp_path / "study.yaml")
    study.check()
    assert study.train_config(study.example_values()).optim.effective_batch_size == 64


def test_the_table_names_all_commands() -> None:
    named = set(re.findall(r"^\| `kobert-tune (\w+)", page("docs/commands.md").text, re.MULTILINE))
    shown = set(re.findall(r"^│ (\w+) ", CliRunner().invoke(app, ["--help"]).stdout, re.MULTILINE))
    assert named == shown
