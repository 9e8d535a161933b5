"""Other trackers and a user's own functions hear what MLflow hears: a thread reads the spool of a sweep and tells them.

None of them can delay a sweep or end it: one that raises is left out from there on, with one line that says so.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kobert_core.errors import reason_of
from kobert_core.io.atomic import atomic_write_json
from tuning.tracking.spool import Record, record_of

TrialKey = int | str
"""The number of a trial; of a run that confirms the winner `confirm/00` and so on."""
OnReport = Callable[[TrialKey, int, Mapping[str, float]], object]
SECONDS_BETWEEN_LOOKS = 0.3
SECONDS_TO_END = 30.0
SWEEP_ENDS = {"FINISHED": "finished", "KILLED": "interrupted", "FAILED": "failed"}


class Callback:
    """What happens in a sweep. Each method may be left as it is.

    >>> class Best(Callback):
    ...     value = 0.0
    ...
    ...     def on_report(self, trial, step, metrics):
    ...         self.value = max(self.value, metrics["eval/accuracy"])
    >>> best = Best()
    >>> best.on_report(3, 40, {"eval/accuracy": 0.9})
    >>> best.value
    0.9
    """

    def on_trial_start(self, trial: TrialKey, params: Mapping[str, str]) -> None:
        """A trial starts, or goes on; `params` are those of its run in MLflow, as texts."""

    def on_report(self, trial: TrialKey, step: int, metrics: Mapping[str, float]) -> None:
        """An evaluation of a trial after so many steps; each is told once."""

    def on_result(self, trial: TrialKey, metrics: Mapping[str, float]) -> None:
        """Scores that are no part of a curve: on the holdout, or on the test file."""

    def on_trial_end(self, trial: TrialKey, state: str) -> None:
        """A trial has ended: COMPLETE, PRUNED or FAILED; or is INTERRUPTED, and goes on when the sweep does; or is
        PAUSED, and may go on."""

    def on_sweep_end(self, state: str) -> None:
        """The sweep has `finished`, was `interrupted`, or `failed`: no trial came to a model."""


class _Function(Callback):
    def __init__(self, function: OnReport) -> None:
        self._function = function

    def on_report(self, trial: TrialKey, step: int, metrics: Mapping[str, float]) -> None:
        self._function(trial, step, metrics)


class Listener:
    """Tells callbacks of the records of a spool, in a thread, until the sweep's end or `close`."""

    def __init__(
        self,
        spool: Path,
        callbacks: Sequence[Callback | OnReport],
        *,
        say: Callable[[str], object],
        heard: Path | None = None,
    ) -> None:
        """Begin to listen.

        Args:
            spool: Which need not be there yet.
            callbacks: A function hears each evaluation, as `Callback.on_report`.
            say: Gets a line for each callback that raises.
            heard: A file that keeps how far they have heard, for the next session; without one they hear what comes
                from now on.
        """
        self._spool, self._say, self._heard = spool, say, heard
        self._callbacks = [each if isinstance(each, Callback) else _Function(each) for each in callbacks]
        self._names = {id(own): _name_of(given) for own, given in zip(self._callbacks, callbacks, strict=True)}
        self._closing = threading.Event()
        self._seen: set[tuple[TrialKey, int]] = set()
        self._offset = 0
        self._skip_to(self._saved() if heard else spool.stat().st_size if spool.is_file() else 0)
        self._thread = threading.Thread(target=self._run, name="callbacks", daemon=True)
        if self._callbacks:
            self._thread.start()

    def close(self, timeout: float = SECONDS_TO_END) -> None:
        """Tell what is left, for so many seconds at most."""
        self._closing.set()
        if self._callbacks:
            self._thread.join(timeout)

    def _saved(self) -> int:
        assert self._heard is not None
        try:
            return int(json.loads(self._heard.read_text(encoding="utf-8"))["offset"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0

    def _skip_to(self, offset: int) -> None:
        """Take records as heard: a resumed trial may report them again."""
        for end, record in self._records():
            if end > offset:
                break
            self._offset = end
            if record and record["kind"] == "metrics":
                self._seen.add((_key(record["trial"]), record["step"]))

    def _run(self) -> None:
        while True:
            is_last = self._closing.is_set()
            for end, record in self._records():
                if record:
                    self._tell(record)
                self._offset = end
            if self._heard:
                try:
                    atomic_write_json(self._heard, {"offset": self._offset})
                except OSError:
                    self._heard = None  # they hear some of it again
            if is_last:
                return
            self._closing.wait(SECONDS_BETWEEN_LOOKS)

    def _records(self) -> Iterable[tuple[int, Record | None]]:
        """The whole lines that follow, each with the offset of its end."""
        if not self._spool.is_file():
            return
        with open(self._spool, "rb") as file:
            file.seek(self._offset)
            end = self._offset
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield end, record_of(line.rstrip(b"\n"))

    def _tell(self, record: Record) -> None:
        kind, trial = record["kind"], _key(record.get("trial"))
        if kind == "start" and trial is not None:
            self._each(lambda callback: callback.on_trial_start(trial, record["params"]))
        elif kind == "metrics" and trial is not None and (trial, record["step"]) not in self._seen:
            self._seen.add((trial, record["step"]))
            metrics = {k: float(v) for k, v in record["metrics"].items() if not k.startswith("best/")}
            if any(name.startswith("eval/") for name in metrics):
                self._each(lambda callback: callback.on_report(trial, record["step"], metrics))
            else:
                self._each(lambda callback: callback.on_result(trial, metrics))
        elif kind == "result" and record["metrics"]:
            scores = {name: float(value) for name, value in record["metrics"].items()}
            self._each(lambda callback: callback.on_result(trial, scores))
        elif kind == "end" and trial is not None:
            self._each(lambda callback: callback.on_trial_end(trial, record["tags"].get("state", record["status"])))
        elif kind == "end":
            self._each(lambda callback: callback.on_sweep_end(SWEEP_ENDS[record["status"]]))
            self._closing.set()

    def _each(self, tell: Callable[[Callback], None]) -> None:
        for callback in list(self._callbacks):
            try:
                tell(callback)
            except Exception as error:  # a user's own code
                self._callbacks.remove(callback)
                name = self._names[id(callback)]
                self._say(f"warning: the callback {name} is left out from here on ({reason_of(error)})")


def _key(trial: Any) -> Any:
    return int(trial) if isinstance(trial, str) and trial.isdigit() else trial


def _name_of(callback: object) -> str:
    return str(getattr(callback, "__name__", type(callback).__name__))


def read_reports(spool: Path) -> list[tuple[TrialKey, int, dict[str, float], int]]:
    """All evaluations that a spool holds, each once: trial, step, metrics, milliseconds since 1970."""
    found: dict[tuple[TrialKey, int], tuple[dict[str, float], int]] = {}
    try:
        lines = spool.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    for line in lines:
        record = record_of(line)
        if record and record["kind"] == "metrics" and record["trial"] is not None:
            metrics = {k: float(v) for k, v in record["metrics"].items() if not k.startswith("best/")}
            found.setdefault((_key(record["trial"]), record["step"]), (metrics, record["time"]))
    return [(trial, step, metrics, time) for (trial, step), (metrics, time) in found.items()]


def callbacks_named(names: Sequence[str]) -> list[Callback | OnReport]:
    """The callbacks that a study names, as `module:name`: functions, classes that are called, or objects.

    Raises:
        ValueError: one cannot be imported.
    """
    from importlib import import_module

    found: list[Callback | OnReport] = []
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            value = getattr(import_module(module), attribute)
            found.append(value() if isinstance(value, type) else value)
        except Exception as error:
            raise ValueError(f"`{name}` cannot be made ({reason_of(error)})") from error
    return found
