"""The page of a report: its sections, its style, and Plotly beside them.

plotly.js is 4.8 MB, and its Python package has no smaller bundle: the page has it compressed (2 MB in base64), and the
browser inflates it.
"""

from __future__ import annotations

import base64
import gzip
import time
from functools import cache
from pathlib import Path

from kobert_core.io.atomic import atomic_write_text
from tuning.report.elements import Markup, Section, escaped
from tuning.report.sections import sections_of
from tuning.report.sweep_data import SweepData, read_sweep
from tuning.sweep_dir.layout import REPORT

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:"
"""The page loads nothing, whatever is in its texts. Plotly makes functions of texts, and pictures of blobs."""


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write the report of a sweep, which may be running, into its folder or to another place.

    Raises:
        InputError: this is no sweep, no trial has begun, or a file is damaged.
        OSError: it cannot be written.
    """
    path = output or folder / REPORT
    atomic_write_text(path, build_report(folder))
    return path


def build_report(folder: Path) -> str:
    """The page, as HTML. Raises InputError as `write_report` does."""
    data = read_sweep(folder)
    sections = sections_of(data)
    own = Path(__file__).parent
    links = "".join(f'<li><a href="#{section.anchor}">{escaped(section.title)}</a></li>' for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escaped(data.folder.name)}: report</title>
<link rel="icon" href="data:,">
<style>
{(own / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{escaped(data.folder.name)}</h1>
{_summary(data)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{"".join(map(_section, sections))}</main>
<script type="text/plain" id="plotly">{_plotly()}</script>
<script>
{(own / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def _summary(data: SweepData) -> Markup:
    study = data.study
    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(data.table.states().items()))
    now = time.strftime("%Y-%m-%d %H:%M", time.localtime())
    return Markup(
        f"<p>Study <code>{escaped(study.name)}</code>, task <code>{escaped(study.task)}</code>, "
        f"{escaped(study.objective.mode)} <code>{escaped(study.objective.metric)}</code>. "
        f"{len(data.records):,} of {study.budget.trials:,} trials: {escaped(states)}. Written on {now}.</p>"
    )


def _section(section: Section) -> str:
    parts = "\n".join(section.parts)
    title = escaped(section.title)
    return f'<section id="{section.anchor}">\n<h2>{title}</h2>\n{parts}\n</section>\n'


@cache
def _plotly() -> str:
    """plotly.js, as gzip in base64."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), mtime=0)).decode("ascii")
