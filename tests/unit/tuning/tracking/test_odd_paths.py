"""An MLflow store in a folder of any name: its file is there, its artifacts come back, and nothing lies beside it."""

from __future__ import annotations

import shutil
import sqlite3
import string
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from tests.fixtures.sweeps import QUICKSTART
from tests.fixtures.tracking import client_of, open_tracker, runs_of, spool_of
from tuning.study import load_study
from tuning.tracking import default_tracking_uri, resolve_tracking_uri, send_spool, shown_uri

NAMES = {
    "another character's code": "o_%41",
    "a percent sign's code": "o_50%25",
    "options and a secret": "what?key=c&password=d",
    "all of ASCII": "".join(c for c in string.printable if c.isprintable() and c != "/"),
    "decomposed Hangul and others": unicodedata.normalize("NFD", "출력") + "é 🙂",
    "lines": "a\nb\tc",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_store_is_in_its_own_folder(name: str, tmp_path: Path, empty_store: Path) -> None:
    output = tmp_path / name
    output.mkdir()
    shutil.copy(empty_store, output / "mlflow.db")
    tracker = open_tracker(output)
    tracker.start_sweep(params={}, tags={})
    (output / "sweep" / "file.txt").write_text(name)
    tracker.log_artifact(output / "sweep" / "file.txt")
    assert tracker.close(60) == 0 == tracker.refused
    assert send_spool(spool_of(output), uri=default_tracking_uri(output)).left == 0

    run = runs_of(output)["first"]
    got = client_of(output).download_artifacts(run.info.run_id, "file.txt")
    assert Path(got).read_text() == name
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in output.iterdir()} == {"mlflow.db", ".mlflow.db.lock", "mlartifacts", "sweep"}
    uri = default_tracking_uri(output)
    assert shown_uri(resolve_tracking_uri(uri, tmp_path)) == uri


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_store_is_made_from_a_folder_of_any_name(
    name: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    store = tmp_path / "mlflow.db"
    shutil.copy(empty_store, store)
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("DELETE FROM experiments WHERE experiment_id = 0")  # the last thing that MLflow makes
    tracker = open_tracker(tmp_path)
    tracker.start_sweep(params={}, tags={})
    assert tracker.close(20) == 0 and "first" in runs_of(tmp_path)
    assert list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize("character", [chr(code) for code in range(32, 127) if chr(code) != "/"])
def test_an_address_leads_back_to_its_file(character: str, tmp_path: Path) -> None:
    from sqlalchemy.engine import make_url

    folder = tmp_path / f"a{character}41b{character}"
    uri = default_tracking_uri(folder)
    assert make_url(uri).database == str(folder / "mlflow.db")
    assert resolve_tracking_uri(uri, tmp_path) == uri == shown_uri(uri)


def test_a_folder_that_is_not_in_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be in UTF-8"):
        default_tracking_uri(tmp_path / "\udcff")


@pytest.mark.parametrize("character", "%?#[*")
def test_relative_addresses_start_from_the_study_whatever_its_folder_is_called(character: str, tmp_path: Path) -> None:
    from sqlalchemy.engine import make_url

    folder = tmp_path / f"a{character}41"
    shutil.copytree(QUICKSTART.parent / "sample", folder / "sample")
    study = folder / "study.yaml"
    addresses = "tracking: {uri: 'sqlite:///runs.db'}\n"
    study.write_text(f"{QUICKSTART.read_text(encoding='utf-8')}\n{addresses}", encoding="utf-8")
    uri = load_study(study).tracking.uri
    assert uri and make_url(uri).database == str(folder / "runs.db")
    assert make_url(resolve_tracking_uri(uri, tmp_path)).database == str(folder / "runs.db")
