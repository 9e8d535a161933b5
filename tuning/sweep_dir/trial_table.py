"""The trial table of a sweep, and its winner."""

from __future__ import annotations

import csv
import io
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Self, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # of typing, Pydantic reads it from Python 3.12 on

from kobert_core.config import Objective
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json, atomic_write_text
from kobert_core.io.checksums import sealed, unsealed
from search_spaces.validation import show
from tuning.study.objectives import Further, broken_by, constraints_in, goals_in, in_digits
from tuning.sweep_dir.disk_full import ending_when_full
from tuning.sweep_dir.layout import LEDGER, MODEL, TABLE, WINNER
from tuning.sweep_dir.trial_status import UNFINISHED, TrialState, last_line

if TYPE_CHECKING:
    from tuning.study import StudyConfig


Copied = TypedDict(
    "Copied",
    {"from": int, "progress": int, "values": dict[str, object], "weights_of": NotRequired[dict[str, object]]},
)
"""A trial went on `from` another one's weights, which were trained with `weights_of`; from there on it has `values`."""


class Winner(TypedDict):
    """Of the winner, in `winner.json`."""

    trial: int
    value: NotRequired[float]
    metrics: NotRequired[dict[str, float]]
    checkpoint: NotRequired[str | None]


class WinnerFile(TypedDict):
    """The parts of `winner.json` that are read."""

    winner: Winner
    test: dict[str, dict[str, float]]
    notes: NotRequired[list[str]]
    verdict: NotRequired[dict[str, object] | None]
    seeds: NotRequired[dict[str, Any] | None]
    decoding: NotRequired[dict[str, Any] | None]


@dataclass
class TrialRecord:
    """One trial in the ledger."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    trial: Annotated[int, Field(ge=0)]
    state: TrialState
    values: dict[str, object]
    """Searched values, by parameter; with `pbt` the last ones that its best checkpoint was trained with."""
    progress: int = 0
    """Percent of its own steps that are done."""
    steps: Annotated[int, Field(alias="update")] = 0
    """The steps that are done."""
    value: float | None = None
    """The objective at the best evaluation: that of the checkpoint that would be exported."""
    best_progress: int | None = None
    curve: dict[int, float] = field(default_factory=dict)
    """The objective by progress: what a resumed sweep tells the search and the scheduler."""
    metrics: dict[str, float] = field(default_factory=dict)
    """All metrics of the best evaluation."""
    checkpoint: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = None
    """Name of the best checkpoint's folder; None when there is none, or it was removed."""
    started: float = 0.0
    """Seconds since 1970."""
    seconds: float = 0.0
    """Wall time of the trial over all its sessions."""
    reason: str | None = None
    """Why it failed."""
    lineage: list[Copied] = field(default_factory=list)
    """With `pbt`, each time that it continued from another trial's weights."""
    micro_batch: int | None = None
    """The size of its micro-batches, if memory ran out with that of the study."""
    logged_step: Annotated[int, Field(alias="step")] = 0
    """Of its latest metrics in MLflow: the steps done, unless it went back to another trial's weights."""
    landed: str | None = None
    """Where the sweep's home is an object store: name of the newest checkpoint that was whole there at its last report;
    what it does after that may have to be done again."""

    @property
    def has_ended(self) -> bool:
        """Whether it will not continue, even if the sweep is resumed."""
        return self.state not in UNFINISHED

    @property
    def is_at_rest(self) -> bool:
        """Whether it has ended, or is paused."""
        return self.has_ended or self.state == TrialState.PAUSED

    @property
    def newest_values(self) -> dict[str, object]:
        """The values that it trains with, or had at its end."""
        return dict(self.lineage[-1]["values"]) if self.lineage else self.values

    def values_at(self, progress: int) -> dict[str, object]:
        """The values that the weights of a report were trained with: a copy's first weights are another trial's."""
        if self.lineage and progress <= self.lineage[-1]["progress"]:
            return dict(self.lineage[-1].get("weights_of", self.values))
        return self.newest_values


