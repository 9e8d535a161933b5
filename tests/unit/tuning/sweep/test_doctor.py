"""What the doctor finds on one machine, and how the cluster's commands refuse an address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.fixtures.commands import ROOT, tune_here
from tuning.cli.app import app
from tuning.cluster.jobs import job_environment

QUICKSTART = str(ROOT / "search_spaces" / "quickstart.yaml")


def findings(*arguments: str, code: int) -> dict[str, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments, "--json"])
    assert result.exit_code == code, result.output
    return {finding["what"]: finding["level"] for finding in json.loads(result.stdout)["findings"]}


def test_a_study_that_fits_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = (ROOT / "search_spaces" / "quickstart.yaml").read_text().replace("sample/", f"{ROOT}/search_spaces/sample/")
    (tmp_path / "study.yaml").write_text(f"{study}\nstorage: {tmp_path}/elsewhere\n")
    found = findings("study.yaml", code=0)
    assert any(f"free in {tmp_path}/elsewhere" in what for what in found), "the study says where sweeps are written"
    assert any(what.endswith("of `quickstart` run at once") for what in found)
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"], "to look leaves nothing"


def test_missing_files_and_missing_room_are_wrong(tmp_path: Path) -> None:
    study = (ROOT / "search_spaces" / "quickstart.yaml").read_text()
    (tmp_path / "study.yaml").write_text(f"{study}\nresources: {{cpus_per_worker: 100000}}\n")
    found = findings(str(tmp_path / "study.yaml"), "--output", str(tmp_path), code=1)
    wrong = [what for what, level in found.items() if level == "wrong"]
    assert any(str(tmp_path / "sample" / "train.tsv") in what for what in wrong)
    assert any("100000" in what for what in wrong)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://127.0.0.1:notaport", "head:8265"])
@pytest.mark.parametrize("command", [["submit", QUICKSTART], ["status"], ["stop", "job"]], ids=lambda it: it[0])
def test_an_address_where_nothing_answers_is_one_line(command: list[str], address: str, tmp_path: Path) -> None:
    done = tune_here(*command, "--address", address, cwd=tmp_path, code=2)
    assert len(done.stderr.splitlines()) == 1 and address in done.stderr


@pytest.mark.parametrize(
    ("uri", "goes"),
    [("http://mlflow:5000", True), ("http://127.0.0.1:5000", False), ("sqlite:///mlflow.db", False)],
)
def test_a_job_gets_a_tracking_server_that_it_can_reach(uri: str, goes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert ("MLFLOW_TRACKING_URI" in job_environment()) == goes
