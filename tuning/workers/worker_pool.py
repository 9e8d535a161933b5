"""The worker groups of a sweep. They are replaced when the broker dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray.exceptions import RayError

from kobert_core.families import IN_TRANSFORMERS, known_type
from kobert_core.io.atomic import atomic_write_bytes
from kobert_core.tasks import SPECS
from tuning.study import ResourcesConfig, StudyConfig
from tuning.study.encoders import encoders_of
from tuning.workers.broker import STOPPED_FIRST, TaskStopped
from tuning.workers.failures import MAX_LOSSES, in_one_line, is_infrastructure
from tuning.workers.worker_groups import GroupLost, Wanted, WorkerGroups

if TYPE_CHECKING:
    from tuning.storage.node import StoredSweep
    from tuning.workers.broker import BrokerActor, Function, ReportContent

T = TypeVar("T")


def modules_for(study: StudyConfig) -> list[str]:
    """What trials of a study import, seconds of it: their workers do so while the driver reads the data."""
    implementation, _, _ = SPECS[study.task].implementation.partition(":")
    default = str(study.model.config.get("model_type", "bert"))
    types = {known_type(each.backbone, each.revision) if each.backbone else default for each in encoders_of(study)}
    names = [each.replace("-", "_") for each in IN_TRANSFORMERS if each in types]
    families = [f"transformers.models.{name}.modeling_{name}" for name in names]
    return [implementation, "kobert_core.pretrained", "kobert_core.training", *families]


class WorkerPool:
    """`WorkerGroups`, which are replaced when their broker has died or no group can be started."""

    def __init__(
        self,
        wanted: Callable[[int, bool], Wanted],
        resources: ResourcesConfig,
        *,
        storage: Path,
        modules: Sequence[str],
        needs: Path | None = None,
        say: Callable[[str], object],
    ) -> None:
        """See `WorkerGroups`; `wanted` is told how many `others` there are, and whether the search goes on, `say` also
        why a task runs again."""
        self._wanted, self._resources, self._storage = wanted, resources, storage
        self._modules, self._needs, self._say = modules, needs, say
        self.others = 0
        """Runs that are to be made besides the trials of the search."""
        self.searching = True
        """Whether the search goes on: once it has ended, trials that are left are run no more."""
        self._lock, self._starts, self._is_closed = threading.Lock(), 0, False
        self.stored: StoredSweep | None = None
        """Of a sweep in an object store: what the workers must know of it before their first task."""
        self._groups = self._start()

    def _start(self) -> WorkerGroups:
        self._starts += 1
        storage = self._storage / f"groups-{self._starts}"
        return WorkerGroups(
            lambda: self._wanted(self.others, self.searching),
            self._resources,
            storage=storage,
            modules=self._modules,
            needs=self._needs,
            say=self._say,
        )

    @property
    def count(self) -> int:
        """So many tasks can run at once; 1 at least."""
        return self._groups.count

    @property
    def broker(self) -> BrokerActor:
        """The broker of the present groups."""
        return self._groups.broker

    def wait_until_ready(self, give_up: Callable[[], bool]) -> None:
        """Wait until the workers of a group wait for a task, or `give_up` returns true.

        Raises:
            RuntimeError: no group can be started.
            RayError: the broker has died.
        """
        self._groups.wait_until_ready(give_up)

    def run(
        self,
        function: Callable[..., T],
        *,
        on_report: Callable[[ReportContent], object] = lambda report: None,
        **arguments: object,
    ) -> T:
        """Run a task on a free group and return its value; if processes die meanwhile, try again.

        Raises:
            RuntimeError: with the task's traceback, or why its workers were lost again and again.
        """
        task, arguments = self.placed(function, arguments)
        for left in reversed(range(MAX_LOSSES + 1)):
            groups = self._groups
            try:
                received: T = self._received(groups.run(task, on_report=on_report, **arguments))
                return received
            except TaskStopped:  # as Ray hands it on, with a traceback
                raise RuntimeError(STOPPED_FIRST) from None
            except Exception as error:
                if not isinstance(error, GroupLost) and not is_infrastructure(error):
                    raise
                if not left or self._is_closed:
                    raise RuntimeError(in_one_line(error)) from error
                self._say(f"{in_one_line(error)}: trying again")
                if not isinstance(error, GroupLost):  # another group takes the place of the one that was lost
                    self._renew(groups)
        raise AssertionError("not reached")

    def placed(self, function: Callable[..., T], arguments: dict[str, object]) -> tuple[Function, dict[str, object]]:
        """A task whose arguments name paths of the sweep's folder, for workers that may not have that folder."""
        if self.stored is None:
            return function, arguments
        from tuning.workers.stored_tasks import run_stored

        return run_stored, {"sweep": self.stored, "task": function, **arguments}

    def _received(self, value: Any) -> Any:
        """The value of such a task; the files that it wrote elsewhere are put into the sweep's folder."""
        if self.stored is None:
            return value
        for path, content in value.files.items():
            atomic_write_bytes(path, content)
        return value.value

    def stop_owned_by(self, owner: int) -> None:
        """End the tasks of an owner, without waiting."""
        self._groups.stop_owned_by(owner)

    def stop_all(self) -> None:
        """End every task, and those that wait for a group."""
        self._groups.stop_all()

    def settle(self) -> None:
        """End every task, and wait until no worker has one. If that is not possible, replace the groups."""
        groups = self._groups
        try:
            groups.settle()
        except RayError:
            self._renew(groups)

    def close(self) -> None:
        """End all groups and free their resources."""
        with self._lock:
            self._is_closed = True
            self._groups.close()

    def _renew(self, groups: WorkerGroups) -> None:
        with self._lock:
            if groups is self._groups and not self._is_closed:  # nobody was faster
                groups.close()
                self._groups = self._start()
