"""Which checkpoints the ledger may name: those that are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kobert_core.config import Objective
from tuning.storage.inputs import Inputs, StoredInput
from tuning.storage.node import StoredSweep
from tuning.storage.store import Store
from tuning.sweep.checkpoints import Checkpoints, LocalCheckpoints, StoredCheckpoints, forget_given_up
from tuning.sweep_dir.layout import checkpoint_of
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

Where = Callable[[TrialTable, list[TrialRecord]], Checkpoints]


def local(table: TrialTable, there: list[TrialRecord]) -> Checkpoints:
    for record in there:
        checkpoint_of(table.folder, record).mkdir(parents=True)
    return LocalCheckpoints()


def stored(table: TrialTable, there: list[TrialRecord]) -> Checkpoints:
    local(table, there)
    store = Store.at(f"file://{table.folder}/store")
    sweep = StoredSweep(store, str(table.folder), StoredInput("", "study.yaml", False), Inputs(store, {}, {}))
    for record in there:
        checkpoint = checkpoint_of(table.folder, record)
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        store.upload_folder(checkpoint, sweep.key_of(checkpoint))
    return StoredCheckpoints(sweep)


@pytest.mark.parametrize("where", [local, stored])
def test_a_trial_that_took_anothers_weights_at_the_end_does_not_win_by_its_own(where: Where, tmp_path: Path) -> None:
    table = TrialTable(tmp_path, Objective(metric="eval/accuracy", mode="max"))
    records = [
        TrialRecord(
            trial,
            TrialState.INTERRUPTED,
            {},
            progress=60,
            value=value,
            best_progress=40,
            curve={40: value},
            metrics={"eval/accuracy": value},
            checkpoint=f"update-0000000{trial}",
        )
        for trial, value in enumerate((0.7, 0.9, 0.8))
    ]
    for record in records:
        table.put(record)
    checkpoints = where(table, [records[0], records[2]])
    assert table.winner() is records[1], "the best that it ever was"
    forget_given_up(table, checkpoints)
    again = TrialTable(tmp_path, table.objective)
    winner, given_up = again.winner(), again[1]
    assert winner is not None and winner.trial == 2 and winner.checkpoint == "update-00000002"
    assert (given_up.value, given_up.checkpoint, given_up.metrics) == (None, None, {})
    assert given_up.curve == {40: 0.9} and given_up.state == TrialState.INTERRUPTED, "it can go on"
