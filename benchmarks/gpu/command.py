"""A command that is watched as it runs: what it says goes to our stderr line by line, with the seconds since its start.

So nothing of it is lost when the part that runs it is cut off.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

RAY_LOGS = (
    "dashboard.log",
    "dashboard_agent.log",
    "runtime_env_agent.log",
    "raylet.err",
    "raylet.out",
    "gcs_server.err",
)
LINES = 15


class Command:
    """Started when it is entered, ended when it is left: as Ctrl-C does, and for good if that does not help."""

    def __init__(self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> None:
        self._arguments, self._folder, self._environment = list(arguments), folder, dict(environment)
        self._last: deque[str] = deque(maxlen=LINES)

    def __enter__(self) -> Command:
        self.began = time.time()
        self._process = subprocess.Popen(
            self._arguments,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (signal.SIGINT, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                self.wait_for(lambda: False, seconds=10)
        self._listener.join(2)  # what the command has left behind may hold its output open

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last.append(line.strip())
            print(f"{self.seconds:6.1f} s  {line.rstrip()[:300]}", file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.time() - self.began

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    @property
    def last_words(self) -> str:
        return " / ".join(filter(None, list(self._last)[-4:]))[-250:]

    def wait_for(self, condition: Callable[[], bool], *, seconds: float) -> bool:
        """Until something holds, at most until the command ends or so long; whether it holds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.code is None:
            if condition():
                return True
            time.sleep(0.1)
        return condition()


def tell_ray_logs(since: float) -> None:
    """Print how the logs of the last Ray end, which say why it does not start."""
    for name in RAY_LOGS:
        for log in Path("/tmp/ray/session_latest/logs").glob(name):
            if log.stat().st_mtime >= since:
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES:]
                print(f"-- {name}", *(line[:300] for line in lines), sep="\n", file=sys.stderr, flush=True)
