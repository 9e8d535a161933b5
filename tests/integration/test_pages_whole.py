"""The pages that take minutes, or servers, as their reader does them: a cluster, databases, MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.fixtures.commands import ROOT, UNCONFIRMED, environment, tune
from tests.fixtures.comments import write_comments
from tests.fixtures.compose import postgres_program
from tests.fixtures.hub import TOKEN, hub
from tests.fixtures.nodes import free_port, ray_nodes
from tests.fixtures.pages import page
from tests.fixtures.postgres import postgres
from tests.fixtures.reader import Reader, lines_of

pytestmark = pytest.mark.slow
SAMPLE = ROOT / "search_spaces" / "sample"
DASHBOARD = page("docs/optuna-dashboard.md").code("bash")[0].splitlines()[-1]
SECONDS_TO_START = 90


def merged(*texts: str) -> str:
    """Studies as one, as JSON; what a later one says of a section is added to it."""
    whole: dict[str, object] = {}
    for study in (YAML(typ="safe", pure=True).load(text) for text in texts):
        for name, value in study.items():
            before = whole.get(name)
            whole[name] = before | value if isinstance(before, dict) and isinstance(value, dict) else value
    return json.dumps(whole, ensure_ascii=False)


@contextlib.contextmanager
def running(command: str, folder: Path, answers: str) -> Iterator[None]:
    """A server, from when an address answers until the block ends."""
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            assert process.poll() is None, (folder / "server.log").read_text("utf-8")
            with contextlib.suppress(OSError), urllib.request.urlopen(answers, timeout=2):
                break
            assert time.monotonic() < deadline, f"{answers} does not answer"
            time.sleep(0.3)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_a_sweep_goes_on_and_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER", "true")
    reader = Reader("docs/going-on.md", write_comments(tmp_path), {"--trials 50": "--trials 6"})
    tune("sweep", "study.yaml", cwd=tmp_path)
    reader.read()
    sweep = tmp_path / "sweeps" / "comments"
    assert len(json.loads((sweep / "trials.json").read_text("utf-8"))) == 6 and (sweep / "report.html").is_file()
    (said,) = reader.page.code("text")
    *_, refused = tune("sweep", "study.yaml", cwd=tmp_path, code=2).stderr.splitlines()
    assert refused.replace(str(tmp_path), "…") == said.strip()


def test_a_study_for_spot_machines(tmp_path: Path) -> None:
    folder = write_comments(tmp_path)
    reader = Reader("docs/spot-machines.md", folder)
    (of_the_page,) = reader.page.code("yaml")
    study = merged((folder / "study.yaml").read_text("utf-8"), of_the_page.replace("/mnt/shared", str(folder)))
    (folder / "study.yaml").write_text(study, encoding="utf-8")
    tune("sweep", "study.yaml", cwd=folder)
    reader.read()
    assert (folder / "sweeps" / "comments" / "winner.json").is_file(), "where the study says"


def test_onnx(reader_work: Path) -> None:
    (reader_work / "best").rename(reader_work / "former-model")
    shutil.copyfile(SAMPLE / "train.tsv", reader_work / "labelled.tsv")
    reader = Reader("docs/onnx.md", reader_work)
    reader.read()
    written = {path.name for path in (reader_work / "best" / "onnx").iterdir()}
    assert {"model.onnx", "model_fp16.onnx", "model_int8.onnx", "report.json", "SHA256SUMS"} == written


def test_a_smaller_model(reader_work: Path) -> None:
    quickstart = (ROOT / "search_spaces" / "quickstart.yaml").read_text("utf-8")
    reader = Reader("docs/distill.md", reader_work)
    both, answers = reader.page.code("yaml")
    few = "{name: student, budget: {trials: 1}, confirm: null, train: {epochs: 1}}"
    student = merged(quickstart, both, few).replace('"sample/', f'"{SAMPLE}/')
    (reader_work / "student.yaml").write_text(student, encoding="utf-8")
    reader.here = {"SWEEP_DIR": "sweeps/first", "STUDY": "student.yaml", "[--unlabelled FILE]": "--unlabelled more.tsv"}
    (reader_work / "more.tsv").write_text("document\n배우들 연기가 좋았다\n", encoding="utf-8")
    ((table, printed),) = reader.read()
    header, teacher, *_ = table.text.splitlines()
    assert header in " ".join(printed.split()) or header.split() == next(
        line.split() for line in printed.splitlines() if line.startswith("model ")
    )
    assert any(line.startswith(teacher.split()[0]) for line in printed.splitlines())
    tune("predict", "best", SAMPLE / "train.tsv", "--output", "answers.jsonl", cwd=reader_work)
    theirs = merged(quickstart, answers, "{name: theirs, confirm: null}").replace('"sample/', f'"{SAMPLE}/')
    (reader_work / "theirs.yaml").write_text(theirs, encoding="utf-8")
    tune("sweep", "theirs.yaml", "--dry-run", cwd=reader_work)


def test_a_plan(reader_work: Path) -> None:
    (printed,) = [Reader("docs/plan.md", reader_work).type(line) for line in lines_of(page("docs/plan.md").blocks[0])]
    assert "trials at once" in printed and "smallest difference" in printed


def test_the_hub(reader_work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of the hub's own; what it has got is loaded from a folder of the repository's name."""
    (reader_work / "sweeps" / "first").rename(reader_work / "sweeps" / "nsmc")
    reader = Reader("docs/hub.md", reader_work)
    shell, code = reader.page.blocks
    with hub() as server:
        for name, value in {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}.items():
            monkeypatch.setenv(name, value)
        (export,) = [line for line in lines_of(shell) if line.startswith("kobert-tune")]
        done = subprocess.run(
            ["bash", "-c", export], cwd=reader_work, env=environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (reader_work / "lab" / "nsmc-kobert").mkdir(parents=True)
    for name, content in server.files.items():
        (reader_work / "lab" / "nsmc-kobert" / name).write_bytes(content)
    reader.execute(code.text)
    assert b"license: mit" in server.files["README.md"] and reader.names["model"].config.num_labels == 2


def test_models_in_mlflow(reader_work: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{reader_work}/sweeps/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (model, *_) = client.search_logged_models(experiments)
    port = free_port()
    here = {"models:/m-0123…": f"models:/{model.model_id}", "5001": port, "--version 3": "--version 1"}
    reader = Reader("docs/mlflow-models.md", reader_work, here)
    load, serve, evaluate, register, promote = [each for each in reader.page.blocks if each.language != "text"]
    try:
        reader.execute(load.text)
        assert reader.names["model"].predict(pd.DataFrame({"text": ["재미있다"]}))["name"].item()
        store, start, ask = lines_of(serve)
        started = start.replace("models:/m-0123…", f"models:/{model.model_id}").replace("5001", str(port))
        with running(f"{store}\nexec {started}", reader_work, f"http://127.0.0.1:{port}/ping"):
            (answer,) = json.loads(reader.type(ask))["predictions"]
        assert answer["name"] in ("positive", "negative")
        rows = pd.read_csv(reader_work / "test.tsv", sep="\t")
        reader.names["frame"] = pd.DataFrame({"text": rows["document"], "wanted": rows["label"].astype(str)})
        reader.execute(evaluate.text)
        for line in (*lines_of(register), *lines_of(promote)):
            reader.type(line)
        assert str(client.get_model_version_by_alias("reviews", "champion").version) == "1"
    finally:
        mlflow.set_tracking_uri(None)


def test_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quickstart = (ROOT / "search_spaces" / "quickstart.yaml").read_text("utf-8")
    study = merged(quickstart, "{name: mine, budget: {trials: 2}, confirm: null}").replace('"sample/', f'"{SAMPLE}/')
    (tmp_path / "study.yaml").write_text(study, encoding="utf-8")
    with ray_nodes(tmp_path, head_cpus=1, worker_cpus=[1], dashboard=True) as nodes:
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)  # what `auto` finds on a machine of the cluster
        doctor, sweep, submit = lines_of(page("docs/cluster.md").blocks[0])
        reader = Reader("docs/cluster.md", tmp_path, {"http://HEAD:8265": nodes.jobs})
        reader.in_a_shell(doctor)
        reader.type(sweep)
        (tmp_path / "sweeps" / "mine").rename(tmp_path / "mine")
        monkeypatch.delenv("RAY_ADDRESS")
        reader.in_a_shell(submit.replace("http://HEAD:8265", nodes.jobs))
    for folder in (tmp_path / "mine", tmp_path / "sweeps" / "mine"):
        assert (folder / "winner.json").is_file()


def studies_on_the_dashboard(command: str, folder: Path) -> set[str]:
    port = free_port()
    with (
        running(f"exec {command} --port {port}", folder, f"http://127.0.0.1:{port}/dashboard"),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=60) as answer,
    ):
        return {study["study_name"] for study in json.load(answer)["study_summaries"]}


