"""A database that does not answer is told before anything starts, and what a search is kept in is looked at by then."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from kobert_core.errors import InputError
from tests.fixtures.nodes import free_port
from tests.fixtures.sweeps import QUICKSTART
from tuning.cli.app import app
from tuning.cli.display import Display
from tuning.search.optuna_study import open_optuna_study, refuse_other_search
from tuning.study import SearchConfig, StudyConfig, load_study
from tuning.sweep.doctor import examine
from tuning.sweep.dry_run import look
from tuning.sweep.preflight import tracking_problem
from tuning.sweep.sweep import Sweep
from tuning.sweep_dir.layout import SPOOL
from tuning.sweep_dir.opening import open_sweep_dir
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.tracking import databases, default_tracking_uri
from tuning.tracking.databases import check_database, problem_of


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where something listens, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"postgresql+psycopg://me:geheim@127.0.0.1:{listener.getsockname()[1]}/d"


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    return f"postgresql+psycopg://me:geheim@127.0.0.1:{free_port()}/d"


def run(study: StudyConfig, folder: Path, *, resume: bool = False) -> None:
    """Run a sweep in this process."""
    with open_sweep_dir(study, folder, resume=resume):
        Sweep(study, folder, Display(Console()), resume=resume).run(None)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def starts(address: str | None) -> None:
        pytest.fail("Ray would start")

    monkeypatch.setattr("tuning.sweep.sweep.ray_cluster", starts)


def test_a_database_that_does_not_answer_is_a_line(silent: str, closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "CONNECT_SECONDS", 2)
    for address, reason in ((silent, "timeout"), (closed, "refused"), ("mysql+nothing://h/d", "nothing")):
        problem = problem_of(address)
        assert problem is not None and reason in problem and "\n" not in problem
        with pytest.raises(InputError, match=r"^search\.storage: no database can be reached at") as caught:
            check_database(address, where="search.storage")
        assert "geheim" not in str(caught.value)
        told = tracking_problem(address)
        assert told is not None and told.startswith("no database for MLflow can be reached") and "geheim" not in told


def test_a_file_may_be_still_to_be_made_but_not_memory(tmp_path: Path) -> None:
    check_database(f"sqlite:///{tmp_path}/new/optuna.db", where="search.storage")
    assert list(tmp_path.iterdir()) == [], "to look leaves nothing"
    with pytest.raises(InputError, match=r"no database can be reached at .*unable to open"):
        check_database(f"sqlite:///{tmp_path}", where="search.storage")
    for memory in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(InputError, match="must be a file"):
            check_database(memory, where="search.storage")


def test_a_search_is_kept_in_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    study = load_study(QUICKSTART, [f"search.storage=sqlite:///{tmp_path}/new/optuna.db"])
    open_optuna_study(tmp_path, name="one", objective=study.objective, search=study.search, resume=False)
    assert (tmp_path / "new" / "optuna.db").is_file()


def test_a_storage_that_does_not_answer_is_refused_before_ray_starts(closed: str, tmp_path: Path, no_ray: None) -> None:
    study, folder = load_study(QUICKSTART, [f"search.storage={closed.replace(':geheim', '')}"]), tmp_path / "one"
    with pytest.raises(InputError, match=r"search\.storage: no database can be reached"):
        run(study, folder)
    assert not (folder / SPOOL).exists(), "MLflow has not heard of it"
    assert not (folder / "study.yaml").exists(), "and the name is free"
    store = default_tracking_uri(tmp_path)
    found = {each.what: each.level for each in examine(None, output=tmp_path, tracking_uri=store, study=study)}
    assert "wrong" in {level for what, level in found.items() if "search.storage: no database can be reached" in what}
    with pytest.raises(InputError, match=r"search\.storage: no database can be reached"):
        look(study, folder, None)


@pytest.mark.parametrize("mine", [True, False])
def test_another_search_is_refused_before_ray_starts(mine: bool, tmp_path: Path, no_ray: None) -> None:
    """A study of the sweep's name lies in the storage: of another sweep, or with other trials than the ledger has."""
    study, folder = load_study(QUICKSTART, [f"search.storage=sqlite:///{tmp_path}/optuna.db"]), tmp_path / "one"
    open_optuna_study(folder, name="one", objective=study.objective, search=study.search, resume=False)
    if mine:
        folder.mkdir()
        with open_sweep_dir(study, folder, resume=False):
            TrialTable(folder, study.objective).put(TrialRecord(0, "COMPLETE", {"optim.backbone_lr": 1e-4}))
    with pytest.raises(InputError, match="it lacks trial 0" if mine else "the storage has a study `one` already"):
        run(study, folder, resume=mine)
    assert not (folder / SPOOL).exists(), "MLflow has not heard of it"


@pytest.mark.parametrize("command", [["sweep", "--dry-run"], ["doctor"]], ids=lambda words: words[0])
def test_a_database_of_mlflow_that_is_away_is_told(
    command: list[str], closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep goes on without it, as without a server: its spool keeps all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed)
    result = CliRunner().invoke(app, [*command, str(QUICKSTART), "--json"])
    assert result.exit_code == (1 if command == ["doctor"] else 0), result.output + str(result.exception)
    said = json.loads(result.stdout)
    told = [*said.get("warnings", ()), *(each["what"] for each in said.get("findings", ()) if each["level"] == "wrong")]
    assert sum("no database for MLflow can be reached" in each for each in told) == 1
    assert "geheim" not in result.output


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_to_look_at_a_search_makes_none(storage: str | None, tmp_path: Path) -> None:
    search = SearchConfig(storage=storage and f"sqlite:///{tmp_path}/optuna.db")
    refuse_other_search(tmp_path, name="one", search=search, resume=False, ledger=[])
    assert list(tmp_path.iterdir()) == []
