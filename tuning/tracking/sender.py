"""Sends a spool to MLflow, in order and in batches; each record again until it is accepted."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from kobert_core.io.atomic import atomic_write_json
from kobert_core.io.checksums import sealed
from tuning.tracking.dead_letters import DeadLetters
from tuning.tracking.mlflow_store import MetricPoint, MlflowStore, is_refusal
from tuning.tracking.spool import Record, Spool, record_of
from tuning.tracking.uris import redact_uri

T = TypeVar("T")
_POLL_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_FLUSH = 10  # times its timeout
_BATCH = 1000  # metrics a request, MLflow's limit
_log = logging.getLogger(__name__)


class Seen:
    """What was accepted: of a metric at a step, and of a parameter, only the first value counts."""

    def __init__(self) -> None:
        self._points: dict[str | None, set[tuple[int, str]]] = {}
        self._params: dict[str | None, set[str]] = {}

    def new_points(self, records: Sequence[Record]) -> dict[str | None, list[MetricPoint]]:
        """The metrics of these records that were not accepted before, by trial."""
        taken: set[tuple[str | None, int, str]] = set()
        points: dict[str | None, list[MetricPoint]] = {}
        for record in records:
            trial, step = record["trial"], record["step"]
            for key, value in record["metrics"].items():
                if (step, key) in self._points.get(trial, ()) or (trial, step, key) in taken:
                    continue
                taken.add((trial, step, key))
                points.setdefault(trial, []).append((key, float(value), record["time"], step))
        return points

    def new_params(self, record: Record) -> dict[str, str]:
        """The parameters of a start that the trial did not have before."""
        known = self._params.get(record["trial"], set())
        return {key: value for key, value in record["params"].items() if key not in known}

    def add(self, record: Record) -> None:
        """Remember an accepted record."""
        if record["kind"] in ("metrics", "result"):
            steps = self._points.setdefault(record["trial"], set())
            steps.update((record["step"], key) for key in record["metrics"])
        elif record["kind"] == "start":
            self._params.setdefault(record["trial"], set()).update(record["params"])


class Sender:
    """Sends one spool to one store; `start` does so in a thread that never raises.

    Beside the spool lie `<spool>.state.json` (how far the store has accepted it) and `<spool>.dead.jsonl`
    (what the store refused for good, with its reason).
    """

    def __init__(self, spool: Spool, store: MlflowStore, *, uri: str) -> None:
        self.refused = 0
        self._spool, self._store, self._uri = spool, store, redact_uri(uri)
        self._state_path = state_path(spool.path)
        self._dead_letters = DeadLetters(spool.path)
        self._offset = self._saved_offset()
        self._saved = self._offset
        self._to_send = spool.count(self._offset) - spool.appended
        self._accepted = 0
        self._seen: Seen | None = None
        self._failures = 0
        self._wake, self._stop = threading.Event(), threading.Event()
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)

    @property
    def left(self) -> int:
        """The number of records that the store has not accepted yet."""
        return self._to_send + self._spool.appended - self._accepted

    def start(self) -> None:
        """Send in the background; the thread closes the spool when it ends."""
        self._thread.start()

    def flush(self, timeout: float) -> int:
        """Wait until all is accepted, or nothing has been for `timeout` seconds, ten times as long at most; the number
        of records left."""
        began = latest = time.monotonic()
        with self._progress:
            accepted = self._accepted
            while self.left and time.monotonic() < min(latest + timeout, began + _LONGEST_FLUSH * timeout):
                self._wake.set()
                self._progress.wait(min(timeout, 1.0))
                if self._accepted > accepted:
                    accepted, latest = self._accepted, time.monotonic()
        return self.left

    def stop(self, timeout: float) -> None:
        """End the thread; a request under way is not waited for longer than `timeout` seconds."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)

    def forget(self) -> None:
        """After its end: remove the spool and its state."""
        for path in (self._spool.path, self._state_path):
            path.unlink(missing_ok=True)

    def send(self) -> None:
        """Send everything; raises why the store does not take it. Can be called again."""
        try:
            end = self._spool.settle()
            if self._offset < end:
                self._store.connect()
                if self._seen is None:
                    self._seen = self._read_seen()
                self._send_up_to(end, self._seen)
        except Exception:
            self._failures += 1
            raise
        self._failures = 0

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                pause = self._try_to_send()
                self._wake.wait(pause)
                self._wake.clear()
        finally:
            self._spool.close()

    def _try_to_send(self) -> float:
        """Send, and return the seconds to wait until the next time."""
        before = self._failures
        try:
            self.send()
        except Exception as error:
            if before == 0:
                _log.warning(
                    "cannot send to MLflow at %s: %s (the sweep goes on; %s keeps its reports)",
                    self._uri,
                    reason_of(error),
                    self._spool.path,
                )
            return min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(before, 10))
        if before:
            _log.warning("MLflow at %s takes reports again", self._uri)
        return _POLL_SECONDS

    def _send_up_to(self, end: int, seen: Seen) -> None:
        while self._offset < end and not self._stop.is_set():
            try:
                self._send_block(seen, self._spool.read(self._offset, end))
            finally:
                self._save_offset()

    def _send_block(self, seen: Seen, lines: list[tuple[int, bytes]]) -> None:
        metrics: list[tuple[int, Record]] = []
        size = 0
        for offset, line in lines:
            record = record_of(line)
            if record is not None and record["kind"] == "metrics":
                metrics.append((offset, record))
                size += len(record["metrics"])
                if size < _BATCH:
                    continue
            # A run's end must not overtake its metrics.
            self._send_metrics(seen, metrics)
            metrics, size = [], 0
            if record is None:
                self._bury(line.decode("utf-8", "replace"), "not a record, or altered after it was written")
                self._accept(offset)
            elif record["kind"] != "metrics":
                self._send_record(seen, record)
                seen.add(record)
                self._accept(offset)
            if self._stop.is_set():
                return
        self._send_metrics(seen, metrics)

    def _send_metrics(self, seen: Seen, batch: list[tuple[int, Record]]) -> None:
        for trial, points in seen.new_points([record for _, record in batch]).items():
            send = partial(self._store.log_metrics, trial)
            self._send_or_bury(send, points, {"kind": "metrics", "trial": trial})
        for offset, record in batch:
            seen.add(record)
            self._accept(offset)

    def _send_record(self, seen: Seen, record: Record) -> None:
        """Send all but metrics; in parts, so that one bad parameter or tag costs only itself."""
        store, kind, at = self._store, record["kind"], record["time"]
        if kind in ("start", "end"):
            trial = record["trial"]
            if kind == "start":
                origin = record.get("origin", {})
                self._send_or_bury(lambda _: store.start_run(trial, time=at, origin=origin), [record], record)
                params = list(seen.new_params(record).items())
                self._send_or_bury(lambda some: store.log_params(trial, some, time=at), params, record)
                datasets = record.get("datasets", [])
                self._send_or_bury(lambda some: store.log_datasets(trial, some, time=at), datasets, record)
            tags = list(record["tags"].items())
            self._send_or_bury(lambda some: store.log_tags(trial, some, time=at), tags, record)
            if kind == "end":
                status = record["status"]
                self._send_or_bury(lambda _: store.end_run(trial, time=at, status=status), [record], record)
            return
        if kind == "result":
            self._send_result(seen, record)
            return
        arguments = {key: value for key, value in record.items() if key != "kind"}
        if kind == "dataset":
            self._send_or_bury(lambda some: store.log_datasets(None, some, time=at), [record], record)
        elif kind == "artifact":
            self._send_or_bury(lambda _: store.log_artifact(**arguments), [record], record)
        elif kind == "winner":
            self._send_or_bury(lambda _: store.log_winner(**arguments), [record], record)

    def _send_result(self, seen: Seen, record: Record) -> None:
        store, trial, at = self._store, record["trial"], record["time"]
        points = seen.new_points([record]).get(trial, [])
        self._send_or_bury(partial(store.log_metrics, trial), points, record)
        tags = [(key, value) for key, value in record["tags"].items() if value is not None]
        self._send_or_bury(lambda some: store.log_tags(trial, some, time=at), tags, record)
        gone = [key for key, value in record["tags"].items() if value is None]
        self._send_or_bury(lambda some: store.remove_tags(trial, some, time=at), gone, record)

    def _send_or_bury(self, send: Callable[[list[T]], object], items: list[T], record: Record) -> None:
        """Send items together; find refused ones by halving, and keep them as dead letters."""
        if not items:
            return
        try:
            send(items)
        except Exception as error:
            if not is_refusal(error, attempts=self._failures) or not self._store.answers():
                raise
            if len(items) == 1:
                self._bury({**record, "refused": items[0]}, str(error))
            else:
                half = len(items) // 2
                self._send_or_bury(send, items[:half], record)
                self._send_or_bury(send, items[half:], record)

    def _bury(self, record: object, reason: str) -> None:
        reason = redact_uri(" ".join(reason.split()))[:1000]
        if not self._dead_letters.add(record, reason):
            return
        self.refused += 1
        if self.refused == 1:
            _log.warning("MLflow refuses a record for good: %s (kept in %s)", reason[:300], self._dead_letters.path)

    def _accept(self, offset: int) -> None:
        with self._progress:
            self._offset = offset
            self._accepted += 1
            self._progress.notify_all()

    def _read_seen(self) -> Seen:
        seen = Seen()
        for record in self._spool.records(self._offset):
            seen.add(record)
        return seen

    def _saved_offset(self) -> int:
        """How far this store has accepted the spool; 0 when unknown: sending again is harmless."""
        try:
            state = json.loads(self._state_path.read_text("utf-8"))
            offset = int(state["offset"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0
        return offset if offset >= 0 and state == self._state(offset) and self._spool.is_boundary(offset) else 0

    def _save_offset(self) -> None:
        if self._offset != self._saved:
            with contextlib.suppress(OSError):  # a full disk: some of the spool will be sent again, which is harmless
                atomic_write_json(self._state_path, self._state(self._offset))
                self._saved = self._offset

    def _state(self, offset: int) -> dict[str, object]:
        return sealed({"uri": self._uri, "sweep_id": self._spool.header["sweep_id"], "offset": offset})


def state_path(spool: Path) -> Path:
    """The file that says how far the store has accepted a spool."""
    return spool.with_name(f"{spool.name}.state.json")


def reason_of(error: BaseException) -> str:
    """Why the store did not take something, in a line; for a network error, the system's text."""
    root = error
    while cause := root.__cause__ or root.__context__:
        root = cause
    return redact_uri(" ".join(str(root if isinstance(root, OSError) else error).split()))[:300]