def test_the_dashboard_opens_the_journal(reader_work: Path) -> None:
    assert studies_on_the_dashboard(DASHBOARD, reader_work) == {"first"}


@pytest.mark.skipif(not postgres_program("initdb"), reason="needs PostgreSQL's server")
def test_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's server on a database, a search in another; then a sweep that writes to MLflow's database itself."""
    import psycopg

    monkeypatch.setenv("PGPASSWORD", "p@ss:/wörd")
    own = page("docs/postgresql.md")
    server = own.code("bash")[1].replace("\\\n", " ")
    with tempfile.TemporaryDirectory(prefix="pages-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        with postgres(folder, ("mlflow", "optuna"), "p@ss:/wörd") as database:

            def here(text: str) -> str:
                for what, this in {"@db/": f"@{database}/", "mlflow:5000": f"127.0.0.1:{port}"}.items():
                    text = text.replace(what, this)
                return text.replace("/srv/artifacts", f"{folder}/artifacts")

            quickstart = (ROOT / "search_spaces" / "quickstart.yaml").read_text("utf-8")
            study = merged(quickstart, *map(here, own.code("yaml")), "{budget: {trials: 2}}")
            (folder / "study.yaml").write_text(study.replace('"sample/', f'"{SAMPLE}/'), encoding="utf-8")
            started = here(server.replace("mlflow server", f"mlflow server --port {port}"))
            with running(f"exec {started}", folder, f"http://127.0.0.1:{port}/health"):
                tune("sweep", "study.yaml", "--name", "first", *UNCONFIRMED, cwd=folder)
            direct = here("tracking.uri=postgresql+psycopg://mlflow@db/mlflow")
            tune("sweep", "study.yaml", "--name", "second", "--set", direct, *UNCONFIRMED, cwd=folder)
            host, _, number = database.partition(":")
            with psycopg.connect(f"host={host} port={number} user=mlflow dbname=mlflow") as connection:
                (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone() or (0,)
            assert runs == 2 * (1 + 2), "of each sweep one for itself and one a trial"
            opened = DASHBOARD.replace("sweeps/first/optuna_journal.log", here("postgresql+psycopg://optuna@db/optuna"))
            assert studies_on_the_dashboard(opened, folder) == {"first", "second"}
