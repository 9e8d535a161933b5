"""The runtime of a trial on a worker group."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import ray
import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from kobert_core.runtime import Phase, Report
from tuning.workers.broker import ReportContent

if TYPE_CHECKING:
    from tuning.storage.uploads import Uploads
    from tuning.workers.broker import BrokerActor

P = ParamSpec("P")
T = TypeVar("T")
SECONDS_BETWEEN_HEARTBEATS = 5.0
STEPS_BETWEEN_AGREEMENTS = 8
"""The workers of a group agree whether to stop once in so many steps."""


class WorkerLost(RuntimeError):
    """Another worker of the group can no longer be reached: that is no error of the task."""


class GroupRuntime:
    """A worker's `kobert_core.runtime.Runtime`."""

    def __init__(
        self,
        broker: BrokerActor,
        number: int,
        *,
        device: torch.device,
        rank: int,
        workers: int,
        cpu_group: ProcessGroup | None,
    ) -> None:
        """For the task with this number."""
        self.device, self.rank, self.workers = device, rank, workers
        self.checkpoints: Path | None = None
        self.resume = False
        self.copies: Uploads | None = None
        self.end = 100
        """The progress at whose report the run ends."""
        self.each_lands = False
        """Whether a report waits until its checkpoint has landed in `copies`: another trial may ask for it then."""
        self.on_report: Callable[[Report], object] = lambda report: None
        """Called with each report before it is handed on."""
        self.costs: Mapping[str, float] = {}
        """Of the model: a part of the metrics of each report."""
        self.was_stopped = False
        """Whether the task was told to end before its end."""
        self._broker, self._number, self._cpu_group = broker, number, cpu_group
        self._asked_to_stop = threading.Event()
        self._steps, self._reported = 0, False
        self.seconds_between_heartbeats, self._last_heartbeat = SECONDS_BETWEEN_HEARTBEATS, time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._broker.stopped.remote(self._number))
        self._asked_to_stop.set()

    def report(self, report: Report) -> bool:
        """Hand a report to whoever leases the group, and wait for its decision: whether to go on."""
        report = replace(report, metrics={**report.metrics, **self.costs})
        self.on_report(report)
        self._reported = True
        if self.rank:
            return True
        is_last, content = report.progress >= self.end, as_content(report)
        if self.copies is not None:
            if is_last or self.each_lands:
                self.copies.flush()  # who ends at this report is done with: it is not begun again for its checkpoint
            content["landed"] = self.copies.newest
        if not ray.get(self._broker.report.remote(self._number, content)) or (is_last and self.end < 100):
            self._asked_to_stop.set()
            return False
        return True

    def apart(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call a function in a thread, however long it takes: meanwhile this worker says that it is alive."""
        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(function, *arguments, **options)
            while wait([future], timeout=1.0).not_done:
                self.say_all_live()
            return future.result()

    def say_all_live(self) -> None:
        """Tell the broker that this worker is alive, and so are the others, which wait for it."""
        self._send_heartbeat(range(self.workers))

    def should_stop(self) -> bool:
        """Whether the lease has ended, or is to go on in another group. Workers agree through the CPU, so that the
        device never waits."""
        self._send_heartbeat()
        if self.workers == 1:
            self.was_stopped = self._asked_to_stop.is_set()
            return self.was_stopped
        self._steps += 1
        if not self._reported and self._steps % STEPS_BETWEEN_AGREEMENTS:
            return False
        self._reported = False
        asked = torch.tensor([float(self._asked_to_stop.is_set())])
        with collective():
            dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self._cpu_group)
        self.was_stopped = bool(asked.item())
        return self.was_stopped

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sum over the group, in one message for each dtype."""
        if self.workers == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # the same order on all workers
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            with collective():
                dist.all_reduce(flat)
            for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        if self.workers == 1:
            return [value]
        values: list[Any] = [None] * self.workers
        with collective():
            dist.all_gather_object(values, value, group=self._cpu_group)
        return values

    def phase(self, name: Phase) -> contextlib.AbstractContextManager[object]:
        """A trial is not profiled."""
        return contextlib.nullcontext()

    def _send_heartbeat(self, ranks: Iterable[int] | None = None) -> None:
        now = time.monotonic()
        if now - self._last_heartbeat > self.seconds_between_heartbeats:
            self._last_heartbeat = now
            for rank in [self.rank] if ranks is None else ranks:
                self._broker.heartbeat.remote(self._number, rank)


@contextlib.contextmanager
def collective() -> Iterator[None]:
    """Around a collective operation: an error in it says that another worker is gone."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(str(error)) from error


def as_content(report: Report) -> ReportContent:
    """A report as plain values: the broker and Ray Tune's processes need not import PyTorch for them."""
    return {
        "progress": report.progress,
        "step": report.step,
        "metrics": report.metrics,
        "is_best": report.is_best,
        "checkpoint": report.checkpoint,
        "micro_batch": report.micro_batch,
    }
