"""What `space` shows: for each parameter what is drawn, in the terminal and as a page."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from kobert_core.texts import printable
from search_spaces.distributions import Constant, Distribution, IntLog, LogUniform
from search_spaces.distributions.kinds import any_of
from search_spaces.validation import show
from tuning.cli.tables import cell
from tuning.study import StudyConfig
from tuning.study.encoders import short_name, short_names

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

BLOCKS = "▁▂▃▄▅▆▇█"
BARS = 12
PAGE_BARS = 40
MAX_VALUES_SHOWN = 8
MAX_COUNTED = 50
"""A bar for each value of a parameter that has no more."""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }}
</style></head><body><h1>{title}</h1>
<p>{told}</p>
{body}
</body></html>
"""


def is_log(distribution: Distribution) -> bool:
    """Whether each order of magnitude is equally likely."""
    return isinstance(distribution, LogUniform | IntLog)


def table_of_draws(config: StudyConfig, drawn: pd.DataFrame) -> Table:
    """A row for each parameter: how it is drawn, in which trials, and the draws as a histogram or their shares."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("parameter", "distribution", "when", "trials", "drawn"):
        table.add_column(name, justify="right" if name == "trials" else "left")
    for name, each in config.space.items():
        there = drawn[name][active_rows(config, drawn, name)]
        conditions = "; ".join(f"{other} is {any_of(wanted)}" for other, wanted in each.when.items())
        described = str(each).partition(", when ")[0] if each.when else str(each)
        share = len(there) / max(1, len(drawn))
        table.add_row(cell(name), cell(described), cell(conditions), f"{share:.0%}", cell(_picture(each, there)))
    return table


def active_rows(config: StudyConfig, drawn: pd.DataFrame, name: str) -> pd.Series:
    """Which draws have a parameter."""
    import pandas as pd

    has = pd.Series(True, index=drawn.index)
    for other, wanted in config.space[name].when.items():
        has &= active_rows(config, drawn, other) & drawn[other].isin(wanted)
    return has


def numbers_of(drawn: pd.DataFrame) -> list[str]:
    """The columns with numbers."""
    return list(drawn.select_dtypes("number").columns)


def _picture(distribution: Distribution, values: pd.Series) -> str:
    if not len(values):
        return ""
    if isinstance(distribution, Constant):
        return str(distribution.value)
    if distribution.count() is None or (values.dtype.kind == "f" and values.nunique() > MAX_VALUES_SHOWN):
        counts, _ = np.histogram(_scale(distribution, values), bins=BARS, range=_ends(distribution))
        return f"{bars(counts)}  {_shown(values.min())} to {_shown(values.max())}, median {_shown(values.median())}"
    told = [f"{value} {count / len(values):.0%}" for value, count in _counts(distribution, values).items()]
    return ", ".join(told[:MAX_VALUES_SHOWN]) + (" …" if len(told) > MAX_VALUES_SHOWN else "")


def _scale(distribution: Distribution, values: pd.Series) -> np.ndarray[Any, Any]:
    numbers: np.ndarray[Any, Any] = values.to_numpy(dtype=float)
    if is_log(distribution):
        numbers = np.log10(numbers)
    return numbers


def _ends(distribution: Distribution) -> tuple[float, float]:
    low, high = float(min(distribution.ends())), float(max(distribution.ends()))
    return (math.log10(low), math.log10(high)) if is_log(distribution) else (low, high)


def bars(counts: Sequence[int] | np.ndarray[Any, Any]) -> str:
    """A histogram in one line; the tallest bar has the whole height."""
    most = max(max(counts), 1)
    return "".join(BLOCKS[round(count / most * (len(BLOCKS) - 1))] for count in counts)


def _counts(distribution: Distribution, values: pd.Series) -> dict[str, int]:
    """How often each value was drawn, in the order of the study."""
    known = distribution.grid()
    short = short_names(value for value in known if isinstance(value, str))
    counts = Counter(map(distribution.identity, values))
    return {_shown(value, short): counts[distribution.identity(value)] for value in known}


def _shown(value: object, short: Mapping[str, str] = MappingProxyType({})) -> str:
    if isinstance(value, str):
        return short_name(value, dict(short))
    return f"{value:.3g}" if isinstance(value, float) else show(value)


def table_of_trials(config: StudyConfig, trials: Sequence[dict[str, object]]) -> Table:
    """The first trials, a row each; what a trial does not have is a blank."""
    short = short_names(value for values in trials for value in values.values() if isinstance(value, str))
    last = [name.rpartition(".")[2] for name in config.space]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("trial", justify="right")
    for name, column in zip(config.space, last, strict=True):
        table.add_column(cell(name if last.count(column) > 1 else column), justify="right")
    for number, values in enumerate(trials):
        shown = [_shown(values[name], short) if name in values else "" for name in config.space]
        table.add_row(f"{number}", *map(cell, shown))
    return table


def page(config: StudyConfig, drawn: pd.DataFrame) -> str:
    """The draws as a page of HTML that needs no other file."""
    figures = list(_figures(config, drawn))
    body = [
        figure.to_html(
            full_html=False,
            include_plotlyjs="inline" if not number else False,
            default_height=300,
            config={"displayModeBar": False},
        )
        for number, figure in enumerate(figures)
    ]
    told = f"{len(drawn):,} draws of each parameter, as they are before the search has learned from results."
    title = html.escape(printable(f"What {config.name} samples"))
    return PAGE.format(title=title, told=told, body="\n".join(body))


def _figures(config: StudyConfig, drawn: pd.DataFrame) -> Iterator[Figure]:
    from plotly import graph_objects

    for name, each in config.space.items():
        values = drawn[name][active_rows(config, drawn, name)]
        title = html.escape(printable(f"{name}: {each}"), quote=False)
        layout = {"title": title, "bargap": 0.05, "template": "plotly_white", "showlegend": False}
        if (each.count() or MAX_COUNTED + 1) > MAX_COUNTED:
            counts, edges = np.histogram(_scale(each, values), bins=PAGE_BARS, range=_ends(each))
            middle = (edges[1:] + edges[:-1]) / 2
            x = np.power(10, middle) if is_log(each) else middle
            widths = np.diff(np.power(10, edges)) if is_log(each) else np.diff(edges)
            figure = graph_objects.Figure(graph_objects.Bar(x=x, y=counts, width=widths), layout=layout)
            figure.update_xaxes(type="log" if is_log(each) else "linear")
        else:
            counts_by_name = _counts(each, values)
            labels = [html.escape(printable(label), quote=False) for label in counts_by_name]
            figure = graph_objects.Figure(graph_objects.Bar(x=labels, y=list(counts_by_name.values())), layout=layout)
            figure.update_xaxes(type="category")
        yield figure.update_layout(margin={"l": 60, "r": 20, "t": 60, "b": 50}, yaxis_title="draws")
