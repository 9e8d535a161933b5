"""What `describe` finds as one page of HTML that needs no other file, with plots."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kobert_core.texts import printable
from tuning.cli.tables import rows_of

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

BARS = 50
LABELS = ("classes", "labels", "label_ranges")
"""What a task calls the counts of its labels."""
PAGE = """<!DOCTYPE html>
<html lang="ko"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }}
table {{ border-collapse: collapse; width: 100% }}
td {{ border-top: 1px solid #ddd; overflow-wrap: anywhere; padding: 0.2em 0.8em 0.2em 0; vertical-align: top }}
td:first-child {{ white-space: pre; width: 18em }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def page(title: str, found: Mapping[str, object], lengths: Mapping[str, DataFrame]) -> str:
    """The page.

    Args:
        title: What was described.
        found: What `--json` has.
        lengths: For each kind of text its rows with `characters` and `pieces`.
    """
    plots = [*_label_plots(found), *(plot for kind, table in lengths.items() for plot in _length_plots(kind, table))]
    body = [
        plot.to_html(full_html=False, include_plotlyjs="inline" if not number else False, default_height=320)
        for number, plot in enumerate(plots)
    ]
    cells = "".join(f"<tr><td>{_shown(name)}</td><td>{_shown(value)}</td></tr>\n" for name, value in rows_of(found))
    return PAGE.format(title=_shown(title), body="\n".join([*body, f"<table>\n{cells}</table>"]))


def _label_plots(found: Mapping[str, object]) -> Iterator[Figure]:
    for name in LABELS:
        counts = found.get(name)
        if isinstance(counts, Mapping) and all(isinstance(count, int) for count in counts.values()):
            yield _bars(name.replace("_", " "), list(map(_shown, counts)), list(counts.values()))


def _length_plots(kind: str, table: DataFrame) -> Iterator[Figure]:
    for unit in ("characters", "pieces"):
        counts, bounds = np.histogram(table[unit], bins=min(BARS, int(np.ptp(table[unit])) + 1))
        yield _bars(f"{unit} of a {kind}", ((bounds[:-1] + bounds[1:]) / 2).round(1).tolist(), counts.tolist())


def _bars(title: str, x: list[object] | list[str], y: list[int]) -> Figure:
    from plotly import graph_objects

    figure = graph_objects.Figure(graph_objects.Bar(x=x, y=y), layout={"title": title, "bargap": 0.05})
    figure.update_xaxes(type="category" if x and isinstance(x[0], str) else "linear")
    return figure.update_layout(template="plotly_white", margin={"l": 60, "r": 20, "t": 60, "b": 50})


def _shown(value: object) -> str:
    return html.escape(printable(str(value)))
