"""A sweep, and all that follows it, in a folder and under a name with every character that a path can have."""

from __future__ import annotations

import json
import shutil
import string
import subprocess
import unicodedata
from pathlib import Path

import pytest

from tests.fixtures.browser import listed_runs, need_browser, page_html
from tests.fixtures.commands import TUNE, environment, tune
from tests.fixtures.nodes import free_port
from tests.fixtures.sweeps import QUICKSTART
from tests.fixtures.tracking import client_of

ASCII = "".join(c for c in string.printable if c.isprintable() and c != "/")
NAME = f"o_%41%2541{ASCII}{unicodedata.normalize('NFD', '출력')}"


@pytest.mark.slow
def test_every_command_works_in_a_folder_of_any_name(tmp_path: Path) -> None:
    need_browser()
    work = tmp_path / NAME
    shutil.copytree(QUICKSTART.parent / "sample", work / "sample")
    shutil.copy(QUICKSTART, work / "study.yaml")
    sweep = work / "sweeps" / NAME
    arguments = ("--name", NAME, "--trials", 2, "--set", "train.epochs=1", "--json")
    done = json.loads(tune("sweep", "study.yaml", *arguments, cwd=work).stdout.splitlines()[-1])
    assert sum(done["states"].values()) == 2 and done["winner"]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert NAME in tune("list", cwd=work).stdout
    assert "eval/accuracy" in tune("logs", sweep, 0, cwd=work).stdout
    (sweep / "tracking.jsonl.state.json").unlink()  # all is sent again
    assert json.loads(tune("sync", sweep, "--json", cwd=work).stdout)["left"] == 0
    tune("export", sweep, "--output", work / "model", cwd=work)
    scores = json.loads(tune("evaluate", "model", "sample/test.tsv", "--json", cwd=work).stdout)
    assert scores["accuracy"] == done["test"]["winner"]["test/accuracy"]
    tune("predict", "model", "sample/test.tsv", "--output", work / "labels.tsv", cwd=work)

    client = client_of(work / "sweeps")
    runs = client.search_runs([client.get_experiment_by_name("quickstart").experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert parent.info.run_name == NAME
    assert "winner.json" in {file.path for file in client.list_artifacts(parent.info.run_id)}
    command = [*TUNE, "ui", sweep, "--port", str(free_port())]
    process = subprocess.Popen(command, cwd=work, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        page = next(line for line in process.stdout if line.startswith("open ")).removeprefix("open ").strip()
        listed = listed_runs(page_html(page))
        assert listed[0] == f"{NAME}/{done['winner']['trial']:02d}"
        assert sorted(listed) == [f"{NAME}/00", f"{NAME}/01"]
    finally:
        process.terminate()
        assert process.wait(30) == 0
