"""Plots of a sweep. Colours of text and grid are left to the page, which may be light or dark."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import optuna.visualization as of_optuna
from plotly import graph_objects
from plotly.graph_objects import Figure

from tuning.report.elements import in_plot
from tuning.report.search import ComparedTrials, Importance, study_of_objectives
from tuning.report.sweep_data import SweepData
from tuning.study.objectives import goals_in
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, standing

COLOURS = {
    TrialState.COMPLETE: "#2a7de1",
    TrialState.PRUNED: "#d98200",
    TrialState.FAILED: "#d62f4b",
    TrialState.INTERRUPTED: "#7f7f7f",
    TrialState.RUNNING: "#1f9d63",
    TrialState.PAUSED: "#8a63d2",
}
WINNER = "#1f9d63"
SHADES = [[0.0, "#e3effc"], [0.5, "#5fa2e8"], [1.0, "#0b3d78"]]
POINTS = 3000
"""More are not drawn of a scatter: a page stays small."""


def best_so_far(data: SweepData) -> tuple[Figure, list[tuple[float, float]]]:
    """The trials, in the order of their ends, against the seconds that all of them had taken by then; and the steps of
    the line of the best one."""
    trials, objective = data.in_order, data.study.objective
    spent = list(itertools.accumulate(record.seconds for record in trials))
    steps = _steps(trials, spent, data.table)
    figure = Figure()
    for state in COLOURS:
        shown = [
            (at, each) for at, each in zip(spent, trials, strict=True) if each.state == state and each.value is not None
        ]
        if shown:
            figure.add_scatter(
                x=[at for at, _ in shown],
                y=[record.value for _, record in shown],
                mode="markers",
                name=state.lower(),
                marker={"color": COLOURS[state], "size": 9},
                text=[standing(record) for _, record in shown],
                hovertemplate="%{text}<br>%{y:.5f} after %{x:.0f} s<extra></extra>",
            )
    if steps:
        figure.add_scatter(
            x=[*(at for at, _ in steps), spent[-1]],
            y=[*(value for _, value in steps), steps[-1][1]],
            mode="lines",
            name="best so far",
            line={"shape": "hv", "color": WINNER, "width": 3},
            hoverinfo="skip",
        )
    return _with_axes(figure, "seconds of all trials together", objective.metric), steps


def _steps(trials: Sequence[TrialRecord], spent: Sequence[float], table: TrialTable) -> list[tuple[float, float]]:
    complete_alone = table.complete_first and any(record.state == TrialState.COMPLETE for record in trials)
    steps: list[tuple[float, float]] = []
    for at, record in zip(spent, trials, strict=True):
        counts = record.state == TrialState.COMPLETE if complete_alone else record.state != TrialState.FAILED
        if not counts or record.value is None:
            continue
        if not steps or table.objective.is_better(record.value, than=steps[-1][1]):
            steps.append((at, record.value))
    return steps


def learning_curves(data: SweepData, records: Sequence[TrialRecord], rungs: Sequence[int]) -> Figure:
    """The objective of these trials, and of the best one, against their progress; a cross where one was stopped."""
    figure = Figure()
    for state in COLOURS:
        shown = [record for record in records if record.state == state and record.curve]
        if shown:
            points = [(x, y, record.trial) for record in shown for x, y in _line_of(record)]
            figure.add_scatter(
                x=[x for x, _, _ in points],
                y=[y for _, y, _ in points],
                mode="lines",
                name=state.lower(),
                line={"color": COLOURS[state], "width": 1},
                opacity=0.6,
                text=[trial for _, _, trial in points],
                hovertemplate="trial %{text}: %{y:.5f} at %{x}%<extra></extra>",
            )
    if data.winner and data.winner.curve:
        figure.add_scatter(
            x=list(data.winner.curve),
            y=list(data.winner.curve.values()),
            mode="lines+markers",
            name=f"trial {data.winner.trial}, the best",
            line={"color": WINNER, "width": 3},
            hovertemplate="%{y:.5f} at %{x}%<extra></extra>",
        )
    stopped = [record for record in records if record.state == TrialState.PRUNED and record.curve]
    if stopped:
        figure.add_scatter(
            x=[max(record.curve) for record in stopped],
            y=[record.curve[max(record.curve)] for record in stopped],
            mode="markers",
            name="stopped",
            marker={"symbol": "x", "size": 8, "color": COLOURS[TrialState.PRUNED]},
            text=[standing(record) for record in stopped],
            hovertemplate="%{text}: %{y:.5f}<extra></extra>",
        )
    for rung in rungs:
        figure.add_vline(x=rung, line={"dash": "dot", "width": 1, "color": "#7f7f7f"})
    return _with_axes(figure, "percent of a trial's own steps", data.study.objective.metric)


def _line_of(record: TrialRecord) -> Iterable[tuple[int | None, float | None]]:
    return [*sorted(record.curve.items()), (None, None)]


def parallel_coordinates(compared: ComparedTrials, metric: str) -> Figure:
    """Optuna's, of all parameters."""
    return of_optuna.plot_parallel_coordinate(compared.study, target_name=metric)


