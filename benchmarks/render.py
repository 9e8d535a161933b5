"""The report of what was measured."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plan import GROUPS, Figures, Group


def render(records: Sequence[Mapping[str, Any]]) -> str:
    """RESULTS.md from the lines of the results file, the conditions first."""
    conditions, *measured = records
    figures: dict[str, dict[int, dict[str, Figures]]] = defaultdict(lambda: defaultdict(dict))
    for record in measured:
        figures[record["group"]][record["round"]][record["side"]] = record["figures"]
    shown = {name: group for name, group in GROUPS.items() if name in figures}
    parts = [_head(conditions), _company(measured), _summary(shown, figures)]
    parts += [_group(name, group, figures[name]) for name, group in shown.items()]
    return "\n\n".join(parts) + "\n"


def _head(conditions: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    original = conditions["original"]
    second = f"transformers {original.split()[0]}, sentencepiece {original.split()[1]}" if original else "not there"
    return f"""# Side by side with what people would use instead

Written by `make bench`; not by hand.

- machine: {conditions["processor"]}, {conditions["cores"]} cores, {conditions["memory_gb"]} GB, {conditions["system"]}
- threads: 2 for training, 1 for texts, 1 a trial in sweeps
- versions: Python {conditions["python"]}, {versions}
- second environment: {second}
- commit: {conditions["commit"]}

To repeat: `make original` once (the original's tokenizer and pipeline), then `make bench`; a part of it:
`python benchmarks/bench.py --only nsmc-tiny sweep`. Each measurement is a process of its own. The sides of a group take
turns round by round; ratios are taken within a round. What other processes disturb is measured again, twice at most.
Shown are medians of the rounds, with the least and the most."""


def _company(measured: Sequence[Mapping[str, Any]]) -> str:
    """How much of the machine other processes took meanwhile."""
    others = [share for record in measured if (share := record["figures"].get("others")) is not None]
    if not others:
        return "Nothing is known of other processes on the machine."
    return (
        f"Other processes kept {number(statistics.median(others))} cores busy (median of the measurements; at most "
        f"{number(max(others))}). Figures are worth something when that is near 0."
    )


def _summary(groups: Mapping[str, Group], figures: Mapping[str, Mapping[int, Mapping[str, Figures]]]) -> str:
    rows = ["| what | median | least - most | bar | reached |", "|---|---|---|---|---|"]
    for name, group in groups.items():
        for comparison in group.comparisons:
            if comparison.bar and (values := _values(comparison.value, figures[name])):
                median = statistics.median(values)
                reached = "yes" if comparison.reached(median) else "**no**"
                what = f"{group.title}: {comparison.label}"
                rows.append(f"| {what} | {number(median)} | {_range(values)} | {comparison.bar} | {reached} |")
    return "\n".join(rows)


def _group(name: str, group: Group, rounds: Mapping[int, Mapping[str, Figures]]) -> str:
    lines = [f"## {group.title}", "", f"{group.note} {len(rounds)} round(s); group `{name}`.", ""]
    columns = [
        column
        for column, value in group.columns.items()
        if any(_one(value, figures) is not None for sides in rounds.values() for figures in sides.values())
    ]
    lines += [f"| side | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for side in group.sides:
        cells = []
        for column in columns:
            given = [_one(group.columns[column], sides[side]) for sides in rounds.values() if side in sides]
            values = [value for value in given if value is not None]
            cells.append(f"{number(statistics.median(values))} ({_range(values)})" if values else "")
        errors = [sides[side]["error"] for sides in rounds.values() if "error" in sides.get(side, {})]
        if errors:
            cells[0] = f"failed: {errors[-1]}"
        lines.append(f"| {side} | {' | '.join(cells)} |")
    without_bar = [comparison for comparison in group.comparisons if not comparison.bar]
    for comparison in without_bar:
        if values := _values(comparison.value, rounds):
            lines += ["", f"{comparison.label}: {number(statistics.median(values))} ({_range(values)})."]
    return "\n".join(lines)


def _values(value: Callable[[Any], float], rounds: Mapping[int, Mapping[str, Figures]]) -> list[float]:
    """Of each round whose sides are all there."""
    found = (_one(value, sides) for sides in rounds.values())
    return [one for one in found if one is not None]


def _one(value: Callable[[Any], float], given: Any) -> float | None:
    try:
        return float(value(given))
    except (KeyError, TypeError):  # a side that failed, that was not run, or that has no such figure
        return None


def _range(values: Sequence[float]) -> str:
    return f"{number(min(values))} - {number(max(values))}"


def number(value: float) -> str:
    """Three digits, or all of a large one."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
