"""A trial's model out of a sweep's folder: for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuning.study import StudyConfig
from tuning.sweep_dir.home import place_of
from tuning.sweep_dir.layout import WINNER
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, is_as_it_won, read_winner, refuse_gone_on

Complete = Callable[[Path, StudyConfig, TrialRecord], object]


def export_trial(sweep: Path, trial: int | None, output: Path, *, complete: Complete | None = None) -> None:
    """Write the best checkpoint of a trial, or of the winner, as a HuggingFace folder; the winner's card has what the
    sweep says of it.

    Args:
        sweep: Folder of the sweep.
        trial: Its number; None is the winner.
        output: Folder to make.
        complete: Puts what else there is into the folder, before it has its name.

    Raises:
        InputError: there is no such trial, it has no checkpoint any more, the winner has gone on since it won, or
            `output` cannot be made.
    """
    from tuning.sweep.comparison import Comparison, baselines_of
    from tuning.sweep.export import export_model

    study = load_sweep_study(sweep)
    table = TrialTable.of(sweep.resolve(), study)
    result = read_winner(sweep) if trial is None or (sweep / WINNER).is_file() else None
    if trial is None:
        assert result is not None
        trial = result["winner"]["trial"]
        refuse_gone_on(table[trial], result, place_of(sweep))
    record = table[trial]
    about: dict[str, Any] = {}
    if result is not None and trial == result["winner"]["trial"] and is_as_it_won(record, result):
        beside = Comparison(baselines=baselines_of(table, study), notes=tuple(result.get("notes", ())))
        about = {"test": result["test"], "comparison": beside, "verdict": result.get("verdict")}
    more: dict[str, Any] = {"complete": lambda folder: complete(folder, study, record)} if complete else {}
    export_model(sweep, study, record, output, **about, **more)
