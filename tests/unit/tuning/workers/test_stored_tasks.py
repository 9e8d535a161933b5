"""Tasks of a sweep in an object store do on a node what they do in a sweep's folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from kobert_core.checkpoint import WEIGHTS
from kobert_core.errors import InputError
from kobert_core.runtime import LocalRuntime, Report
from tests.fixtures.commands import ROOT
from tests.fixtures.sweeps import without_times
from tuning.storage.node import StoredSweep, node_folder
from tuning.storage.store import Store
from tuning.storage.uploads import Uploads
from tuning.study import SchedulerConfig, StudyConfig, dump_study, load_study
from tuning.sweep.stored import StoredCheckpoints, put_in_store, refuse_in_store
from tuning.sweep_dir.layout import CACHE, CHECKPOINTS, MODEL_FILES, STUDY, trial_folder
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.workers.stored import run_stored
from tuning.workers.trial import evaluate_checkpoint, review_checkpoint, train_trial

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
        self._sweep, self.asked = sweep, list[Any]()

    def settle(self) -> None:
        pass

    def run(self, function: Any, **given: Any) -> Any:
        self.asked.append(given["trial"])
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
    checkpoints.mend(groups, table, said.append)  # type: ignore[arg-type]
    assert not groups.asked and not said
    sweep.store.delete_folder(checkpoint)
    checkpoints.mend(groups, table, said.append)  # type: ignore[arg-type]
    assert groups.asked == [1] and len(said) == 1 and "is trained again" in said[0]
    again = sweep.store.folder_files(checkpoint)
    assert files is not None and again is not None and again[WEIGHTS] == files[WEIGHTS]


def test_the_folder_of_a_node_is_its_users_alone(sweep: StoredSweep, tmp_path: Path) -> None:
    folder = node_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    assert sweep.folder_here.is_relative_to(folder)


def test_what_needs_a_shared_folder_is_refused(study: StudyConfig) -> None:
    population = study.model_copy(update={"scheduler": SchedulerConfig(name="pbt")})
    with pytest.raises(InputError, match=r"scheduler.name: this is not possible yet"):
        refuse_in_store(population)
    folds = study.model_copy(update={"data": study.data.model_copy(update={"folds": 3})})
    with pytest.raises(InputError, match=r"data.folds: this is not possible yet"):
        refuse_in_store(folds)
    refuse_in_store(study)
