"""Studies and sweeps as notebooks show them: small tables that take the notebook's own colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from kobert_core.texts import printable
from tuning.display.trials import parted, short_values, values_as_text
from tuning.sweep_dir.trial_status import last_line

if TYPE_CHECKING:
    from tuning.api.sweep import Look
    from tuning.study import StudyConfig

MOST_ROWS = 15
WARNINGS_SHOWN = 5


def text(value: object) -> str:
    """A text that means nothing to a browser."""
    return escape(printable(str(value)))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], bold: object = None) -> str:
    """Rows of texts under a head; the row that begins with `bold` is."""
    names = "".join(f"<th style='text-align: left'>{text(name)}</th>" for name in head)
    lines = []
    for row in rows:
        weight = " style='font-weight: bold'" if bold is not None and row[0] == bold else ""
        cells = "".join(f"<td style='text-align: left'>{text(cell)}</td>" for cell in row)
        lines.append(f"<tr{weight}>{cells}</tr>")
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def sweep_html(look: Look) -> str:
    """How far a sweep is, its best trials, and what it warns of."""
    head, *more = look.lines()
    parts = [f"<p><b>{text(head)}</b>{''.join(f'<br>{text(line)}' for line in more)}</p>"]
    records, short = list(look.table), short_values(look.table)
    shown, hidden = parted(records, MOST_ROWS, best=look.winner)
    if shown:
        metric = look.table.objective.metric
        rows = [
            (
                record.trial,
                record.state.lower(),
                f"{record.progress}%",
                "" if record.value is None else f"{record.value:.4f}",
                (f"{last_line(record.reason)} " if record.reason else "") + values_as_text(record, short),
            )
            for record in shown
        ]
        parts.append(table(("trial", "state", "done", metric, "values"), rows, look.winner and look.winner.trial))
    if hidden:
        parts.append(f"<p>… and {len(hidden)} more</p>")
    parts += [f"<p>{text(line)}</p>" for line in look.heard.warnings[:WARNINGS_SHOWN]]
    return f"<div>{''.join(parts)}</div>"


def study_html(study: StudyConfig, files: dict[str, str]) -> str:
    """What a study trains and searches. `files`: what its data is called."""
    facts = [
        ("task", study.task),
        *files.items(),
        ("objective", f"{study.objective.mode} {study.objective.metric}"),
        ("search", f"{study.search.algorithm}, scheduler {study.scheduler.name}"),
        ("trials", study.budget.trials),
    ]
    space = [
        (name, ", ".join(f"{key}: {value}" for key, value in content.items()))
        for name, content in study.space.to_dict().items()
    ]
    parts = [f"<p><b>{text(study.name)}</b></p>", table(("", ""), facts)]
    if space:
        parts.append(table(("parameter", "values"), space))
    return f"<div>{''.join(parts)}</div>"
