"""What people read of a sweep and its trials in MLflow, as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from kobert_core.texts import printable
from tuning.sweep_dir.layout import STUDY
from tuning.tracking import Status

if TYPE_CHECKING:
    from tuning.study import StudyConfig
    from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

SHOWN_TRIALS = 5
_HOW = {
    "RUNNING": "**Running.**",
    "COMPLETE": "**Complete**: it ran to its end.",
    "PRUNED": "**Pruned** at {progress}%: the scheduler stopped it.",
    "FAILED": "**Failed** at {progress}%: `{reason}`",
    "INTERRUPTED": "**Interrupted** at {progress}%: it goes on when the sweep does.",
    "PAUSED": "**Paused** at {progress}%: it goes on once it is among the best of those that came so far.",
}


def describe_trial(record: TrialRecord, *, reason: str = "") -> str:
    """How a trial ended, its best evaluation, and its values; `reason` is a line that says why it failed."""
    parts = [_HOW[record.state].format(progress=record.progress, reason=reason.replace("`", "'"))]
    if record.metrics:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in record.metrics.items() if name.startswith("eval/"))
        parts.append(f"Best evaluation, at {record.best_progress}%: {scores}.")
    if record.values:
        parts.append(_table(["parameter", "value"], record.values.items()))
    return "\n\n".join(parts)


def describe_sweep(
    study: StudyConfig, table: TrialTable, *, status: Status | None, result: Mapping[str, object] | None
) -> str:
    """The verdict or the winner, the best trials, and how to go on.

    Args:
        study: Of the sweep.
        table: Its trials.
        status: How it ended; None while it runs.
        result: The content of `winner.json`, where there is one of this end.
    """
    from tuning.study.encoders import short_name, short_names

    parts = [*_outcome(study, table, status=status, result=result)]
    if best := table.best(SHOWN_TRIALS):
        names = list(dict.fromkeys(name for record in best for name in record.values))
        short = short_names(value for record in best for value in record.values.values() if isinstance(value, str))
        rows = []
        for record in best:
            values = [record.values.get(name) for name in names]
            cells = [short_name(value, short) if isinstance(value, str) else value for value in values]
            rows.append((record.trial, f"{record.value:.4f}", record.state.lower(), *cells))
        parts.append(_table(["trial", study.objective.metric, "state", *names], rows))
    folder = table.folder
    again = ["kobert-tune", "sweep", folder / STUDY, "--name", folder.name, "--output", folder.parent, "--resume"]
    commands = [again, ["kobert-tune", "report", folder], ["kobert-tune", "ui", folder]]
    lines = "\n".join(shlex.join(map(str, command)) for command in commands)
    parts.append(f"To go on (for more trials with `--trials`), to read on, and to see all trials:\n\n```\n{lines}\n```")
    return "\n\n".join(parts)


def _outcome(
    study: StudyConfig, table: TrialTable, *, status: Status | None, result: Mapping[str, object] | None
) -> Iterable[str]:
    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(table.states().items()))
    objective = study.objective
    unmet = table.why_no_winner() if status is not None else None
    if result is not None:
        verdict, winner, notes = result.get("verdict"), result["winner"], result.get("notes")
        if isinstance(verdict, Mapping) and verdict.get("sentence"):
            yield f"**{verdict['sentence']}**"
        if isinstance(winner, Mapping):
            yield f"**Winner: trial {winner['trial']}**, {objective.metric} {winner['value']:.4f} ({states})."
        if front := table.front():
            header = ["on the Pareto front", *table.goals_of(front[0])]
            yield _table(header, [(f"trial {each.trial}", *table.goals_of(each).values()) for each in front])
        if isinstance(notes, Sequence) and notes:
            yield "\n".join(f"- {_plain(note)}" for note in notes)
    elif status is None:
        goal = study.objectives_in_words if study.further else f"the {objective.mode}imum of {objective.metric}"
        how = f"{study.search.algorithm}, scheduler {study.scheduler.name}"
        yield f"**Running**: {study.budget.trials} trials for {goal}, by {how}."
    elif status == "KILLED":
        yield f"**Interrupted** ({states or 'no trials'})."
    else:
        yield f"**No winner** ({states or 'no trials'}){f': {unmet}' if unmet else ''}."


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(value: object) -> str:
    """A value in a cell of a table."""
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(printable(text).split()).replace("|", "\\|")
