"""A sweep that lives in an object store, as it is seen from a machine that has nothing of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from kobert_core.checkpoint import WEIGHTS
from kobert_core.io.checksums import sha256_file
from tests.fixtures.commands import ROOT, tune
from tests.fixtures.mlflow_server import Server
from tests.fixtures.object_store import BUCKET
from tests.fixtures.reader import Reader
from tests.fixtures.sweeps import ONE_AT_A_TIME, reported_curves, sweep_to_its_end
from tuning import Sweep
from tuning.storage.store import Store

ADDRESS = f"s3://{BUCKET}/team/one"
SAMPLE = ROOT / "search_spaces" / "sample"
TEST = SAMPLE / "test.tsv"
CHANGED = {
    "name: quickstart": "name: first",
    "sample/": f"{SAMPLE}/",
    "epochs: 8": "epochs: 2",
    "confirm: {top: 1, seeds: 3}": "",
    "budget: {trials: 10}": "budget: {trials: 4}",
}
"""What the reader of the page has: a short study."""


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_everything_is_had_from_the_address(tmp_path: Path) -> None:
    output, here = tmp_path / "sweeps", tmp_path / "here"
    here.mkdir()
    options = (*ONE_AT_A_TIME, "--trials", "3", "--set", "train.epochs=2", "--set", f"storage=s3://{BUCKET}/team")
    sweep_to_its_end(output, "one", *options)
    exported = sha256_file(output / "one" / "model" / WEIGHTS)
    shutil.rmtree(output)

    assert tune("list", "--output", f"s3://{BUCKET}/team", cwd=here).stdout.startswith(f"{ADDRESS}  3 complete")
    trials = json.loads(tune("list", ADDRESS, "--json", cwd=here).stdout)["trials"]
    assert "100% step" in tune("logs", ADDRESS, "1", cwd=here).stdout
    tune("report", ADDRESS, "--output", "report.html", cwd=here)
    assert "trial 0" in (here / "report.html").read_text()
    tune("export", ADDRESS, "--output", "model", cwd=here)
    assert sha256_file(here / "model" / WEIGHTS) == exported
    tune("export", ADDRESS, "--trial", "2", "--output", "other", cwd=here)
    scores = json.loads(tune("evaluate", ADDRESS, TEST, "--json", cwd=here).stdout)
    assert scores == json.loads(tune("evaluate", "model", TEST, "--json", cwd=here).stdout)
    assert json.loads(tune("reproduce", ADDRESS, "--trial", "1", "--json", cwd=here).stdout)["same_weights"]
    refused = tune("sync", ADDRESS, cwd=here, code=2).stderr
    assert "the MLflow store of this sweep was a file" in refused

    sweep = Sweep.open(ADDRESS)
    assert sweep.state == "finished" and len(sweep.frame) == len(trials) == 3
    assert sweep.best.load().predict("재미있다").shape[0] == 1
    found = json.loads(tune("doctor", "--output", f"s3://{BUCKET}/team", "--json", cwd=here).stdout)["findings"]
    assert sum(each["level"] == "ok" and f"s3://{BUCKET}/" in each["what"] for each in found) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_data_with_an_address_gives_the_numbers_of_a_file(tmp_path: Path) -> None:
    store, options = Store.at(f"s3://{BUCKET}/data"), (*ONE_AT_A_TIME, "--trials", "2", "--set", "train.epochs=2")
    addresses: list[str] = []
    for split in ("train", "test"):
        store.upload(SAMPLE / f"{split}.tsv", f"{split}.tsv")
        addresses += ["--set", f"data.{split}={store.address}/{split}.tsv"]
    sweep_to_its_end(tmp_path, "files", *options)
    temporary = {"TMPDIR": tempfile.mkdtemp(prefix="stored-")}
    sweep_to_its_end(tmp_path, "fetched", *options, *addresses, **temporary)
    sweep_to_its_end(tmp_path, "stored", *options, *addresses, "--set", f"storage=s3://{BUCKET}/team", **temporary)
    shutil.rmtree(temporary["TMPDIR"], ignore_errors=True)
    assert reported_curves(tmp_path / "files") == reported_curves(tmp_path / "fetched")
    assert reported_curves(tmp_path / "files") == reported_curves(tmp_path / "stored")
    assert f"{store.address}/train.tsv" in (tmp_path / "stored" / "study.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_the_page_is_done_as_it_says(server: Server, tmp_path: Path) -> None:
    shutil.copyfile(TEST, tmp_path / "test.tsv")
    reader = Reader("docs/object-storage.md", tmp_path, {"s3://team-bucket": f"s3://{BUCKET}"})
    study = (ROOT / "search_spaces" / "quickstart.yaml").read_text(encoding="utf-8")
    for what, this in CHANGED.items():
        assert what in study
        study = study.replace(what, this)
    storage, _ = reader.page.code("yaml")
    study += storage.replace("s3://team-bucket", f"s3://{BUCKET}") + f"tracking: {{uri: {server.url}}}\n"
    (tmp_path / "study.yaml").write_text(study, encoding="utf-8")
    reader.read()
    assert "trial 3" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sha256_file(tmp_path / "model" / WEIGHTS) == sha256_file(tmp_path / "sweeps" / "first" / "model" / WEIGHTS)
