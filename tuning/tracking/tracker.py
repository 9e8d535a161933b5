"""What the driver of a sweep calls: appends to the spool and returns."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kobert_core.errors import InputError

from .spool import Spool, now_ms
from .store import Store, prepare_environment
from .syncer import Syncer
from .uris import artifact_root, redact_uri

Status = Literal["FINISHED", "KILLED", "FAILED"]


class Tracker:
    """Appends what a sweep reports to a local spool (JSON Lines); one background thread sends it to MLflow.

    No method waits for MLflow but `flush` and `close`, and none raises because of it. A spool that is there
    already is continued: its own sweep name, experiment and identity count.

    Args:
        spool: the file; see `Syncer` for the two that lie beside it.
        uri: MLflow's store, as `resolve_tracking_uri` gives it.
        experiment: is created when missing.
        sweep: the name of the parent run.

    Raises:
        InputError: the spool is in use by another process, cannot be written, or is none.
    """

    def __init__(self, *, spool: Path, uri: str, experiment: str, sweep: str) -> None:
        self._spool = Spool(spool, sweep=sweep, experiment=experiment)
        self._syncer = _make_syncer(self._spool, uri)
        self._closed = False
        self._syncer.start()

    @property
    def refused(self) -> int:
        """The number of records and values that MLflow refused for good in this process."""
        return self._syncer.refused

    def start_sweep(self, *, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Open the parent run, or take it up again."""
        self._start(None, params, tags)

    def log_dataset(self, *, name: str, path: str, sha256: str, examples: int, context: str) -> None:
        """Name a dataset that the sweep reads; `context` is training, validation or testing."""
        self._append("dataset", name=name, path=str(path), sha256=sha256, examples=int(examples), context=context)

    def start_trial(self, trial: str, *, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Open a trial's run, or take it up again; of a parameter with two values the first stays."""
        self._start(trial, params, tags)

    def log_metrics(self, trial: str | None, metrics: Mapping[str, float], *, step: int) -> None:
        """Metrics of a trial, or of the parent run (None), with the time of this call.

        A metric of a (trial, step) that was given before is not sent again. NaN and infinities are kept (but
        MLflow stores an infinity as the largest float).
        """
        self._append("metrics", durable=False, trial=trial, step=int(step), metrics=_plain(metrics))

    def end_trial(self, trial: str, *, status: Status, tags: Mapping[str, str]) -> None:
        """Close a trial's run at the time of this call."""
        self._append("end", trial=trial, status=status, tags=_texts(tags))

    def log_artifact(self, path: Path, *, trial: str | None = None, artifact_path: str | None = None) -> None:
        """Upload a file or folder; the spool holds its path, so what is sent is what is there by then."""
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
        """Make a LoggedModel of a folder, with the trial's run as its source.

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

    def end_sweep(self, *, status: Status) -> None:
        """Close the parent run at the time of this call."""
        self._append("end", trial=None, status=status, tags={})

    def flush(self, timeout: float) -> int:
        """Wait until all is accepted, `timeout` seconds at most; the number of records not yet accepted."""
        return self._syncer.flush(timeout)

    def close(self, timeout: float = 30.0) -> int:
        """`flush` and end the thread; what is left stays in the spool for `sync`. May be called twice."""
        if not self._closed:
            deadline = time.monotonic() + timeout
            self._syncer.flush(timeout)
            self._syncer.stop(max(0.5, deadline - time.monotonic()))
            self._closed = True
        return self._syncer.left

    def _start(self, trial: str | None, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        self._append("start", trial=trial, params=_texts(params), tags=_texts(tags))

    def _append(self, kind: str, *, durable: bool = True, **fields: object) -> None:
        if self._closed:
            raise ValueError("the tracker is closed")
        self._spool.append({"kind": kind, "time": now_ms(), **fields}, durable=durable)


@dataclass(frozen=True)
class SyncResult:
    """What `sync` did: records sent, records left and why, records and values refused for good."""

    sent: int
    left: int
    refused: int
    reason: str | None


def sync(spool: Path, *, uri: str, attempts: int = 3) -> SyncResult:
    """Send what is left in a spool, in this thread; `attempts` failures without progress end it.

    Raises:
        InputError: there is no such spool, or a running sweep still uses it.
    """
    if not spool.is_file():
        raise InputError("no tracking spool here", where=spool)
    opened = Spool(spool)
    try:
        syncer = _make_syncer(opened, uri)
        before, failures, reason = syncer.left, 0, None
        while syncer.left and failures < attempts:
            left = syncer.left
            try:
                syncer.send()
                reason = None
            except Exception as error:
                reason = redact_uri(" ".join(str(error).split()))[:300]
                failures = failures + 1 if syncer.left == left else 1
                if failures < attempts:
                    time.sleep(float(failures))
        return SyncResult(before - syncer.left, syncer.left, syncer.refused, reason)
    finally:
        opened.close()


def _make_syncer(spool: Spool, uri: str) -> Syncer:
    prepare_environment()
    header = spool.header
    store = Store(
        uri=uri,
        experiment=header["experiment"],
        sweep=header["sweep"],
        sweep_id=header["sweep_id"],
        artifact_root=artifact_root(uri, spool.path.parent),
    )
    return Syncer(spool, store, uri=uri)


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {str(key): str(value) for key, value in values.items()}


def _plain(metrics: Mapping[str, float]) -> dict[str, float | str]:
    # JSON has no NaN and no infinity: they are written as texts, which float() reads.
    numbers = {str(key): float(value) for key, value in metrics.items()}
    return {key: value if math.isfinite(value) else repr(value) for key, value in numbers.items()}
