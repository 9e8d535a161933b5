"""A sweep goes on only on the ground on which it began: the same content of files, the same trials in the search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kobert_core.errors import InputError
from tests.fixtures.sweeps import QUICKSTART
from tuning.search.optuna_study import open_optuna_study, refuse_other_search
from tuning.search.searcher import OptunaSearcher
from tuning.study import StudyConfig, load_study
from tuning.sweep_dir import provenance
from tuning.sweep_dir.layout import JOURNAL, LEDGER, PROVENANCE
from tuning.sweep_dir.opening import open_sweep_dir
from tuning.sweep_dir.provenance import files_under, write_provenance
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

RATE = {"optim.backbone_lr": 1e-3, "optim.classifier_lr": 1e-3}


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A study with files of its own, and an encoder in a folder."""
    values = YAML(typ="safe").load(QUICKSTART.read_text(encoding="utf-8"))
    home = tmp_path / "home"
    shutil.copytree(QUICKSTART.parent / "sample", home / "data")
    (home / "encoder").mkdir()
    for name in ("config.json", "model.safetensors", "spiece.model", "README.md"):
        (home / "encoder" / name).write_text(name)
    values["data"] |= {"train": "data/train.tsv", "test": "data/test.tsv"}
    values["model"] = {"backbone": "./encoder", "init": "pretrained"}
    with open(home / "study.yaml", "w", encoding="utf-8") as file:
        YAML().dump(values, file)
    return home / "study.yaml"


def begin(study: StudyConfig, folder: Path) -> None:
    """A session in which one trial ended."""
    with open_sweep_dir(study, folder, resume=False):
        TrialTable(folder, study.objective).put(TrialRecord(0, "COMPLETE", RATE))
        write_provenance(folder, study)


def resume(study: StudyConfig, folder: Path) -> list[str]:
    """What is told when it goes on."""
    told: list[str] = []
    with open_sweep_dir(study, folder, resume=True, say=lambda text: told.append(str(text))):
        write_provenance(folder, study)
    return told


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("data/train.tsv", '`data.train`: "train.tsv" has another content than when this sweep began'),
        ("encoder/model.safetensors", '`model.backbone`: "model.safetensors" has another content'),
        ("encoder/spiece.model", '`model.backbone`: "spiece.model" has another content'),
        ("encoder/tokenizer.json", '`model.backbone`: "tokenizer.json" was not there when'),
    ],
)
def test_what_trials_depend_on_must_not_change(study_file: Path, tmp_path: Path, file: str, said: str) -> None:
    study = load_study(study_file)
    begin(study, tmp_path / "sweep")
    assert resume(study, tmp_path / "sweep") == []
    with open(study_file.parent / file, "a") as changed:
        changed.write("1\t다른 글\t1\n")
    written = (tmp_path / "sweep" / "study.yaml").read_bytes()
    with pytest.raises(InputError) as error:
        resume(study, tmp_path / "sweep")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / "sweep" / "study.yaml").read_bytes() == written


def test_a_file_that_is_gone_is_told(study_file: Path, tmp_path: Path) -> None:
    study = load_study(study_file)
    begin(study, tmp_path / "sweep")
    (study_file.parent / "encoder" / "spiece.model").unlink()
    with pytest.raises(InputError, match=r'"spiece\.model" is missing, which was there when this sweep began'):
        resume(study, tmp_path / "sweep")


