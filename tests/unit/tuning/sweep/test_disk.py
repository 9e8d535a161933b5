"""How much disk the checkpoints of a sweep take, and that the driver leaves no torn record on a full one."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage

from kobert_core.checkpoint import checkpoint_folder
from kobert_core.errors import InputError
from kobert_core.optim import make_optimizer
from kobert_core.tasks import task_class
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.disks import Mount, fill
from tuning.search.journal import SweepJournal
from tuning.study import StudyConfig, load_study
from tuning.sweep.budget import Budget
from tuning.sweep.disk import DiskNeeds, bytes_in, checkpoint_bytes
from tuning.sweep.session import Session
from tuning.sweep.trial_recorder import TrialRecorder
from tuning.sweep_dir.disk_full import DiskFull
from tuning.sweep_dir.layout import CHECKPOINTS, JOURNAL, trial_folder
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

QUICKSTART = Path(__file__).resolve().parents[4] / "search_spaces" / "quickstart.yaml"
SIZE = 2**20


def needs(**values: Any) -> DiskNeeds:
    return DiskNeeds(**({"checkpoint": SIZE, "trials": 2, "each": 4, "kept": 4, "budget": None} | values))


def test_the_size_of_a_checkpoint_is_known_before_there_is_one(cache: Path, tmp_path: Path) -> None:
    study = load_study(QUICKSTART)
    config = study.train_config(study.example_values())
    task = task_class(config.task)(config, cache=cache)
    model = task.build_model()
    optimizer = make_optimizer(model, config.optim)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    folder = checkpoint_folder(tmp_path, 1)
    save_checkpoint(folder, model, {}, optimizer)
    assert checkpoint_bytes(task.build_on_meta()) == pytest.approx(bytes_in(folder), rel=0.02)


def test_a_disk_without_room_is_told_in_a_line(tmp_path: Path) -> None:
    needs().check(tmp_path / "not" / "there")
    with pytest.raises(InputError, match=r"takes up to .*TiB for checkpoints of 1.0TiB, but .* are free; free some"):
        needs(checkpoint=2**40).check(tmp_path)
    with pytest.raises(
        InputError, match=r"^budget.disk: 2 trial\(s\) at once and the winner take up to 10 checkpoints of 1.0MiB, but"
    ):
        needs(budget=9 * SIZE).check(tmp_path)
    needs(budget=10 * SIZE).check(tmp_path)
    needs(checkpoint=2**30, kept=10**6, budget=10 * 2**30).check(tmp_path)  # the kept ones would go


def test_a_trial_of_folds_keeps_one_more_checkpoint() -> None:
    study = load_study(QUICKSTART)
    folded = study.model_copy(update={"data": study.data.model_copy(update={"folds": 5})})
    each = [DiskNeeds.of(one, SIZE, running=1).each for one in (study, folded)]
    assert each == [4, 5]


def test_paused_trials_keep_two_checkpoints(tmp_path: Path) -> None:
    study = load_study(QUICKSTART, ["scheduler={name: promotion}", "budget.trials=20", "confirm=null"])
    found = DiskNeeds.of(study, SIZE, running=2)
    kept = study.keep_checkpoints + 1  # and the baseline's
    assert found.most == (2 * 4 + 18 * 2 + kept + 1) * SIZE
    stopping = load_study(QUICKSTART, ["budget.trials=20", "confirm=null"])
    assert DiskNeeds.of(stopping, SIZE, running=2).most == (2 * 4 + kept + 1) * SIZE
    assert found.least_free == DiskNeeds.of(stopping, SIZE, running=2).least_free, "a paused one writes none"
    limited = needs(paused=18, budget=40 * SIZE)
    assert limited.for_ended(live=1) == (40 - 2 * 4 - 1) * SIZE
    assert limited.for_ended(live=12) == (40 - 2 * 4 - 10 * 2 - 1) * SIZE
    with pytest.raises(InputError, match=r"at once, 18 paused ones and the winner take up to 46 checkpoints"):
        limited.check(tmp_path)
    needs(paused=18, budget=46 * SIZE).check(tmp_path)


def test_trials_that_run_come_before_those_that_ended() -> None:
    assert needs().for_ended(live=2) == math.inf
    assert needs(budget=20 * SIZE).for_ended(live=1) == (20 - 2 * 4 - 1) * SIZE
    assert needs(budget=20 * SIZE).for_ended(live=3) == (20 - 3 * 4 - 1) * SIZE


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(None, {0, 2, 3, 4, 5}), (13.5, {0, 2, 3, 4, 5}), (12.5, {2, 3, 4, 5}), (11.5, {2, 3, 5}), (1, {3, 5})],
)
def test_the_worst_of_the_trials_that_ended_give_their_checkpoints_up(
    tmp_path: Path, budget: float | None, kept: set[int]
) -> None:
    """Trial 5 still runs, and is the best so far, but may fail; of the others 3 is the best, then 2, then 4; trial 0 is
    not among the best three."""
    study = load_study(QUICKSTART)
    table = TrialTable(tmp_path, study.objective)
    for number, value in enumerate([0.1, 0.2, 0.7, 0.9, 0.6, 0.95]):
        folder = checkpoint_folder(trial_folder(tmp_path, number) / CHECKPOINTS, 7)
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(SIZE))
        state = "RUNNING" if number == 5 else "COMPLETE"
        table.put(TrialRecord(number, state, {}, value=value, checkpoint=folder.name))
    disk = needs(budget=budget and int(budget * SIZE))
    recorder = TrialRecorder(study, table, SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), disk)  # type: ignore[arg-type]
    recorder.close()
    there = {int(path.parts[-3]) for path in tmp_path.glob("trials/*/checkpoints/update-*")}
    assert there == kept == {record.trial for record in TrialTable(tmp_path, study.objective) if record.checkpoint}


def kept_of(folder: Path, study: StudyConfig, *trials: tuple[str, float, str | None]) -> set[int]:
    """Of trials that have ended, those that keep their checkpoints."""
    table = TrialTable(folder, study.objective)
    for number, (state, value, checkpoint) in enumerate(trials):
        table.put(TrialRecord(number, TrialState(state), {}, value=value, checkpoint=checkpoint))
    TrialRecorder(study, table, SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), needs()).close()  # type: ignore[arg-type]
    return {record.trial for record in table if record.checkpoint}


def test_the_candidates_of_confirm_keep_their_checkpoints_beside_the_best(tmp_path: Path) -> None:
    stopped, complete = [("PRUNED", 0.9 + each / 100, "update-1") for each in range(5)], ("COMPLETE", 0.8, "update-1")
    trials = [("COMPLETE", 0.7, "update-1"), *stopped, complete, complete]
    study = load_study(QUICKSTART, ["confirm={top: 2}", "keep_checkpoints=1"])
    assert kept_of(tmp_path / "one", study, *trials) == {0, 5, 6, 7}
    alone = load_study(QUICKSTART, ["confirm=null", "keep_checkpoints=2"])
    assert kept_of(tmp_path / "two", alone, *trials) == {0, 4, 5}


def test_what_has_no_checkpoint_any_more_takes_no_place(tmp_path: Path) -> None:
    """An older version kept those of complete trials first."""
    trials = [("COMPLETE", 0.7, "update-1"), ("PRUNED", 0.9, None), ("COMPLETE", 0.8, "update-1")]
    study = load_study(QUICKSTART, ["confirm=null", "keep_checkpoints=1"])
    assert kept_of(tmp_path, study, *trials) == {0, 2}


def test_a_sweep_gives_up_when_too_many_trials_fail_and_names_the_commonest_reason(tmp_path: Path) -> None:
    told: list[bool] = []
    study = load_study(QUICKSTART, ["budget.failed_trials=2"])
    budget = Budget(
        study, lambda: 1, lambda: told.append(True), folder=tmp_path, least_free=lambda: 0, session=Session()
    )
    for reason in ("NonFiniteError: after step 3 train/loss is nan", "Traceback\nValueError: no"):
        budget.count_failure(reason)
        assert not budget.stop_all() and budget.gave_up is None
    budget.count_failure("NonFiniteError: after step 12 train/loss is nan")
    assert budget.stop_all() and budget.stop_all() and told == [True]
    assert budget.gave_up == (
        "3 trial(s) have failed since it was started, more than `budget.failed_trials: 2` allows; 2 of them so: "
        "NonFiniteError: after step 3 train/loss is nan"
    )


def test_a_sweep_gives_up_before_its_disk_is_full(mount_small_disk: Mount, tmp_path: Path) -> None:
    disk = mount_small_disk(tmp_path / "disk", 1024)
    study = load_study(QUICKSTART)
    budget = Budget(study, lambda: 1, lambda: None, folder=disk, least_free=lambda: 200_000, session=Session())
    assert not budget.stop_all()
    fill(disk, but=100_000)
    assert budget.stop_all()
    assert budget.gave_up is not None and f"free in {disk}" in budget.gave_up


def test_a_full_disk_leaves_whole_records_in_the_journal(mount_small_disk: Mount, tmp_path: Path) -> None:
    disk = mount_small_disk(tmp_path / "disk", 64)
    study = optuna.create_study(study_name="s", storage=JournalStorage(SweepJournal(disk / JOURNAL)))
    filler = fill(disk)
    told = 0
    with pytest.raises(DiskFull):
        for _ in range(1000):  # there is room up to the end of a block
            study.tell(study.ask(), 1.0)
            told += 1
    assert (disk / JOURNAL).read_bytes().endswith(b"\n")
    filler.unlink()
    again = optuna.load_study(study_name="s", storage=JournalStorage(SweepJournal(disk / JOURNAL)))
    again.tell(again.ask(), 2.0)
    values = [trial.value for trial in again.trials if trial.value is not None]
    assert values == [1.0] * told + [2.0]


def test_a_full_disk_leaves_the_table_as_it_was(mount_small_disk: Mount, tmp_path: Path) -> None:
    disk = mount_small_disk(tmp_path / "disk", 256)
    study = load_study(QUICKSTART)
    table = TrialTable(disk, study.objective)
    table.put(TrialRecord(0, "COMPLETE", {}, value=0.5))
    fill(disk)
    with pytest.raises(DiskFull):
        table.put(TrialRecord(1, "FAILED", {}, reason="x" * 10_000))
    assert [record.trial for record in TrialTable(disk, study.objective)] == [0]
    assert not list(disk.glob("*.tmp")) and not list(disk.glob(".*.tmp"))
