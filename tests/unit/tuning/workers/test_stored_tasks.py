"""Tasks of a sweep in an object store do on a node what they do in a sweep's folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kobert_core.checkpoint import WEIGHTS
from kobert_core.io.checksums import sha256_file
from kobert_core.runtime import LocalRuntime, Report
from tests.fixtures.commands import ROOT
from tests.fixtures.sweeps import without_times
from tuning.storage.node import StoredSweep, node_folder
from tuning.storage.store import Store
from tuning.storage.uploads import Uploads
from tuning.study import StudyConfig, dump_study, load_study
from tuning.sweep.checkpoints import StoredCheckpoints
from tuning.sweep.stored_inputs import put_in_store
from tuning.sweep_dir.layout import CACHE, CHECKPOINTS, MODEL_FILES, STUDY, trial_folder
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.workers.checkpoint_tasks import evaluate_checkpoint, review_checkpoint
from tuning.workers.stored_tasks import run_stored
from tuning.workers.train_trial import train_trial

VALUES: dict[str, object] = {
    "optim.backbone_lr": 1e-3,
    "optim.classifier_lr": 1e-3,
    "optim.warmup_ratio": 0.1,
    "optim.accumulation": 1,
    "model.dropout": 0.1,
}


@dataclass(kw_only=True)
class OneWorker(LocalRuntime):
    """A worker without a broker."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    copies: Uploads | None = None
    end: int = 100
    lost_at: int = 101
    """The progress at whose report its machine is lost."""
    each_lands: bool = False
    costs: dict[str, float] = field(default_factory=dict)
    reports: dict[int, Report] = field(default_factory=dict)

    def report(self, report: Report) -> bool:
        self.reports[report.progress] = report
        if report.progress >= self.lost_at:
            assert self.copies is not None
            self.copies.flush()
            raise KeyboardInterrupt
        return True

    def should_stop(self) -> bool:
        return max(self.reports, default=0) >= self.end

    def apart(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def say_all_live(self) -> None:
        pass


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    return load_study(ROOT / "search_spaces" / "quickstart.yaml", ["train.epochs=1", "train.eval_percent=25"])


@pytest.fixture
def sweep(study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredSweep:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return new_sweep(study, tmp_path)


def new_sweep(study: StudyConfig, tmp_path: Path) -> StoredSweep:
    folder = tmp_path / "driver" / "sweep"
    folder.mkdir(parents=True)
    dump_study(study, folder / STUDY)
    store = Store.at(f"file://{tmp_path}/store")
    return put_in_store(study, folder, store / "sweep", store / ".inputs")


def arguments(folder: Path) -> dict[str, Any]:
    return {"study": str(folder / STUDY), "folder": str(folder), "cache": str(folder.parent / CACHE)}


def test_a_trial_moves_to_another_node_and_is_reviewed_on_a_third(
    sweep: StoredSweep, study: StudyConfig, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, alone = Path(sweep.folder), tmp_path / "alone"
    alone.mkdir()
    dump_study(study, alone / STUDY)
    undisturbed = OneWorker()
    train_trial(undisturbed, trial=3, values=VALUES, **arguments(alone) | {"cache": str(cache)})  # type: ignore[arg-type]

    def on_node(name: str, runtime: OneWorker, function: Any = train_trial, **given: Any) -> Any:
        node = tmp_path / name
        node.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(node))
        return run_stored(runtime, sweep=sweep, task=function, **given)  # type: ignore[arg-type]

    task = {"trial": 3, "values": VALUES, **arguments(folder)}
    first, second = OneWorker(lost_at=50), OneWorker()
    with pytest.raises(KeyboardInterrupt):
        on_node("first", first, **task)
    on_node("second", second, **task)
    assert first.reports.keys() == {25, 50} and second.reports.keys() == {50, 75, 100}
    for progress, report in undisturbed.reports.items():
        for told in (first.reports.get(progress), second.reports.get(progress)):
            assert told is None or without_times(told.metrics) == without_times(report.metrics)
    assert not (sweep.folder_here / "trials").exists() or not list((sweep.folder_here / "trials").iterdir())

    best = max((r for r in undisturbed.reports.values() if r.is_best), key=lambda r: r.step)
    assert best.checkpoint is not None
    here = trial_folder(folder, 3)
    model, checkpoint = here / MODEL_FILES, here / CHECKPOINTS / Path(best.checkpoint).name
    given = {"model": str(model), "checkpoint": str(checkpoint), "cache": "", "metrics": best.metrics}
    brought = on_node("third", OneWorker(), review_checkpoint, **given, output=str(folder / "review.jsonl.gz"))
    theirs = {"model": str(trial_folder(alone, 3) / MODEL_FILES), "checkpoint": best.checkpoint, "cache": str(cache)}
    local = tmp_path / "review.jsonl.gz"
    review_checkpoint(OneWorker(), **given | theirs, output=str(local))
    assert brought.files == {str(folder / "review.jsonl.gz"): local.read_bytes()}
    assert study.data.test is not None
    rows = study.data.test.as_json()
    tested = on_node("fourth", OneWorker(), evaluate_checkpoint, **given, file=rows)
    assert tested.value == evaluate_checkpoint(OneWorker(), **given | theirs, file=rows)

    checkpoints = StoredCheckpoints(sweep)
    checkpoints.bring(model)
    checkpoints.bring(checkpoint)
    assert (checkpoint / WEIGHTS).read_bytes() == (Path(best.checkpoint) / WEIGHTS).read_bytes()
    alone_files = {file.name: file.read_bytes() for file in (trial_folder(alone, 3) / MODEL_FILES).iterdir()}
    assert {file.name: file.read_bytes() for file in model.iterdir()} == alone_files, "it names the driver's files"
    log = sweep.store.get("trials/0003/log.txt")
    assert log is not None and log.count(b"worker(s):") == 2
    checkpoints.tidy({checkpoint.parent: checkpoint.name})
    assert sweep.store.names(f"trials/0003/{CHECKPOINTS}") == [checkpoint.name]
    checkpoints.remove(checkpoint.parent)
    assert sweep.store.names(f"trials/0003/{CHECKPOINTS}") == []


class OneGroup:
    """Runs tasks as a pool with a single worker does."""

    def __init__(self, sweep: StoredSweep) -> None:
        self._sweep, self.asked, self.fails = sweep, list[Any](), False

    def settle(self) -> None:
        pass

    def run(self, function: Any, **given: Any) -> Any:
        self.asked.append(given["trial"])
        if self.fails:
            raise RuntimeError("no such file")
        return run_stored(OneWorker(), sweep=self._sweep, task=function, **given).value  # type: ignore[arg-type]


def test_a_checkpoint_that_was_lost_as_its_trial_ended_is_made_again(sweep: StoredSweep, study: StudyConfig) -> None:
    runtime, folder = OneWorker(), Path(sweep.folder)
    run = {"values": VALUES, **arguments(folder)}
    run_stored(runtime, sweep=sweep, task=train_trial, trial=1, end=25, **run)  # type: ignore[arg-type]
    assert runtime.reports.keys() == {25}
    (name,) = sweep.store.names(f"trials/0001/{CHECKPOINTS}")
    checkpoint = f"trials/0001/{CHECKPOINTS}/{name}"
    files = sweep.store.folder_files(checkpoint)
    table, groups, said = TrialTable.of(folder, study), OneGroup(sweep), list[str]()
    table.put(TrialRecord(1, TrialState.PRUNED, VALUES, progress=25, best_progress=25, checkpoint=name))
    table.put(TrialRecord(2, TrialState.RUNNING, VALUES, checkpoint="update-00000001"))
    checkpoints = StoredCheckpoints(sweep)
    assert not checkpoints.mend(groups, table, said.append)  # type: ignore[arg-type]
    assert not groups.asked and not said
    sweep.store.delete_folder(checkpoint)
    checkpoints.mend(groups, table, said.append)  # type: ignore[arg-type]
    assert groups.asked == [1] and len(said) == 1 and "is trained again" in said[0]
    again = sweep.store.folder_files(checkpoint)
    assert files is not None and again is not None and again[WEIGHTS] == files[WEIGHTS]

    sweep.store.delete_folder(checkpoint)
    table.put(replace(table[1], state=TrialState.INTERRUPTED, value=0.7))
    checkpoints.mend(groups, table, said.append)  # type: ignore[arg-type]
    assert groups.asked == [1, 1] and sweep.store.folder_files(checkpoint), "it goes on later, and wins meanwhile"
    table.put(TrialRecord(3, TrialState.PRUNED, VALUES, 25, value=0.9, best_progress=25, checkpoint="update-1"))
    table.put(TrialRecord(4, TrialState.INTERRUPTED, VALUES, 25, value=0.8, best_progress=25, checkpoint="update-1"))
    groups.fails = True
    lost = checkpoints.mend(groups, table, said.append)  # type: ignore[arg-type]
    assert lost == {3, 4} and "trial 3: this has failed: no such file" in said
    winner = table.winner(but=lost)
    assert winner is not None and winner.trial == 1 and table[3].checkpoint, "the next session tries again"


def test_the_folder_of_a_node_is_its_users_alone(sweep: StoredSweep, tmp_path: Path) -> None:
    folder = node_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    assert sweep.folder_here.is_relative_to(folder)


@pytest.mark.parametrize("landed", [4, 13, 19])
def test_a_trial_over_folds_goes_on_from_whatever_has_landed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, landed: int
) -> None:
    """`landed`: how many of its uploads and removals are done when its node is lost."""
    text = (ROOT / "search_spaces" / "quickstart.yaml").read_text(encoding="utf-8")
    text = re.sub(r"dev_fraction: [\d.]+", "folds: 3", text).replace("sample/", f"{ROOT}/search_spaces/sample/")
    (tmp_path / "folds.yaml").write_text(text, encoding="utf-8")
    study = load_study(tmp_path / "folds.yaml", ["confirm=null", "train.epochs=1", "train.eval_percent=50"])
    sweep, alone = new_sweep(study, tmp_path), tmp_path / "alone"
    alone.mkdir()
    dump_study(study, alone / STUDY)
    undisturbed, second = OneWorker(), OneWorker()
    train_trial(undisturbed, trial=3, values=VALUES, **arguments(alone) | {"cache": str(cache)})  # type: ignore[arg-type]
    task = {"task": train_trial, "sweep": sweep, "trial": 3, "values": VALUES, **arguments(Path(sweep.folder))}
    done: list[Any] = []
    with monkeypatch.context() as lost:
        is_done = Uploads._is_done

        def do(uploads: Uploads, what: Callable[[], object]) -> bool:
            done.append(what)
            if len(done) <= landed or "Semaphore" in repr(what):
                return is_done(uploads, what)
            if "upload" in repr(what):
                uploads._room.release()
            return True

        lost.setattr(Uploads, "_is_done", do)
        lost.setattr("tempfile.tempdir", str(new_folder(tmp_path / "first")))
        run_stored(OneWorker(), **task)  # type: ignore[arg-type]
    assert len(done) > landed + 5
    monkeypatch.setattr("tempfile.tempdir", str(new_folder(tmp_path / "second")))
    run_stored(second, **task)  # type: ignore[arg-type]
    assert undisturbed.reports.keys() == {33, 66, 100} >= second.reports.keys()
    for progress, report in second.reports.items():
        assert without_times(report.metrics) == without_times(undisturbed.reports[progress].metrics)
    (kept,) = (trial_folder(alone, 3) / CHECKPOINTS).glob("update-*")
    checkpoints = trial_folder(Path(), 3) / CHECKPOINTS
    assert sweep.store.names(checkpoints.as_posix()) == [kept.name]
    files = sweep.store.folder_files((checkpoints / kept.name).as_posix())
    assert files is not None and files[WEIGHTS] == sha256_file(kept / WEIGHTS)
    StoredCheckpoints(sweep).remove(Path(sweep.folder) / checkpoints)
    assert sweep.store.objects(checkpoints.as_posix()) == {}


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path