def test_what_no_trial_depends_on_may_change(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(study_file)
    begin(study, tmp_path / "sweep")
    (study_file.parent / "encoder" / "README.md").write_text("a model card")
    assert resume(study, tmp_path / "sweep") == []
    (study_file.parent / "data" / "test.tsv").write_text("id\tdocument\tlabel\n1\t좋다\t1\n", encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(provenance, "libraries", lambda: {"torch": "99.0"})
        test_file, versions = resume(study, tmp_path / "sweep")
    assert "the test file is not the one" in test_file
    assert "torch " in versions and ", now 99.0" in versions and "optuna" in versions


def test_files_that_were_moved_are_the_same_files(study_file: Path, tmp_path: Path) -> None:
    begin(load_study(study_file), tmp_path / "sweep")
    shutil.move(study_file.parent, tmp_path / "elsewhere")
    shutil.move(tmp_path / "sweep", tmp_path / "moved")
    assert resume(load_study(tmp_path / "elsewhere" / "study.yaml"), tmp_path / "moved") == []


def test_code_that_comes_to_other_numbers_does_not_go_on(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(study_file)
    begin(study, tmp_path / "sweep")
    monkeypatch.setattr(provenance, "NUMBERS", provenance.NUMBERS + 1)
    with pytest.raises(InputError, match="comes to other numbers than the one that began this sweep"):
        resume(study, tmp_path / "sweep")


def test_a_sweep_of_an_older_version_goes_on_and_is_told_so_once(study_file: Path, tmp_path: Path) -> None:
    study = load_study(study_file)
    begin(study, tmp_path / "sweep")
    (tmp_path / "sweep" / PROVENANCE).unlink()
    (told,) = resume(study, tmp_path / "sweep")
    assert "cannot be said" in told
    assert resume(study, tmp_path / "sweep") == []


def test_before_the_first_trial_everything_may_change(study_file: Path, tmp_path: Path) -> None:
    study, folder = load_study(study_file), tmp_path / "sweep"
    with open_sweep_dir(study, folder, resume=False):
        (folder / LEDGER).write_text("[]")
        write_provenance(folder, study)
    with open(str(study.data.train), "a", encoding="utf-8") as changed:
        changed.write("9999\t다른 글\t1\n")
    assert resume(study, folder) == []
    TrialTable(folder, study.objective).put(TrialRecord(0, "COMPLETE", RATE))
    assert resume(study, folder) == []


def test_a_damaged_record_is_refused(study_file: Path, tmp_path: Path) -> None:
    study = load_study(study_file)
    begin(study, tmp_path / "sweep")
    path = tmp_path / "sweep" / PROVENANCE
    now, later = (f'"numbers": {number}' for number in (provenance.NUMBERS, provenance.NUMBERS + 1))
    path.write_text(path.read_text().replace(now, later))
    with pytest.raises(InputError, match="its SHA-256 is not the one written"):
        resume(study, tmp_path / "sweep")


def test_a_model_on_the_hub_stands_for_its_commit(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch moves: the hub's own cache says where it is, with or without a network."""
    cache = tmp_path / "hub" / "models--skt--kobert-base-v1"
    for commit in ("a" * 40, "b" * 40):
        (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "refs").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    study = load_study(study_file, ["model.backbone=skt/kobert-base-v1"])
    (cache / "refs" / "main").write_text("a" * 40)
    assert files_under(study)["model.backbone"] == {"skt/kobert-base-v1": "a" * 40}
    begin(study, tmp_path / "sweep")
    (cache / "refs" / "main").write_text("b" * 40)
    with pytest.raises(InputError, match=f"has another content than .*; set `model.revision: {'a' * 40}`"):
        resume(study, tmp_path / "sweep")
    pinned = load_study(study_file, ["model.backbone=skt/kobert-base-v1", f"model.revision={'a' * 40}"])
    assert resume(pinned, tmp_path / "sweep") == []


def search_of(study: StudyConfig, folder: Path, *, resume: bool, ledger: list[TrialRecord] | None = None) -> Any:
    how: dict[str, Any] = {"name": "s", "search": study.search, "resume": resume, "ledger": ledger}
    refuse_other_search(folder, **how)
    opened = open_optuna_study(folder, objective=study.objective, **how)
    return OptunaSearcher(opened, study.space, study.search, study.objective)


def two_trials(study: StudyConfig, folder: Path) -> list[TrialRecord]:
    """The ledger of a search in which one trial ended, and another runs."""
    search = search_of(study, folder, resume=False)
    ended, running = search.suggest("a")["values"], search.suggest("b")["values"]
    search.on_trial_result("a", {"progress": 100, "objective": 0.5})
    search.on_trial_complete("a")
    search.tell("a")
    return [TrialRecord(0, "COMPLETE", ended, curve={100: 0.5}), TrialRecord(1, "RUNNING", running)]


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_the_ledger_and_the_search_must_be_of_one_sweep(tmp_path: Path, storage: str | None) -> None:
    address = [f"search.storage=sqlite:///{tmp_path}/optuna.db"] if storage else []
    study = load_study(QUICKSTART, address)
    ledger = two_trials(study, tmp_path)
    for wrong, said in (
        ([*ledger, TrialRecord(2, "RUNNING", ledger[0].values)], "it lacks trial 2"),
        ([ledger[0], TrialRecord(1, "RUNNING", ledger[0].values)], "its trial 1 has other values"),
        ([ledger[1]], "trials.json lacks its trial 0"),
    ):
        with pytest.raises(InputError, match=said):
            search_of(study, tmp_path, resume=True, ledger=wrong)
    assert search_of(study, tmp_path, resume=True, ledger=ledger).suggest("c")["values"] == ledger[1].values


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_a_search_that_is_gone_is_not_begun_anew(tmp_path: Path, storage: str | None) -> None:
    address = [f"search.storage=sqlite:///{tmp_path}/optuna.db"] if storage else []
    study = load_study(QUICKSTART, address)
    ledger = two_trials(study, tmp_path)
    file = tmp_path / ("optuna.db" if storage else JOURNAL)
    for each in tmp_path.glob(f"{file.name}*"):
        each.unlink()
    with pytest.raises(InputError, match="is gone"):
        search_of(study, tmp_path, resume=True, ledger=ledger)
    assert not file.exists(), "nor is an empty one left behind"


@pytest.mark.parametrize(("section", "name"), [("search", "storage"), ("tracking", "uri")])
def test_the_address_of_a_database_starts_from_the_study_file(
    tmp_path: Path, section: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)

    def address(text: str, *overrides: str) -> str:
        values = YAML(typ="safe").load(QUICKSTART.read_text(encoding="utf-8"))
        values["data"] = {"train": "train.tsv"}
        values[section] = values.get(section, {}) | {name: text}
        with open(home / "study.yaml", "w", encoding="utf-8") as file:
            YAML().dump(values, file)
        found: str = getattr(getattr(load_study(home / "study.yaml", overrides), section), name)
        return found

    assert address("sqlite:///x/my.db") == f"sqlite:///{home}/x/my.db"
    assert address("sqlite:///../my.db?timeout=9") == f"sqlite:///{tmp_path}/my.db?timeout=9"
    assert address("sqlite:///a.db", f"{section}.{name}=sqlite:///my.db") == f"sqlite:///{here}/my.db"
    for absolute in ("sqlite:////tmp/my.db", "postgresql://host/name"):
        assert address(absolute) == absolute


def test_a_sweep_keeps_the_absolute_address(study_file: Path, tmp_path: Path) -> None:
    """`sync`, `ui` and `list` find the store from any folder."""
    text = study_file.read_text(encoding="utf-8") + "\ntracking: {uri: 'sqlite:///ml.db'}\n"
    study_file.write_text(text, encoding="utf-8")
    begin(load_study(study_file), tmp_path / "sweep")
    assert load_sweep_study(tmp_path / "sweep").tracking.uri == f"sqlite:///{study_file.parent}/ml.db"
    assert json.loads((tmp_path / "sweep" / PROVENANCE).read_text())["numbers"] == provenance.NUMBERS
