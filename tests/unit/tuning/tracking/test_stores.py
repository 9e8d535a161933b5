"""Which stores can be used: the same answer to a study, the environment, a sweep, a dry run, a job, the doctor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from tests.fixtures.commands import environment
from tests.fixtures.sweeps import QUICKSTART
from tuning.cli.app import main
from tuning.cluster.jobs import job_environment
from tuning.study import load_study
from tuning.tracking import resolve_tracking_uri

NO_STORES = {
    "./mlruns": "no tracking stores in plain folders",
    "file:///mlruns": "no tracking stores in plain folders",
    "uc:x": "Databricks workspace is not supported",
    "databricks": "Databricks workspace is not supported",
    "databricks://profile": "Databricks workspace is not supported",
    "sqlite://": "must be a file",
    "sqlite:///": "must be a file",
    "sqlite:///:memory:": "must be a file",
    "sqlite:///file::memory:?uri=true": "must be a file",
    "ftp://host": "no such tracking store as `ftp`",
    "postgres://host/d": "begins with `postgresql`",
    "http://": "has a host",
    "http://host:99999": "a port from 1 to 65535",
}
NOT_HERE = {
    "postgresql+psycopg2://u:geheim@h/d": "module `psycopg2`, is not installed",
    "postgresql+nonsense://h/d": "this is no address of a database",
    "postgresql://h:port/d": "this is no address of a database",
    "sqlite:////dev/null": "is no sqlite database|must be a file",
    "sqlite:////dev": "must be a file in a folder",
}


@pytest.mark.parametrize(("uri", "reason"), NO_STORES.items())
def test_what_can_be_no_store_is_refused_everywhere(
    uri: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study.yaml"
    text = QUICKSTART.read_text(encoding="utf-8").replace("sample/", f"{QUICKSTART.parent}/sample/")
    study.write_text(f"{text}\ntracking: {{uri: '{uri}'}}\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"study.yaml.*{reason}"):
        load_study(study)
    with pytest.raises(InputError, match=reason):
        resolve_tracking_uri(uri, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=rf"\(MLFLOW_TRACKING_URI\): .*{reason}"):
        resolve_tracking_uri(None, tmp_path)
    if not uri.startswith(("sqlite", "file")):  # those would be of this machine: a job does not get them
        with pytest.raises(InputError, match=reason):
            job_environment()


@pytest.mark.parametrize(("uri", "reason"), NOT_HERE.items())
def test_what_this_machine_lacks_is_told(uri: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database of sqlite")
    uri = uri.replace("/dev/null", f"{tmp_path}/text.db")
    with pytest.raises(InputError, match=reason) as caught:
        resolve_tracking_uri(uri, tmp_path)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("command", [["sweep", QUICKSTART, "--dry-run"], ["doctor", QUICKSTART]], ids=lambda it: it[0])
def test_commands_ask_before_they_begin(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://u:geheim@h/d")
    monkeypatch.setattr(sys, "argv", ["kobert-tune", *map(str, command)])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    assert end.value.code == 2 and len(printed.err.splitlines()) == 1
    assert "`psycopg2`, is not installed" in printed.err and "geheim" not in printed.err


@pytest.mark.slow
def test_sweeps_that_begin_at_once_make_one_store(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        import mlflow
        from tuning.tracking import Tracker, default_tracking_uri
        output, name = Path(sys.argv[1]), sys.argv[2]
        print("ready", flush=True)
        input()
        spool, uri = output / name / "tracking.jsonl", default_tracking_uri(output)
        tracker = Tracker(spool=spool, uri=uri, experiment="e", sweep=name)
        tracker.start_sweep(params={}, tags={})
        print(tracker.close(60))
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    sweeps = [
        subprocess.Popen([sys.executable, "-c", lines, tmp_path, name], text=True, env=environment(), **pipes)
        for name in ("a", "b", "c")
    ]
    for sweep in sweeps:
        assert sweep.stdout.readline() == "ready\n"
    for sweep in sweeps:
        print(file=sweep.stdin, flush=True)
    assert [sweep.communicate(timeout=120) for sweep in sweeps] == [("0\n", "")] * 3
