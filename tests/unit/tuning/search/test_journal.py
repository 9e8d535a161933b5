"""Optuna's journal with a checksum beside it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from kobert_core.errors import InputError
from tuning.search.journal import SweepJournal


def study_in(path: Path) -> optuna.Study:
    storage = JournalStorage(SweepJournal(path))
    return optuna.create_study(storage=storage, study_name="s", load_if_exists=True)


def test_a_journal_goes_on_and_is_still_optunas(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    for _ in range(2):
        study_in(path).optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    plain = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    plain.optimize(lambda trial: 0.5, n_trials=1)
    assert len(study_in(path).trials) == 5, "what another tool appended is taken"


def test_what_was_altered_is_refused_and_a_torn_end_is_not(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    study_in(path).optimize(lambda trial: trial.suggest_float("x", 0.25, 1), n_trials=1)
    content = path.read_bytes()
    path.write_bytes(content + b'{"op_code": 4, "wor')
    SweepJournal(path)
    for damaged in (content.replace(b"0.25", b"0.35", 1), content[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"the journal is not the one of which journal\.log\.sha256 tells"):
            SweepJournal(path)
    path.write_bytes(content)
    (tmp_path / "journal.log.sha256").write_text("{}")
    with pytest.raises(InputError):
        SweepJournal(path)
