"""A sweep's trials, curves and runs as DataFrames: one row each, typed columns, no levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from kobert_core.config import Objective
from tuning.sweep_dir.trial_status import last_line

if TYPE_CHECKING:
    from tuning.sweep_dir.confirm_runs import ConfirmRun
    from tuning.sweep_dir.trial_table import TrialRecord


def trials_frame(records: Iterable[TrialRecord], winner: int | None) -> pd.DataFrame:
    """A row a trial: its state and value, then its parameters and the metrics of its best evaluation, by their names.

    What a trial does not have is missing (`NA`), and does not change the type of a column.
    """
    records = list(records)
    columns: dict[str, Any] = {
        "trial": _typed([record.trial for record in records], "int64"),
        "state": _typed([str(record.state) for record in records], "string"),
        "winner": _typed([record.trial == winner for record in records], "bool"),
        "value": _typed([record.value for record in records], "Float64"),
        "progress": _typed([record.progress for record in records], "int64"),
        "best_progress": _typed([record.best_progress for record in records], "Int64"),
        "step": _typed([record.steps for record in records], "int64"),
        "started": pd.to_datetime([record.started or None for record in records], unit="s", utc=True),
        "seconds": _typed([record.seconds for record in records], "float64"),
    }
    for name in _names(record.values for record in records):
        columns[name] = _parameter([record.values.get(name) for record in records])
    for name in _names(record.metrics for record in records):
        columns[name] = _typed([record.metrics.get(name) for record in records], "Float64")
    columns["reason"] = _typed([last_line(record.reason) if record.reason else None for record in records], "string")
    return pd.DataFrame(columns)


def curves_frame(reports: Sequence[tuple[int | str, int, dict[str, float], int]]) -> pd.DataFrame:
    """A row for each metric of each evaluation: trial, progress in percent, step, metric, value."""
    rows = [
        (trial, metrics.get("progress"), step, name, value)
        for trial, step, metrics, _ in sorted(
            (each for each in reports if isinstance(each[0], int)), key=lambda each: each[:2]
        )
        for name, value in metrics.items()
        if name != "progress" and "progress" in metrics
    ]
    frame = pd.DataFrame(rows, columns=["trial", "progress", "step", "metric", "value"])
    return frame.astype(
        {"trial": "int64", "progress": "int64", "step": "int64", "metric": "string", "value": "float64"}
    )


def objective_frame(records: Iterable[TrialRecord], objective: Objective) -> pd.DataFrame:
    """The same of the objective alone, whose steps are not known: what the ledger has."""
    rows = [
        (record.trial, progress, objective.metric, value)
        for record in records
        for progress, value in sorted(record.curve.items())
    ]
    frame = pd.DataFrame(rows, columns=["trial", "progress", "metric", "value"])
    frame.insert(2, "step", pd.array([pd.NA] * len(frame), dtype="Int64"))
    return frame.astype({"trial": "int64", "progress": "int64", "metric": "string", "value": "float64"})


def confirmations_frame(runs: Iterable[ConfirmRun]) -> pd.DataFrame:
    """A row for each run with another seed: whose values it has, what for, its value on dev, and its scores on the
    holdout."""
    runs = list(runs)
    columns: dict[str, Any] = {
        "run": _typed([run.number for run in runs], "int64"),
        "trial": _typed([run.trial for run in runs], "int64"),
        "seed": _typed([run.seed for run in runs], "int64"),
        "stage": _typed([run.stage for run in runs], "string"),
        "state": _typed([str(run.state) for run in runs], "string"),
        "value": _typed([run.value for run in runs], "Float64"),
        "seconds": _typed([run.seconds for run in runs], "float64"),
    }
    for name in _names(run.holdout for run in runs):
        columns[name] = _typed([run.holdout.get(name) for run in runs], "Float64")
    return pd.DataFrame(columns)


def _names(rows: Iterable[dict[str, Any]]) -> list[str]:
    return sorted({name for row in rows for name in row})


def _typed(values: Sequence[object], dtype: str) -> Any:
    return pd.array(values, dtype=dtype)


def _parameter(values: Sequence[object]) -> Any:
    """A column of numbers, switches or texts; of what is mixed, objects."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return _typed(values, "boolean")
    if kinds <= {int}:
        return _typed(values, "Int64")
    if kinds <= {int, float}:
        return _typed(values, "Float64")
    return _typed(values, "string") if kinds <= {str} else pd.Series(list(values), dtype=object)
