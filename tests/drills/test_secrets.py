"""Secrets in addresses and in the environment come into no output, no file of a sweep, no job, and not into MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import signature
from pathlib import Path
from textwrap import dedent

import pytest

from kobert_core.errors import InputError
from tests.drills.conftest import Drill
from tests.fixtures.commands import ROOT, TUNE, environment
from tests.fixtures.mlflow_server import Server
from tuning.cli.app import main
from tuning.cluster.jobs import job_environment, package_into
from tuning.tracking import redact_uri, serve_ui, ui_command

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
SECRET = "geheim"
ADDRESSES = [
    f"postgresql://me:{SECRET}@host/db",
    f"postgresql+psycopg2://me:a/{SECRET}@host/db",
    f"postgresql://me@host/db?sslmode=no&password={SECRET}",
    f"mysql://:{SECRET}@host/db",
    f"https://{SECRET}@host",
    f"http://me:{SECRET}@host:5000",
    f"https://host/a?api_key={SECRET}",
    f"https://host/a?b=1&X-Amz-Signature={SECRET}",
]
PLANTED = {
    name: f"{SECRET}-{name.lower()}"
    for name in (
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN", "PGPASSWORD"),
        *("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCESS_KEY"),
    )
}


def test_secrets_in_a_study_are_refused_unseen(
    drill: Drill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Secrets in a study file, in --set and in MLFLOW_TRACKING_URI: refused, or used and not shown"""
    monkeypatch.chdir(tmp_path)
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    text, commands = QUICKSTART.read_text(encoding="utf-8"), list[list[str]]()
    for number, address in enumerate(ADDRESSES):
        for key, content in (
            ("search.storage", text.replace("search:\n", f"search:\n  storage: {address}\n")),
            ("tracking.uri", f"{text}\ntracking:\n  uri: {address}\n"),
        ):
            file = tmp_path / f"{key}-{number}.yaml"
            file.write_text(content, encoding="utf-8")
            commands += [["sweep", str(QUICKSTART), "--dry-run", "--set", f"{key}={address}"]]
            commands += [["sweep", str(file), "--dry-run"], ["submit", str(file)]]
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["kobert-tune", *command])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
    for address in ADDRESSES:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(InputError):
            job_environment()
        if address.startswith("http"):
            monkeypatch.setattr(sys, "argv", ["kobert-tune", "ui"])
            with pytest.raises(SystemExit):
                main()
    printed = capsys.readouterr()
    assert printed.err.count("a password or token does not belong into a study file") == len(commands)
    drill.lost("commands showed a secret", (printed.out + printed.err).count(SECRET), of=len(commands))
    shown = [address for address in ADDRESSES if SECRET in redact_uri(f"cannot reach {address} now")]
    drill.lost("addresses were shown", len(shown), of=len(ADDRESSES))


def test_a_job_gets_no_secret(drill: Drill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in the environment and hidden files are not shipped with a job"""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    hidden = ROOT / "search_spaces" / ".env.of-a-test"
    hidden.write_text(SECRET)
    try:
        package_into(tmp_path)
    finally:
        hidden.unlink()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    drill.lost(
        "shipped files hold one", sum(SECRET in file.read_text("utf-8", "replace") for file in files), of=len(files)
    )
    assert SECRET not in json.dumps(job_environment())


def test_the_page_of_mlflow_is_for_this_machine() -> None:
    assert ui_command()[ui_command().index("--host") + 1] == "127.0.0.1"
    assert signature(serve_ui).parameters["host"].default == "127.0.0.1"


@pytest.mark.slow
def test_a_stranger_is_not_let_into_a_ray_of_ours(drill: Drill, tmp_path: Path) -> None:
    """A Ray that a sweep starts lets nobody in who has not its token"""
    ours = """
        import ray
        from tuning.cluster.ray_cluster import ray_cluster, set_environment
        set_environment()
        with ray_cluster(None):
            print(ray.get_runtime_context().gcs_address, flush=True)
            input()
    """
    environ = {name: value for name, value in environment().items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", dedent(ours)]
    sweep = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert sweep.stdin and sweep.stdout
    address = sweep.stdout.readline().strip()
    code = f"import ray; ray.init(address={address!r}); print('in', ray.cluster_resources())"
    friend, stranger = (
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
        for env in (environ | {"RAY_AUTH_MODE": mode} for mode in ("token", "disabled"))
    )
    tokens = {"the cluster asks for a token": {"HOME": str(tmp_path)}, "another token": {"RAY_AUTH_TOKEN": "x" * 40}}
    for said, variables in tokens.items():
        env = environ | variables
        command = [*TUNE, "doctor", "--address", address]
        refused = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2 and said in refused.stderr and len(refused.stderr.splitlines()) == 1
    sweep.communicate("\n", timeout=120)
    assert sweep.returncode == 0 and "in " in friend.stdout, friend.stderr
    drill.lost("strangers were let in", int(stranger.returncode == 0 or "in " in stranger.stdout), of=1)


@pytest.mark.slow
def test_a_sweep_writes_no_secret(drill: Drill, tmp_path: Path) -> None:
    """A sweep with secrets in its tracking address and in its environment: in no output, file or run of it"""
    store = tmp_path / "store"
    store.mkdir()
    server = Server(store)
    server.start()
    try:
        address = f"http://me:{SECRET}@127.0.0.1:{server.port}"
        done = subprocess.run(
            [
                *TUNE,
                "-v",
                "sweep",
                str(QUICKSTART),
                "--name",
                "s",
                "--trials",
                "2",
                "--set",
                "train.epochs=1",
                "--json",
            ],
            cwd=tmp_path,
            env=environment() | PLANTED | {"MLFLOW_TRACKING_URI": address},
            capture_output=True,
            text=True,
            timeout=500,
        )
    finally:
        server.end()
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["tracking_uri"] == f"http://***@127.0.0.1:{server.port}"
    files = [file for folder in ("sweeps", "store") for file in (tmp_path / folder).rglob("*") if file.is_file()]
    assert {"study.yaml", "environment.txt", "tracking.jsonl", "README.md", "mlflow.db"} <= {
        file.name for file in files
    }
    holding = [str(file) for file in files if SECRET.encode() in file.read_bytes()]
    drill.lost(f"files hold a secret {holding or ''}".rstrip(), len(holding), of=len(files))
    lines = (done.stdout + done.stderr).splitlines()
    drill.lost("lines show one", sum(SECRET in line for line in lines), of=len(lines))
