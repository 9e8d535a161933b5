"""When a sweep ends before its last trial: its budget is spent, too many trials fail, or it is interrupted."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from pydantic import ByteSize
from ray.tune import Stopper

from tuning.search.driver_only import DriverOnly
from tuning.study import StudyConfig
from tuning.sweep.session import Session
from tuning.sweep_dir.trial_status import last_line

SECONDS_OF_ONE_SIGNAL = 2.0


class Budget(DriverOnly, Stopper):
    """Asked by Ray Tune whether to stop all trials."""

    def __init__(
        self,
        study: StudyConfig,
        groups: Callable[[], int],
        tell: Callable[[], object],
        *,
        folder: Path,
        least_free: Callable[[], int],
        session: Session,
    ) -> None:
        """A budget that begins now, or has begun earlier in this session.

        Args:
            study: Sets it.
            groups: The number of worker groups, whose resources are held as long as it is so.
            tell: Is called when it ends.
            folder: On a disk that must not become full …
            least_free: … but have so many bytes free, with as many groups as there are.
            session: Knows when the budget began, and why trials have failed.
        """
        resources, budget = study.resources, study.budget
        self._wall_time = budget.wall_time
        limits = list[float]()
        if budget.gpu_hours is not None and resources.gpus_per_worker:
            limits.append(budget.gpu_hours * 3600 / (resources.workers * resources.gpus_per_worker))
        if budget.cpu_hours is not None:
            limits.append(budget.cpu_hours * 3600 / (resources.workers * resources.cpus_per_worker))
        self._group_seconds = min(limits, default=None)
        self.reserve: Callable[[], float] = lambda: 0.0
        """Seconds that are kept for what follows the search; half of the budget at most."""
        self.check: Callable[[], object] = lambda: None
        """Raises what ends the sweep at once."""
        self.interrupted = False
        self.gave_up: str | None = None
        """Why the sweep stopped early; it can be resumed."""
        self._failed_trials, self._session = budget.failed_trials, session
        self._folder, self._least_free = folder, least_free
        self._tell, self._told = tell, False
        self._begin = session.begin_budget()
        self._groups, self._lock = groups, threading.Lock()
        self._counted = time.monotonic(), groups()

    @property
    def groups(self) -> int:
        """So many trials run at once."""
        return self._groups()

    @property
    def seconds_left(self) -> float | None:
        """Until the budget is spent, with as many groups as there are now; None without a limit of time."""
        now = time.monotonic()
        with self._lock:
            before, groups = self._counted
            self._session.hold((now - before) * groups)
            self._counted = now, self._groups()
        left = list[float]()
        if self._wall_time is not None:
            left.append(self._wall_time - (now - self._begin))
        if self._group_seconds is not None:
            left.append((self._group_seconds - self._session.group_seconds) / self._counted[1])
        if not left:
            return None
        whole = min(left) + (now - self._begin)
        return max(0.0, min(left) - min(self.reserve(), whole / 2))

    def release_reserve(self) -> None:
        """The search has ended: what was kept is there for what follows."""
        self.reserve, self._told = lambda: 0.0, False

    @property
    def is_over(self) -> bool:
        """Whether the sweep is about to end."""
        return self.interrupted or self.gave_up is not None or self.seconds_left == 0.0

    def count_failure(self, reason: str) -> None:
        """A trial has failed."""
        self._session.count_failure(last_line(reason))
        reasons = self._session.failures
        failed = len(reasons)
        if self._failed_trials is None or failed <= self._failed_trials or self.gave_up:
            return
        alike = [re.sub(r"\d+", "0", each) for each in reasons]
        commonest, count = Counter(alike).most_common(1)[0]
        example = reasons[alike.index(commonest)]
        self.gave_up = (
            f"{failed} trial(s) have failed since it was started, more than "
            f"`budget.failed_trials: {self._failed_trials}` allows; {count} of them so: {example}"
        )

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        """Never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether all trials are to stop now; the workers are told at once."""
        self.check()
        free, least_free = shutil.disk_usage(self._folder).free, self._least_free()
        if free < least_free and not self.gave_up:
            self.gave_up = (
                f"only {ByteSize(free).human_readable()} are free in {self._folder}, where the trials that run need "
                f"{ByteSize(least_free).human_readable()} for their next checkpoints"
            )
        if self.is_over and not self._told:
            self._tell()
            self._told = True
        return self.is_over


@contextlib.contextmanager
def stopping_cleanly(budget: Budget) -> Iterator[Budget]:
    """The first Ctrl-C or SIGTERM interrupts the sweep at its trials' next step; the second one kills.

    Ray's job server and systemd signal all processes of a command: this one, and the supervisor, which passes the
    signal on. So signals that arrive within moments count as one.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield budget
        return
    before = {number: signal.getsignal(number) for number in signals}
    heard = list[float]()

    def interrupt(number: int, frame: FrameType | None) -> None:
        budget.interrupted = True
        heard.append(time.monotonic())
        if heard[-1] - heard[0] > SECONDS_OF_ONE_SIGNAL:
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.raise_signal(number)

    for number in signals:
        signal.signal(number, interrupt)
    try:
        yield budget
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