_RECORD = TypeAdapter(TrialRecord)


class TrialTable:
    """All trials of a sweep, written to its folder at every change: `trials.json` for the program, `trials.csv` for
    people."""

    def __init__(
        self, folder: Path, objective: Objective, further: Further = (), *, complete_first: bool = False
    ) -> None:
        """The table of a sweep's folder, empty if there is none yet.

        Args:
            folder: Of the sweep.
            objective: By which trials are ranked.
            further: The objectives and constraints behind the first objective.
            complete_first: Complete trials rank before all others, since the values of unfinished ones do not compare.
                With `further` they always do: a front is of complete trials, and what is unfinished costs less.
        """
        self.folder, self.objective, self.further = folder, objective, further
        self.complete_first = complete_first or bool(further)
        self.on_change: Callable[[TrialRecord], None] | None = None
        self.lock = threading.RLock()
        self._records: dict[int, TrialRecord] = {}
        if (folder / LEDGER).is_file():
            for record in _read_ledger(folder / LEDGER):
                self._records[record.trial] = record

    @classmethod
    def of(cls, folder: Path, study: StudyConfig) -> Self:
        """The table of a sweep's folder, which compares trials as its study says: with folds, the value of an
        unfinished trial is the mean of fewer of them."""
        return cls(folder, study.objective, study.further, complete_first=study.data.folds is not None)

    def __iter__(self) -> Iterator[TrialRecord]:
        with self.lock:
            return iter(sorted(self._records.values(), key=lambda record: record.trial))

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, trial: int) -> bool:
        return trial in self._records

    def __getitem__(self, trial: int) -> TrialRecord:
        try:
            return self._records[trial]
        except KeyError:
            there = f"trials 0 to {len(self) - 1} are there" if len(self) else "it has no trials"
            raise InputError(f"there is no trial {trial} in this sweep; {there}", where=self.folder) from None

    def get(self, trial: int) -> TrialRecord | None:
        """A trial by its number; None when it has not begun."""
        return self._records.get(trial)

    def put(self, record: TrialRecord) -> None:
        """Add or replace a trial, and write the table."""
        with self.lock:
            self._records[record.trial] = record
            self.write()
        if self.on_change:
            self.on_change(record)

    def write(self) -> None:
        """Write both files.

        Raises:
            DiskFull: there is no space for them; what was written before is there still.
        """
        with self.lock:
            records = list(self)
        with ending_when_full():
            atomic_write_json(self.folder / LEDGER, [sealed(as_row(record)) for record in records])
            atomic_write_text(self.folder / TABLE, as_csv(records, self._columns()))

    def forget(self) -> None:
        """Remove all trials and both files."""
        with self.lock:
            self._records.clear()
            for name in (LEDGER, TABLE):
                (self.folder / name).unlink(missing_ok=True)

    def trials_left(self, study: StudyConfig) -> int:
        """The number of trials of a study that are still to be run."""
        return study.trials_left([record.values for record in self if record.has_ended])

    def states(self) -> dict[str, int]:
        """Number of trials by state."""
        return dict(Counter(record.state for record in self))

    @property
    def steps(self) -> int:
        """The steps that all trials have done."""
        return sum(record.steps for record in self)

    def is_of(self, result: Mapping[str, object]) -> bool:
        """Whether a result, as `winner.json` has it, is of these trials: none has begun, ended or gone on since."""
        here = {"states": self.states(), "steps": self.steps}
        return all(result.get(name, value) == value for name, value in here.items())

    def best(self, count: int) -> list[TrialRecord]:
        """The best trials, best first, by the value that each has or had at its best evaluation; those that break a
        constraint come last, and of equals the first one is better.

        A trial that was stopped, or still runs, may be the best one, as in Ray Tune: it has the checkpoint. Replayed on
        recorded trainings (`benchmarks/hpo`), what is best so far is nearer to the best there is than the best of the
        complete trials alone.
        """
        ranked = [r for r in self if r.value is not None and r.state != TrialState.FAILED]
        return sorted(ranked, key=lambda record: (self._rank(record), record.trial))[:count]

    def _rank(self, record: TrialRecord) -> tuple[bool, bool, float]:
        value = record.value or 0.0
        unfinished = self.complete_first and record.state != TrialState.COMPLETE
        return not self.keeps(record), unfinished, -value if self.objective.mode == "max" else value

    def winner(self, *, but: Collection[int] = ()) -> TrialRecord | None:
        """The best trial that has a checkpoint, or if none has, the best one, `but` for some numbers; None if all
        failed, or none keeps all constraints."""
        ranked = [record for record in self.best(len(self)) if self.keeps(record) and record.trial not in but]
        return next((record for record in ranked if record.checkpoint), next(iter(ranked), None))

    def keeps(self, record: TrialRecord) -> bool:
        """Whether a trial keeps all constraints."""
        return not broken_by(record.metrics, self.further)

    def breaks(self, record: TrialRecord) -> str:
        """Which constraints a trial breaks, and what it has: `cost/latency_ms below 20 (24.1)`; empty if none."""
        return ", ".join(
            f"{each.name} ({in_digits(record.metrics[each.metric])})"
            for each in broken_by(record.metrics, self.further)
            if each.metric in record.metrics
        )

    def why_no_winner(self) -> str | None:
        """In a sentence, that no trial keeps all constraints, and which came closest; None unless that is so."""
        ranked = self.best(len(self))
        if not ranked or self.keeps(ranked[0]):
            return None

        def missed_by(record: TrialRecord) -> float:
            found = [each.violation(record.metrics) for each in constraints_in(self.further)]
            return sum(math.inf if violation is None else max(0.0, violation) for violation in found)

        closest, bounds = min(ranked, key=missed_by), ", ".join(each.name for each in constraints_in(self.further))
        return f"no trial keeps all constraints ({bounds}): trial {closest.trial} comes closest, with " + ", ".join(
            f"{each.metric} {in_digits(closest.metrics[each.metric])}"
            for each in broken_by(closest.metrics, self.further)
            if each.metric in closest.metrics
        )

    def goals_of(self, record: TrialRecord) -> dict[str, float]:
        """What a trial has of the first objective and of each further one, by metric."""
        assert record.value is not None
        return {self.objective.metric: record.value} | {
            each.metric: record.metrics[each.metric] for each in goals_in(self.further)
        }

    def front(self) -> list[TrialRecord]:
        """The Pareto front, best by the first objective first: trials that ran to their ends and keep all constraints,
        where no other such trial is as good in all objectives and better in one. Empty with one objective."""
        if not goals_in(self.further):
            return []
        goals = {each.metric for each in goals_in(self.further)}
        ended = [
            record
            for record in self.best(len(self))
            if record.state == TrialState.COMPLETE and self.keeps(record) and record.metrics.keys() >= goals
        ]
        signs = [1 if each.mode == "max" else -1 for each in (self.objective, *goals_in(self.further))]
        points = {
            record.trial: [sign * value for sign, value in zip(signs, self.goals_of(record).values(), strict=True)]
            for record in ended
        }

        def dominated(point: list[float]) -> bool:
            return any(
                other != point and all(theirs >= ours for theirs, ours in zip(other, point, strict=True))
                for other in points.values()
            )

        return [record for record in ended if not dominated(points[record.trial])]

    def _columns(self) -> dict[str, dict[int, str]]:
        """Columns of `trials.csv` where there are further objectives or constraints, by name and trial."""
        columns = {}
        if goals_in(self.further):
            columns["pareto_front"] = {record.trial: "yes" for record in self.front()}
        if constraints_in(self.further):
            columns["breaks"] = {record.trial: self.breaks(record) for record in self}
        return columns

    def is_out_of_patience(self, patience: int | None) -> bool:
        """Whether the latest trials that ended or are paused, as many as `patience`, are no better than one before.

        Only numbers and values count, and not when a trial ended, so that a resumed sweep comes to the same.
        """
        if patience is None:
            return False
        best = next((record for record in self.best(len(self)) if record.is_at_rest and self.keeps(record)), None)
        if best is None:
            return False
        return sum(record.is_at_rest and record.trial > best.trial for record in self) >= patience

    def ties(self, winner: TrialRecord) -> list[TrialRecord]:
        """The trials that rank with the winner, including it: only the first of them wins."""
        return [record for record in self.best(len(self)) if self._rank(record) == self._rank(winner)]


