"""Finds or creates the runs of one sweep in MLflow, and writes to them. Repeating a call is harmless."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tuning.tracking.accepted import (
    LONGEST_NAME,
    LONGEST_PARAM,
    LONGEST_TAG,
    accepted_key,
    accepted_model_name,
    accepted_text,
)
from tuning.tracking.databases import try_database
from tuning.tracking.mlflow_model import MLMODEL, write_mlflow_model
from tuning.tracking.uris import artifact_root, is_server, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

SWEEP_TAG = "kobert_tune.sweep_id"
TRIAL_TAG = "kobert_tune.trial"
DESCRIPTION_TAG = "mlflow.note.content"
_OUR_DESCRIPTION_TAG = "kobert_tune.description_sha256"
_END_TAGS = frozenset({"interrupted", "pruned", "reason", "state"})

# One try a request, and a short one: the sender repeats it, and later.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # or a model takes the uv.lock that lies in the current folder
}
_log = logging.getLogger(__name__)

MetricPoint = tuple[str, float, int, int]  # key, value, time in ms, step


def prepare_environment() -> None:
    """Switch MLflow's telemetry, prints and retries off, unless the user's environment says otherwise."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def open_client(uri: str) -> MlflowClient:
    """A client of a store that has answered; a new sqlite store is made first, by one process at a time."""
    prepare_environment()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not is_server(uri) and sqlite_path(uri) is None:
        try_database(uri)
    with _alone_with(sqlite_path(uri)):
        if not is_server(uri):
            _make_default_experiment(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _make_default_experiment(uri: str) -> None:
    """Have MLflow make its tables and its default experiment, with an escaped address: by default it uses the current
    folder, whose name it puts into its SQL without escaping."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    root = artifact_root(uri, Path.cwd())
    assert root is not None
    SqlAlchemyStore(uri, root.as_uri())


@contextlib.contextmanager
def _alone_with(file: Path | None) -> Iterator[None]:
    """Hold a lock beside a sqlite file: if several processes make its tables at once, all but one fail."""
    with contextlib.ExitStack() as stack:
        if file is not None:
            with contextlib.suppress(OSError):  # where nothing can be written nothing is made
                file.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(file.with_name(f".{file.name}.lock"), "ab"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_refusal(error: Exception, *, attempts: int) -> bool:
    """Whether the store will never accept a record, however often it is sent (`attempts` times so far).

    A wrong password or a missing right (401, 403) is not the record's fault, and can be put right.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        if error.error_code == "BAD_REQUEST":  # also MLflow's word for a lost database connection
            return attempts >= 3
        status = error.get_http_status_code()
    elif isinstance(error, OSError):
        if isinstance(error, FileNotFoundError):
            return True
        status = getattr(getattr(error, "response", None), "status_code", 500)
    else:
        return isinstance(error, (ValueError, TypeError, LookupError))
    return 400 <= status < 500 and status not in (401, 403, 408, 429)


class MlflowStore:
    """The runs of one sweep in one MLflow store: a parent (trial None) and a child a trial.

    Args:
        artifact_root: where an experiment that is created here keeps its artifacts; None: the server decides.
    """

    def __init__(self, *, uri: str, experiment: str, sweep: str, sweep_id: str, artifact_root: Path | None) -> None:
        self._uri, self._experiment, self._sweep, self._sweep_id = uri, experiment, sweep, sweep_id
        self._artifact_root = artifact_root
        self._connected: MlflowClient | None = None
        self._experiment_id = ""
        self._runs: dict[str | None, str] = {}
        self._ends: dict[str | None, tuple[str, int]] = {}

    def connect(self) -> None:
        """Find or create the experiment and find the sweep's runs; does nothing when that is done."""
        if self._connected is not None:
            return
        client = open_client(self._uri)
        self._experiment_id = self._find_experiment(client)
        self._find_runs(client)
        self._connected = client

    def answers(self) -> bool:
        """Whether the store works: only then does its refusal of a record count.

        In front of a server that is down, another may answer, with a 404 or a page to log in.
        """
        try:
            self._client.get_experiment(self._experiment_id)
        except Exception:
            return False
        return True

    def start_run(self, trial: str | None, *, time: int, origin: Mapping[str, str]) -> None:
        """Create or reopen a run: its status becomes RUNNING, and the tags of its end are removed.

        A new one has the tags `origin`: MLflow takes a run's user when it is created, not from a tag that is set later.
        """
        run = self._client.get_run(self._run_id(trial, time, origin))
        for tag in _END_TAGS & run.data.tags.keys():
            self._client.delete_tag(run.info.run_id, tag)
        if run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._ends.pop(trial, None)

    def end_run(self, trial: str | None, *, time: int, status: str) -> None:
        """Write the final status and the time of the end; at the sweep's own end, repair all of its runs."""
        self._client.set_terminated(self._run_id(trial, time), status=status, end_time=time)
        self._ends[trial] = status, time
        if trial is None:
            self._settle_runs()

    def log_metrics(self, trial: str | None, points: Sequence[MetricPoint]) -> None:
        """Write metrics with their own times; equal rows are written once by MLflow."""
        from mlflow.entities import Metric

        run_id = self._run_id(trial, points[0][2])
        for first in range(0, len(points), 1000):
            some = points[first : first + 1000]
            metrics = [Metric(accepted_key(key), value, at, step) for key, value, at, step in some]
            self._client.log_batch(run_id, metrics=metrics)

    def log_params(self, trial: str | None, params: Sequence[tuple[str, str]], *, time: int) -> None:
        """Write parameters, 100 a request."""
        from mlflow.entities import Param

        for first in range(0, len(params), 100):
            some = params[first : first + 100]
            batch = [Param(accepted_key(key), accepted_text(value, LONGEST_PARAM)) for key, value in some]
            self._client.log_batch(self._run_id(trial, time), params=batch)

    def log_tags(self, trial: str | None, tags: Sequence[tuple[str, str]], *, time: int) -> None:
        """Write tags, 100 a request. A description that somebody has edited in the page stays as it is."""
        from mlflow.entities import RunTag

        run_id, accepted = self._run_id(trial, time), {}
        for key, value in tags:
            accepted[accepted_key(key)] = accepted_text(value, LONGEST_TAG)
        if DESCRIPTION_TAG in accepted:
            before = self._client.get_run(run_id).data.tags
            there = before.get(DESCRIPTION_TAG)
            if there and _sha256(there) != before.get(_OUR_DESCRIPTION_TAG):
                del accepted[DESCRIPTION_TAG]
            else:
                accepted[_OUR_DESCRIPTION_TAG] = _sha256(accepted[DESCRIPTION_TAG])
        batch = [RunTag(key, value) for key, value in accepted.items()]
        for first in range(0, len(batch), 100):
            self._client.log_batch(run_id, tags=batch[first : first + 100])

    def remove_tags(self, trial: str | None, names: Sequence[str], *, time: int) -> None:
        """Remove tags, where they exist."""
        run = self._client.get_run(self._run_id(trial, time))
        for name in run.data.tags.keys() & set(names):
            self._client.delete_tag(run.info.run_id, name)

    def log_datasets(self, trial: str | None, datasets: Sequence[Mapping[str, Any]], *, time: int) -> None:
        """Name datasets as inputs of a run; the digest of one is the first 32 digits of its SHA-256."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for given in datasets:
            dataset = Dataset(
                name=accepted_text(given["name"], LONGEST_NAME),
                digest=given["sha256"][:32],
                source_type="local",
                source=json.dumps({"uri": given["path"]}, ensure_ascii=False),
                profile=json.dumps({"num_rows": given["examples"], "sha256": given["sha256"]}),
            )
            inputs.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", given["context"])]))
        self._client.log_inputs(self._run_id(trial, time), datasets=inputs)

    def log_artifact(self, *, trial: str | None, path: str, artifact_path: str | None, time: int) -> None:
        """Upload a file or a folder as it is now."""
        run_id = self._run_id(trial, time)
        if Path(path).is_dir():
            self._client.log_artifacts(run_id, path, artifact_path)
        elif Path(path).is_file():
            self._client.log_artifact(run_id, path, artifact_path)
        else:
            raise FileNotFoundError(f"{path} is not there any more")

    def log_winner(
        self,
        *,
        trial: str,
        model_dir: str,
        name: str,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        time: int,
    ) -> LoggedModel:
        """Make a LoggedModel of an exported folder, or finish the one that an earlier try, or version, left unfinished.

        Its source is the trial's run. MLflow keeps a model's metrics with a run: here with the parent, where
        they are the sweep's result, so that the trial's own curves stay as they were reported.
        """
        from mlflow.entities import LoggedModelOutput, Metric

        if not Path(model_dir).is_dir():
            raise FileNotFoundError(f"{model_dir} is not there any more")
        run_id, name = self._run_id(trial, time), accepted_model_name(name)
        models = [m for m in self._models() if m.name == name and m.tags.get(TRIAL_TAG) == trial]
        if ready := next((model for model in models if str(model.status) == "READY"), None):
            if MLMODEL not in {file.path for file in self._client.list_logged_model_artifacts(ready.model_id)}:
                self._upload(ready, model_dir)
            return ready
        model = (
            models[0]
            if models
            else self._client.create_logged_model(
                self._experiment_id,
                name=name,
                source_run_id=run_id,
                params={accepted_key(key): accepted_text(value, LONGEST_PARAM) for key, value in params.items()},
                tags={**tags, SWEEP_TAG: self._sweep_id, TRIAL_TAG: trial},
            )
        )
        self._upload(model, model_dir)
        points = [
            Metric(accepted_key(key), float(value), time, 0, model_id=model.model_id) for key, value in metrics.items()
        ]
        if points:
            self._client.log_batch(self._run_id(None, time), metrics=points)
        self._client.log_outputs(run_id, models=[LoggedModelOutput(model.model_id, step=0)])
        return self._client.finalize_logged_model(model.model_id, "READY")

    def _upload(self, model: LoggedModel, model_dir: str) -> None:
        """Send an exported folder as a model that MLflow loads."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            write_mlflow_model(folder, Path(model_dir), model_id=model.model_id, run_id=model.source_run_id)
            self._client.log_model_artifacts(model.model_id, str(folder))

    @property
    def _client(self) -> MlflowClient:
        assert self._connected is not None, "connect() comes first"
        return self._connected

    def _find_experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            location = None
            if self._artifact_root is not None:
                # A sqlite store would put them into the working folder.
                folder = self._artifact_root / (re.sub(r"[^\w-]+", "_", self._experiment)[:60] or "_")
                location = folder.as_uri()
            # Trained models: MLflow's page would otherwise guess the kind from what it finds.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            try:
                return client.create_experiment(self._experiment, artifact_location=location, tags=kind)
            except MlflowException as error:  # another sweep began at the same moment
                found = client.get_experiment_by_name(self._experiment)
                if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            _log.warning("the MLflow experiment %r had been deleted: it is restored", self._experiment)
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _run_id(self, trial: str | None, time: int, origin: Mapping[str, str] = MappingProxyType({})) -> str:
        # Looked for each time: a request that got no answer, of this process or of a killed one, may have made it.
        if trial not in self._runs:
            self._find_runs(self._client, trial)
        if trial not in self._runs:
            tags = {**origin, SWEEP_TAG: self._sweep_id}
            if trial is not None:
                tags |= {TRIAL_TAG: trial, "mlflow.parentRunId": self._run_id(None, time, origin)}
            name = self._new_name(tags.get("mlflow.parentRunId"), trial)
            run = self._client.create_run(self._experiment_id, start_time=time, tags=tags, run_name=name)
            self._runs[trial] = run.info.run_id
        return self._runs[trial]

    def _new_name(self, parent: str | None, trial: str | None) -> str:
        """A name for a run that no other of the experiment has: `first`, and `first/03` for its trial 3."""
        if parent is not None and trial is not None:
            number = f"{int(trial):02d}" if trial.isdecimal() else trial
            return f"{self._client.get_run(parent).info.run_name}/{number}"
        quote = '"' if "'" in self._sweep else "'"
        others = self._client.search_runs(
            [self._experiment_id], f"attributes.run_name = {quote}{self._sweep}{quote}", max_results=1
        )
        return f"{self._sweep}-{self._sweep_id[:4]}" if others else self._sweep

    def _find_runs(self, client: MlflowClient, trial: str | None = None) -> dict[str | None, Run]:
        """The existing runs, all or a trial's; if a trial has two, the empty one is deleted."""
        query = f"tags.`{SWEEP_TAG}` = '{self._sweep_id}'"
        if trial is not None:
            query += f" and tags.`{TRIAL_TAG}` = '{trial}'"
        found: dict[str | None, dict[str, Run]] = {}
        token = None
        while True:
            page = client.search_runs([self._experiment_id], query, max_results=1000, page_token=token)
            for run in page:
                found.setdefault(run.data.tags.get(TRIAL_TAG), {})[run.info.run_id] = run
            token = page.token
            if not token:
                break
        for owner, runs in found.items():
            best = max(runs.values(), key=lambda run: len(run.data.metrics) + len(run.data.params))
            kept = self._runs.setdefault(owner, best.info.run_id)
            for run in runs.values():
                if run.info.run_id != kept and not run.data.metrics and not run.data.params:
                    client.delete_run(run.info.run_id)
        return {owner: runs[self._runs[owner]] for owner, runs in found.items() if self._runs[owner] in runs}

    def _settle_runs(self) -> None:
        """Undo the effects of requests that got no answer, were repeated, and took effect after all.

        A server that hung may have made a second run or model, or have set a run back to RUNNING after its end.
        """
        for trial, run in self._find_runs(self._client).items():
            if run.info.status == "RUNNING" and trial in self._ends:
                status, time = self._ends[trial]
                self._client.set_terminated(run.info.run_id, status=status, end_time=time)
        models = self._models()
        ready = {(model.name, model.tags.get(TRIAL_TAG)) for model in models if str(model.status) == "READY"}
        for model in models:
            if str(model.status) == "PENDING" and (model.name, model.tags.get(TRIAL_TAG)) in ready:
                self._client.delete_logged_model(model.model_id)

    def _models(self) -> list[LoggedModel]:
        query = f"tags.`{SWEEP_TAG}` = '{self._sweep_id}'"
        return list(self._client.search_logged_models([self._experiment_id], query))


def store_of(header: Mapping[str, Any], *, uri: str, folder: Path) -> MlflowStore:
    """The store for the sweep of a spool, by the spool's header; `folder` is where the spool lies."""
    return MlflowStore(
        uri=uri,
        experiment=header["experiment"],
        sweep=header["sweep"],
        sweep_id=header["sweep_id"],
        artifact_root=artifact_root(uri, folder),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
