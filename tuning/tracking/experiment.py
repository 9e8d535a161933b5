"""The sweeps of an MLflow experiment, and what their trials came to, as far as their runs tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kobert_core.errors import InputError
from tuning.tracking.accepted import accepted_key
from tuning.tracking.mlflow_store import SWEEP_TAG, TRIAL_TAG, prepare_environment
from tuning.tracking.ui import asking, check_store_file, reach
from tuning.tracking.uris import is_server, shown_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_NAMES_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class LoggedTrial:
    """A trial that ended, and reported."""

    number: int
    params: Mapping[str, str]
    """All values of its config by dotted keys, as texts: MLflow has no other ones."""
    curve: dict[int, float]
    """The objective by progress."""
    value: float | None
    """The objective at its best evaluation, if it ran to its end."""


class LoggedSweep:
    """A sweep by its run, and the runs of its trials."""

    def __init__(self, client: MlflowClient, uri: str, parent: Run, trials: Sequence[Run]) -> None:
        self._client, self._uri, self._trials = client, uri, trials
        params = parent.data.params
        self.name = str(parent.info.run_name)
        self.task = parent.data.tags.get("task", "")
        self.objectives = params.get("objective", "")
        """In words, as `StudyConfig.objectives_in_words`."""
        self.scheduler = params.get("scheduler", "")

    def trials(self, metric: str) -> list[LoggedTrial]:
        """The trials that were trained to their end or stopped early, by number, with their curves of a metric.

        Raises:
            InputError: MLflow does not tell.
        """
        metric, found = accepted_key(metric), []
        for run in sorted(self._trials, key=lambda run: int(run.data.tags[TRIAL_TAG])):
            complete = run.info.status == "FINISHED"
            if complete or run.data.tags.get("pruned") == "true":
                progress, objective = (self._history(run, key) for key in ("progress", metric))
                curve = {round(progress[step]): objective[step] for step in sorted(progress.keys() & objective.keys())}
                value = run.data.metrics.get(f"best/{metric}") if complete else None
                number = int(run.data.tags[TRIAL_TAG])
                found.append(LoggedTrial(number=number, params=run.data.params, curve=curve, value=value))
        return [trial for trial in found if trial.curve]

    def _history(self, run: Run, key: str) -> dict[int, float]:
        """The values of a metric by step."""
        with asking(self._uri):
            return {point.step: point.value for point in self._client.get_metric_history(run.info.run_id, key)}


def sweeps_in(experiment: str, *, uri: str) -> list[LoggedSweep]:
    """The sweeps that kobert-tune has in an experiment, the oldest first; runs of others, and of `confirm`, are none.

    Args:
        experiment: Its name.
        uri: The store.

    Raises:
        InputError: the store does not answer, or has no such experiment.
    """
    prepare_environment()  # first: `reach` waits less for an answer than a sweep's sender, which comes later
    if not is_server(uri):
        check_store_file(uri)
    client = reach(uri)
    runs: dict[str, dict[str | None, Run]] = {}
    with asking(uri):
        found, token = client.get_experiment_by_name(experiment), None
        if found is None or found.lifecycle_stage == "deleted":
            recent = client.search_experiments(max_results=_NAMES_SHOWN, order_by=["last_update_time DESC"])
            fix = f"it has {', '.join(each.name for each in recent)}"
            raise InputError(f"MLflow has no experiment `{experiment}`", where=shown_uri(uri), fix=fix)
        while True:
            query = f"tags.`{SWEEP_TAG}` LIKE '%'"
            page = client.search_runs([found.experiment_id], query, max_results=1000, page_token=token)
            for run in page:
                runs.setdefault(run.data.tags[SWEEP_TAG], {})[run.data.tags.get(TRIAL_TAG)] = run
            if not (token := page.token):
                break
    sweeps = sorted((of for of in runs.values() if None in of), key=lambda of: of[None].info.start_time)
    return [
        LoggedSweep(client, uri, of[None], [run for trial, run in of.items() if trial and trial.isdecimal()])
        for of in sweeps
    ]