def standing(record: TrialRecord) -> str:
    """A trial, its state and its progress: `trial 3, pruned at 50%`."""
    how_far = "" if record.state == TrialState.COMPLETE else f" at {record.progress}%"
    return f"trial {record.trial}, {record.state.lower()}{how_far}"


def as_row(record: TrialRecord) -> dict[str, object]:
    """A trial as JSON."""
    row: dict[str, object] = _RECORD.dump_python(record, by_alias=True, warnings=False)
    row["curve"] = {str(progress): value for progress, value in record.curve.items()}
    if record.landed is None:
        del row["landed"]
    return row


def as_csv(records: list[TrialRecord], columns: Mapping[str, Mapping[int, str]] = MappingProxyType({})) -> str:
    """The table for people: a line a trial, with its values and metrics, and the last line of why it failed; before
    these, more `columns`, by name and trial."""
    parameters = sorted({name for record in records for name in record.values})
    metrics = sorted({name for record in records for name in record.metrics})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    plain = ["trial", "state", "progress", "value", "best_progress", "seconds"]
    writer.writerow([*plain, *parameters, *metrics, *columns, "checkpoint", "reason"])
    for record in records:
        row: list[object] = [getattr(record, name) for name in plain]
        row[-1] = round(record.seconds, 3)
        row += [record.values.get(name) for name in parameters] + [record.metrics.get(name) for name in metrics]
        row += [column.get(record.trial) for column in columns.values()]
        reason = last_line(record.reason) if record.reason else None
        writer.writerow(["" if cell is None else cell for cell in [*row, record.checkpoint, reason]])
    return buffer.getvalue()


