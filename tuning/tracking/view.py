"""How MLflow's page shows the trials of a sweep: which runs, in which order, with which columns and charts.

The page keeps columns and charts in the browser. It takes them from a tag of the experiment when an address has
`viewStateShareKey`, as it does for a view that somebody shares; filter and order must then be there too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuning.tracking.accepted import accepted_key
from tuning.tracking.mlflow_store import SWEEP_TAG, TRIAL_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from kobert_core.config import Objective

VIEW_TAG = "mlflow.sharedViewState."
LONGEST_VIEW = 20_000
"""MLflow's limit of an experiment's tag, in characters."""
_FIRST_COLUMNS = ("0", "attributes.`Run Name`", "runDateAndNestInfo", "duration")
"""The page has them in any case: a box to tick, and what a run is called, when it began, how long it took."""


def trials_of(sweep_id: str) -> str:
    """The filter that finds the trials of a sweep, and not the sweep's own run."""
    return f"tags.\"{SWEEP_TAG}\" = '{sweep_id}' and tags.\"{TRIAL_TAG}\" LIKE '%'"


def order_of(client: MlflowClient, experiment_id: str, sweep_id: str, objective: Objective) -> dict[str, object]:
    """The order of the trials of a sweep: the winner comes first.

    They are ordered by their ranks once there are some. Their best values alone might put another trial above the
    winner: a later one that is as good, one that breaks a constraint, or one that a verdict refused. Before that, they
    are all there is.
    """
    ranked = client.search_runs([experiment_id], f"{trials_of(sweep_id)} and tags.\"rank\" LIKE '%'", max_results=1)
    by_rank = {"orderByKey": "tags.`rank`", "orderByAsc": True}
    by_value = {"orderByKey": f"metrics.`{_best(objective)}`", "orderByAsc": objective.mode == "min"}
    return by_rank if ranked else by_value


def make_view(
    client: MlflowClient,
    experiment_id: str,
    sweep_id: str,
    objective: Objective,
    parameters: Sequence[str],
    further: Sequence[Objective] = (),
) -> dict[str, object]:
    """Have MLflow keep a view of a sweep, in place of an older one; the query of the page that shows it.

    Where that is not possible, since somebody may only read there, the query has the filter and the order.
    """
    from mlflow.exceptions import MlflowException

    facets = {"searchFilter": trials_of(sweep_id), **order_of(client, experiment_id, sweep_id, objective)}
    best = f"metrics.`{_best(objective)}`"
    others = list(dict.fromkeys(f"metrics.`{_best(each)}`" for each in further))
    told = ["tags.`pareto_front`", "tags.`breaks`"] if further else []
    columns = ["tags.`rank`", "tags.`state`", best, *others, *told]
    columns += [f"params.`{accepted_key(name)}`" for name in parameters]
    state = {
        **facets,
        "selectedColumns": columns,
        "columnOrder": [*_FIRST_COLUMNS, *columns],
        "columnWidths": {"tags.`rank`": 60, best: 150},
        "runsHiddenMode": "SHOW_ALL",
        **_charts(objective, [accepted_key(name) for name in parameters]),
    }
    view = json.dumps(state, ensure_ascii=False)
    if len(view) <= LONGEST_VIEW:
        try:
            client.set_experiment_tag(experiment_id, f"{VIEW_TAG}{sweep_id}", view)
            return {"viewStateShareKey": sweep_id}
        except MlflowException:
            pass
    return facets


def _best(objective: Objective) -> str:
    return f"best/{accepted_key(objective.metric)}"


def _charts(objective: Objective, parameters: Sequence[str]) -> dict[str, object]:
    """The objective by steps, and what the values came to; MLflow adds a chart for each other metric below."""
    metric, section = accepted_key(objective.metric), "sweep"
    common = {"metricSectionId": section, "deleted": False, "isGenerated": False}
    curves: dict[str, Any] = {"type": "LINE", "uuid": "curves", "metricKey": metric, "selectedMetricKeys": [metric]}
    curves |= {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear", "xAxisKey": "step"}
    curves |= {"range": {}, "selectedXAxisMetricKey": "", "yAxisKey": "metric", "yAxisExpressions": []}
    curves |= {"displayName": objective.metric, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    values = {"type": "PARALLEL", "uuid": "values", "selectedParams": list(parameters), "showAllRuns": True}
    values |= {"selectedMetrics": [_best(objective)]}
    sections = {"uuid": section, "name": "sweep", "display": True, "isReordered": True, "deleted": False}
    return {
        "compareRunCharts": [curves | common, values | common],
        "compareRunSections": [sections | {"isGenerated": False}],
        "isAccordionReordered": True,
    }
