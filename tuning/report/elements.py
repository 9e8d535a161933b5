"""Pieces of HTML. Texts of users are escaped here, and nowhere else."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kobert_core.texts import printable

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NOTHING = "–"
LONG = 30
"""A cell with more characters has a column that is wide enough to read it."""


class Markup(str):
    """HTML that goes into the page as it is."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    parts: Sequence[Markup]

    @property
    def anchor(self) -> str:
        """What a link to it names."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def escaped(value: object) -> str:
    """A text as HTML shows it."""
    return html.escape(printable(str(value)))


def cell(value: object) -> str:
    """A value as HTML. A number that is shortened keeps all of its digits, for who reads the page by a program."""
    if isinstance(value, Markup):
        return value
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f'<data value="{value!r}">{number(value)}</data>'
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or NOTHING
    return escaped(value)


def number(value: float) -> str:
    """A number that people can compare: four digits behind the point, or as many that count where it is small."""
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{value:,.0f}"
    if not math.isfinite(value) or abs(value) >= 1e6:
        return f"{value:.6g}"
    return f"{value:,.4f}" if abs(value) >= 0.01 else f"{value:.4g}"


def seconds(value: float) -> Markup:
    """A time, as people say it."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    told = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{value:.1f} s"
    return Markup(f'<data value="{value!r}">{told}</data>')


def paragraph(content: str, kind: str = "") -> Markup:
    """A paragraph of text, or of markup; `kind` is its CSS class."""
    inner = content if isinstance(content, Markup) else escaped(content)
    return Markup(f'<p class="{kind}">{inner}</p>' if kind else f"<p>{inner}</p>")


def code(content: str) -> Markup:
    """Lines for a terminal, or of a file."""
    return Markup(f'<pre tabindex="0"><code>{escaped_lines(content)}</code></pre>')


def escaped_lines(content: str) -> str:
    """A text of several lines, each escaped."""
    return "\n".join(map(escaped, content.splitlines()))


def details(summary: str, content: Markup) -> Markup:
    """What is shown when somebody asks for it."""
    return Markup(f"<details><summary>{escaped(summary)}</summary>\n{content}</details>")


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table whose first column names its rows; one that is too wide scrolls by itself, also from the keyboard."""
    head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{cell(first)}</th>'
        + "".join(f"<td{_kind_of(value)}>{cell(value)}</td>" for value in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return Markup(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(caption)}"><table>'
        f"<caption>{escaped(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _kind_of(value: object) -> str:
    if isinstance(value, Markup):
        return ' class="number"' if value.startswith("<data") else ' class="text"'
    if isinstance(value, str):
        return ' class="text"' if len(value) > LONG else ""
    return ' class="number"' if isinstance(value, int | float) and not isinstance(value, bool) else ""


def figure(plot: Figure, caption: str, *, height: int = 380, wide: bool = False, paper: bool = False) -> Markup:
    """A plot, which the page draws from its data when it is opened. One that is `wide` scrolls on a narrow screen; one
    on `paper` is on white also in the dark, since its colours are made for that."""
    kind = " ".join(name for name, wanted in (("wide", wide), ("paper", paper)) if wanted)
    content: dict[str, Any] = json.loads(plot.to_json() or "{}")
    layout = content["layout"]
    for name in ("template", "title", "width", "height"):
        layout.pop(name, None)
    plain = json.dumps({"data": content["data"], "layout": layout}, ensure_ascii=False, separators=(",", ":"))
    return Markup(
        f'<figure class="{kind}"><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escaped(caption)}"><div class="plot" style="height: {height}px" role="img" '
        f'aria-label="{escaped(caption)}"></div></div>'
        f'<script type="application/json">{plain.replace("<", chr(92) + "u003c")}</script>'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
    )


def in_plot(value: object, longest: int = 40) -> str:
    """A text as Plotly shows it, which reads HTML; what is longer is cut in its middle."""
    text = printable(str(value))
    half = longest // 2
    return html.escape(text if len(text) <= longest else f"{text[: half - 1]}…{text[-half:]}", quote=False)
