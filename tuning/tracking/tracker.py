"""The driver's side of tracking: appends to the spool and returns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kobert_core.errors import InputError
from tuning.tracking.dead_letters import count_dead_letters, dead_letters_path
from tuning.tracking.mlflow_store import DESCRIPTION_TAG, prepare_environment, store_of
from tuning.tracking.origin import origin_tags
from tuning.tracking.sender import Sender, reason_of
from tuning.tracking.spool import Spool
from tuning.tracking.system_metrics import SystemMetrics

Status = Literal["FINISHED", "KILLED", "FAILED", "SCHEDULED"]
End = tuple[Status, Mapping[str, str]]
"""How a trial ended: the status of its run, and tags."""
Ends = Mapping[str, End]
"""By the trials' numbers."""
INTERRUPTED_TAGS = {"interrupted": "true", "state": "INTERRUPTED"}
_INTERRUPTED: End = ("KILLED", INTERRUPTED_TAGS)


class Tracker:
    """Appends the reports of a sweep to a local spool (JSON Lines); a background thread sends them to MLflow.

    No method waits for MLflow but `flush` and `close`, and none raises because of it. A spool that is there
    already is continued: its own sweep name, experiment and identity count.

    Args:
        spool: the file; see `Sender` for the two that lie beside it.
        uri: MLflow's store, as `resolve_tracking_uri` gives it.
        experiment: is created when missing.
        sweep: the name of the parent run.
        system_metrics: whether the parent run has the load of this machine.
        limit: how many bytes of the spool may be sent, where another machine must have them first.

    Raises:
        InputError: the spool is in use by another process, cannot be written, or is none.
    """

    def __init__(
        self,
        *,
        spool: Path,
        uri: str,
        experiment: str,
        sweep: str,
        system_metrics: bool = False,
        limit: Callable[[], int] | None = None,
    ) -> None:
        self._spool = Spool(spool, sweep=sweep, experiment=experiment)
        self._spool.limit = limit
        self._sender = _make_sender(self._spool, uri)
        self._origin, self._datasets = origin_tags(), list[dict[str, object]]()
        self._closed = False
        self._sender.start()
        self._load = SystemMetrics(lambda metrics, step: self.log_metrics(None, metrics, step=step))
        if system_metrics:
            self._load.start()

    @property
    def refused(self) -> int:
        """The number of records and values that MLflow refused for good in this process."""
        return self._sender.refused

    @property
    def unwritten(self) -> int:
        """The number of records that are only in memory because the disk is full: they are lost with this process."""
        return self._spool.unwritten

    def start_sweep(self, *, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Open or reopen the parent run."""
        self._start(None, params, tags)

    def log_dataset(self, *, name: str, path: str, sha256: str, examples: int, context: str) -> None:
        """Name a dataset that the sweep reads; `context` is training, validation or testing. The trials that start
        after it have it too, unless it is for testing."""
        dataset = dict(name=name, path=str(path), sha256=sha256, examples=int(examples), context=context)
        if context != "testing":
            self._datasets.append(dataset)
        self._append("dataset", **dataset)

    def start_trial(self, trial: str, *, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Open or reopen a trial's run; if a parameter is given twice, the first value stays.

        `trial` is its number, or any other key that no other run of the sweep has, such as `confirm/3/1001`: the run's
        name is the sweep's with `/03`, or `/confirm/3/1001`.
        """
        self._start(trial, params, tags)

    def log_metrics(self, trial: str | None, metrics: Mapping[str, float], *, step: int) -> None:
        """Metrics of a trial, or of the parent run (None), with the time of this call.

        A metric of a (trial, step) that was given before is not sent again. NaN and infinities are kept (but
        MLflow stores an infinity as the largest float).
        """
        self._append("metrics", trial=trial, step=int(step), metrics=_plain(metrics))

    def end_trial(self, trial: str, *, status: Status, tags: Mapping[str, str]) -> None:
        """Close a trial's run at the time of this call."""
        self._append("end", trial=trial, status=status, tags=_texts(tags))

    def log_result(
        self, trial: str, *, metrics: Mapping[str, float], step: int, tags: Mapping[str, str | None]
    ) -> None:
        """The results of a trial that has ended: metrics, and tags; None removes a tag. Its run stays ended."""
        self._append("result", trial=trial, step=int(step), metrics=_plain(metrics), tags=dict(tags))

    def log_artifact(self, path: Path, *, trial: str | None = None, artifact_path: str | None = None) -> None:
        """Upload a file or folder; the spool holds its path, so its content is read when it is sent."""
        self._append("artifact", trial=trial, path=str(path.absolute()), artifact_path=artifact_path)

    def log_winner(
        self,
        model_dir: Path,
        *,
        name: str,
        trial: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Make a LoggedModel of an exported folder, which MLflow loads and serves, with the trial's run as its source.

        Its metrics are also written to the parent run, at step 0.
        """
        self._append(
            "winner",
            trial=trial,
            model_dir=str(model_dir.absolute()),
            name=name,
            params=_texts(params),
            metrics=_plain(metrics),
            tags=_texts(tags),
        )

    def end_left_open(self, ends: Ends) -> None:
        """Close the runs of trials that ended just before their driver was killed."""
        for trial in open_runs(self._spool):
            if trial in ends:
                _end_run(self._spool, trial, ends)

    def end_sweep(self, *, status: Status, description: str | None = None) -> None:
        """Close the parent run at the time of this call, with a description in Markdown, or the one that it has."""
        self._load.stop()
        tags = {} if description is None else {DESCRIPTION_TAG: description}
        self._append("end", trial=None, status=status, tags=tags)

    def flush(self, timeout: float) -> int:
        """Wait until all is accepted, or nothing has been for `timeout` seconds; the number of records not yet
        accepted."""
        return self._sender.flush(timeout)

    def close(self, timeout: float = 30.0) -> int:
        """`flush` and end the thread; what is left stays in the spool for `send_spool`. Can be called twice."""
        if not self._closed:
            self._load.stop()
            deadline = time.monotonic() + timeout
            self._sender.flush(timeout)
            self._sender.stop(max(0.5, deadline - time.monotonic()))
            self._closed = True
        return self._sender.left

    def forget(self) -> None:
        """After `close`: remove the spool of a sweep without any trial, if MLflow has all of it. A later sweep of this
        name is another one, with its own run."""
        if self._closed and not self._sender.left:
            self._sender.forget()

    def _start(self, trial: str | None, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        datasets = [] if trial is None else self._datasets
        more = {"origin": self._origin, "datasets": datasets}
        self._append("start", trial=trial, params=_texts(params), tags=_texts(tags), **more)

    def _append(self, kind: str, **fields: object) -> None:
        if self._closed:
            raise ValueError("the tracker is closed")
        self._spool.append(kind, at=None, **fields)


@dataclass(frozen=True)
class SyncResult:
    """The result of `send_spool`."""

    sent: int
    """Records that were accepted."""
    left: int
    """Records that are still to be sent."""
    reason: str | None
    """Why."""
    refused: int
    """Records and values that were refused for good, now or before; they are in `dead_letters`."""
    dead_letters: Path | None


def send_spool(spool: Path, *, uri: str, ends: Ends | None = None, attempts: int = 3) -> SyncResult:
    """Send what is left in a spool, in this thread; gives up after `attempts` failures without progress.

    No driver is there any more. So what it left open is ended first, with the time of its last record: trials as
    `ends` says, all others, and the sweep, as interrupted. A resume takes them up again.

    Raises:
        InputError: there is no such spool, or a running sweep still uses it.
    """
    if not spool.is_file():
        raise InputError("no tracking spool here", where=spool)
    opened = Spool(spool)
    try:
        sender = _make_sender(opened, uri)
        for trial in sorted(open_runs(opened), key=lambda trial: trial is None):  # the sweep itself last
            _end_run(opened, trial, ends or {})
        before, failures, reason = sender.left, 0, None
        while sender.left and failures < attempts:
            left = sender.left
            try:
                sender.send()
                reason = None
            except Exception as error:
                reason = reason_of(error)
                failures = failures + 1 if sender.left == left else 1
                if failures < attempts:
                    time.sleep(float(failures))
        refused = count_dead_letters(spool)
        return SyncResult(
            before - sender.left, sender.left, reason, refused, dead_letters_path(spool) if refused else None
        )
    finally:
        opened.close()


def open_runs(spool: Spool) -> list[str | None]:
    """The trials, and None for the sweep, whose runs a spool has not ended."""
    found: dict[str | None, None] = {}
    for record in spool.records():
        if record["kind"] in ("start", "metrics"):
            found |= {record["trial"]: None, None: None}
        elif record["kind"] == "end":
            found.pop(record["trial"], None)
    return list(found)


def _end_run(spool: Spool, trial: str | None, ends: Ends) -> None:
    status, tags = ends.get(trial, _INTERRUPTED) if trial is not None else _INTERRUPTED
    spool.append("end", trial=trial, status=status, tags=_texts(tags), at=spool.latest)


def _make_sender(spool: Spool, uri: str) -> Sender:
    prepare_environment()
    return Sender(spool, store_of(spool.header, uri=uri, folder=spool.path.parent), uri=uri)


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {str(key): str(value) for key, value in values.items()}


def _plain(metrics: Mapping[str, float]) -> dict[str, float | str]:
    # JSON has no NaN and no infinity: they are written as texts, which float() reads.
    numbers = {str(key): float(value) for key, value in metrics.items()}
    return {key: value if math.isfinite(value) else repr(value) for key, value in numbers.items()}