def read_winner(folder: Path) -> WinnerFile:
    """`winner.json` of a sweep. Raises InputError when there is none."""
    path = folder / WINNER
    winner = unsealed(_read_json(path), where=path)
    try:
        int(winner["winner"]["trial"]), dict(winner["test"])
    except (LookupError, TypeError, ValueError) as error:
        raise InputError("this is no result of a sweep", where=path) from error
    return cast(WinnerFile, winner)


def is_as_it_won(record: TrialRecord, result: WinnerFile) -> bool:
    """Whether the best evaluation of a winner is still the one that it won with: a sweep may have gone on since."""
    winner = result["winner"]
    return winner.get("checkpoint", record.checkpoint) == record.checkpoint and (
        winner.get("value", record.value) == record.value
    )


def refuse_gone_on(record: TrialRecord, result: WinnerFile, sweep: str) -> None:
    """Refuse to take a trial for the winner that it was.

    Raises:
        InputError: its best evaluation is not the one that it won with.
    """
    if not is_as_it_won(record, result):
        what = f"trial {record.trial} has gone on since it won, or lost its checkpoint to better ones"
        raise InputError(what, where=sweep, fix=f"take {sweep}/{MODEL}, which won, or finish the sweep: `--resume`")


def _read_ledger(path: Path) -> list[TrialRecord]:
    rows = _read_json(path)
    if not isinstance(rows, list):
        raise InputError("this is no list of trials", where=path)
    try:
        return [_RECORD.validate_python(unsealed(row, where=path)) for row in rows]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(f"a trial's `{name}` cannot be {show(first['input'])}", where=path) from error


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("the file is not there", where=path, fix="give the folder of a finished sweep") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the file cannot be read ({error})", where=path) from error
