"""A process of a worker group: it takes task after task."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

import psutil
import ray
import torch
import torch.distributed as dist
from ray import cloudpickle

from kobert_core.errors import InputError
from kobert_core.io.atomic import is_disk_full
from kobert_core.memory import is_out_of_memory
from tuning.storage.connection import StoreAway
from tuning.workers.broker import Kind
from tuning.workers.group_runtime import SECONDS_BETWEEN_HEARTBEATS, GroupRuntime, WorkerLost

if TYPE_CHECKING:
    from tuning.workers.broker import BrokerActor

SECONDS_TO_FAIL_TOGETHER = 10
MAX_GROWTH = 2 * 2**30
"""A group whose worker has grown by more bytes since its first task is replaced."""


class WorkerConfig(TypedDict):
    """What Ray Train hands to each worker."""

    broker: BrokerActor
    group: str
    threads: int
    gpus: float
    timeout: float
    max_tasks: int
    modules: Sequence[str]
    needs: str | None
    """A file without which no task can run here."""


def serve(config: WorkerConfig) -> None:
    """Run by each Ray Train worker: task after task, until there are no more or the process is worn out."""
    from ray.train import get_context
    from ray.train.torch import get_device

    broker, group = config["broker"], config["group"]
    if config["needs"] is not None and not os.path.isfile(config["needs"]):
        raise RuntimeError(f"a machine does not have {config['needs']}: the sweep's folder must be a shared one")
    rank, workers = get_context().get_world_rank(), get_context().get_world_size()
    device = get_device()
    if 0 < config["gpus"] < 1:
        keep_to_share_of_memory(device, config["gpus"])
    cpu_group = dist.new_group(backend="gloo") if workers > 1 else None
    here, wear = ray.get_runtime_context(), Wear(config["max_tasks"])
    actor, node = cloudpickle.dumps(here.current_actor), here.get_node_id()
    prepare(config["modules"], device)
    gc.freeze()  # what is imported by now stays: a collection after each task looks at the task alone
    while (task := ray.get(broker.next.remote(group, rank, actor, node=node, worn_out=wear.is_out()))) is not None:
        number, content = task
        runtime = GroupRuntime(broker, number, device=device, rank=rank, workers=workers, cpu_group=cpu_group)
        runtime.seconds_between_heartbeats = min(config["timeout"] / 4, SECONDS_BETWEEN_HEARTBEATS)
        try:
            function, arguments = cloudpickle.loads(content)
            with clean_slate(config["threads"]):
                value = function(runtime, **arguments)
        except (WorkerLost, ray.exceptions.RayError):  # only the runtime calls Ray: the broker does not answer
            os._exit(1)  # this ends the group, and the task hears that its workers were lost
        except Exception as error:
            kind = kind_of(error)
            reason = str(error) if kind == "input" else traceback.format_exc()
            ray.get(broker.end.remote(number, rank, kind, reason))
            # An error of all workers, such as a loss that is NaN, leaves the group intact. A worker that does not end
            # waits for this one in a collective: when this process ends, so does the group, and a new one starts.
            try:
                ray.get(broker.all_ended.remote(number), timeout=SECONDS_TO_FAIL_TOGETHER)
            except ray.exceptions.GetTimeoutError:
                os._exit(1)
        else:
            kind = "moved" if runtime.was_stopped else "value"  # the broker knows whether it was stopped for good
            ray.get(broker.end.remote(number, rank, kind, value if rank == 0 else None))


def prepare(modules: Sequence[str], device: torch.device) -> None:
    """Do what the first task would otherwise wait for: import modules, start the device."""
    for module in modules:
        importlib.import_module(module)
    torch.empty((), device=device)


def keep_to_share_of_memory(device: torch.device, share: float) -> None:
    """Limit this process to its share of a GPU's memory."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(0.95 * share, device)  # each has a CUDA context besides


def kind_of(error: Exception) -> Kind:
    """What the broker is told of an error. Where memory or disk space ran out, there may be more at another time, and a
    store that was away may be back."""
    if isinstance(error, StoreAway):
        return "short"
    if isinstance(error, InputError):
        return "input"
    return "short" if is_out_of_memory(error) or is_disk_full(error) else "error"


class Wear:
    """Whether a worker's process must be replaced: it has run many tasks, or its memory has grown."""

    def __init__(self, max_tasks: int) -> None:
        self._process, self._tasks, self._max_tasks = psutil.Process(), -1, max_tasks

    def is_out(self) -> bool:
        """Asked before each task: whether the process must not take another one."""
        self._tasks += 1
        bytes_now = self._process.memory_info().rss
        if self._tasks <= 1:
            self._bytes_at_first = bytes_now
        return self._tasks >= self._max_tasks or bytes_now - self._bytes_at_first > MAX_GROWTH


@contextlib.contextmanager
def clean_slate(threads: int) -> Iterator[None]:
    """A task finds the settings of a new process, and leaves nothing behind for the next one."""
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    try:
        yield
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