def importances(found: Importance) -> Figure:
    """A bar a parameter, the greatest above."""
    names = list(reversed(found.shares))
    figure = Figure(graph_objects.Bar(x=[found.shares[name] for name in names], y=names, orientation="h"))
    figure.update_traces(marker={"color": COLOURS[TrialState.COMPLETE]}, texttemplate="%{x:.2f}", textposition="auto")
    return _with_axes(figure, "share of the differences between trials", "")


def slices(compared: ComparedTrials, names: Sequence[str], metric: str) -> Figure:
    """Optuna's, of some parameters."""
    return of_optuna.plot_slice(compared.study, params=list(names), target_name=metric)


def pareto_front(data: SweepData) -> Figure | None:
    """Optuna's, of up to three objectives; of one objective against what a constraint bounds. None without trials."""
    goals = [each.metric for each in goals_in(data.study.further)]
    shown = list(dict.fromkeys([data.study.objective.metric, *goals, *(each.metric for each in data.study.further)]))
    shown = shown[: min(3, 1 + max(1, len(goals)))]
    study = study_of_objectives(data)
    if len(shown) < 2 or not study.trials:
        return None
    return of_optuna.plot_pareto_front(
        study, target_names=shown, targets=lambda trial: [trial.user_attrs[name] for name in shown]
    )


def contour(compared: ComparedTrials, names: Sequence[str], metric: str) -> Figure:
    """Optuna's, of two parameters."""
    return of_optuna.plot_contour(compared.study, params=list(names), target_name=metric)


@dataclass(frozen=True)
class Lanes:
    """Trials side by side as they ran."""

    of: dict[int, int]
    """The lane of each trial, by its number."""
    begin: float
    end: float

    @property
    def count(self) -> int:
        """So many trials ran at once."""
        return 1 + max(self.of.values())


def lanes_of(records: Sequence[TrialRecord]) -> Lanes:
    """The fewest lanes in which no trial overlaps another; each in the first that was free."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    lanes: dict[int, int] = {}
    for record in sorted(records, key=lambda each: each.started):
        while busy and busy[0][0] <= record.started + 0.05:  # times are noted by two clocks
            heapq.heappush(free, heapq.heappop(busy)[1])
        lanes[record.trial] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (record.started + record.seconds, lanes[record.trial]))
    ends = [record.started + record.seconds for record in records]
    return Lanes(lanes, min(record.started for record in records), max(ends))


def timeline(records: Sequence[TrialRecord], lanes: Lanes) -> Figure:
    """When each trial ran, a row a worker group."""
    figure = Figure()
    for state in COLOURS:
        shown = [record for record in records if record.state == state]
        if shown:
            figure.add_bar(
                base=[record.started - lanes.begin for record in shown],
                x=[record.seconds for record in shown],
                y=[f"{lanes.of[record.trial] + 1}" for record in shown],
                orientation="h",
                name=state.lower(),
                marker={"color": COLOURS[state], "line": {"width": int(len(records) <= 60), "color": "#ffffff"}},
                text=[f"{record.trial}" for record in shown],
                textposition="inside",
                insidetextanchor="middle",
                hovertext=[f"{standing(record)}: {record.seconds:.1f} s" for record in shown],
                hoverinfo="text",
            )
    figure.update_layout(barmode="overlay", bargap=0.25)
    order = [f"{lane + 1}" for lane in range(lanes.count)]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=order, autorange="reversed")
    return _with_axes(figure, "seconds since the first trial began", "worker group")


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """How many of each class, a row each, were taken for which one."""
    shown = [in_plot(name, 24) for name in names]
    figure = Figure(
        graph_objects.Heatmap(
            z=[list(row) for row in counts],
            x=shown,
            y=shown,
            colorscale=SHADES,
            texttemplate="%{z}" if len(names) <= 12 else None,
            hovertemplate="%{y} taken for %{x}: %{z}<extra></extra>",
            showscale=False,
        )
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", autorange="reversed")
    return _with_axes(figure, "predicted", "expected")


def bars(values: Mapping[str, Sequence[float]], names: Sequence[str], axis: str) -> Figure:
    """Groups of bars: one group a name, one bar of it for each kind of value."""
    figure = Figure()
    for (kind, heights), colour in zip(values.items(), ("#2a7de1", "#d98200", "#1f9d63"), strict=False):
        figure.add_bar(x=[in_plot(name, 24) for name in names], y=list(heights), name=kind, marker={"color": colour})
    figure.update_xaxes(type="category")
    return _with_axes(figure, "", axis)


def scatter(expected: Sequence[float], predicted: Sequence[float]) -> Figure:
    """Predicted numbers against those that were expected; the line is where they are equal."""
    step = max(1, len(expected) // POINTS)
    figure = Figure()
    figure.add_scatter(
        x=list(expected[::step]),
        y=list(predicted[::step]),
        mode="markers",
        name="rows",
        marker={"color": COLOURS[TrialState.COMPLETE], "size": 6, "opacity": 0.5},
    )
    ends = [min(expected), max(expected)]
    figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line={"color": "#7f7f7f", "dash": "dot"})
    return _with_axes(figure, "expected", "predicted")


def _with_axes(figure: Figure, x: str, y: str) -> Figure:
    figure.update_xaxes(title=x or None)
    figure.update_yaxes(title=y or None)
    return figure
