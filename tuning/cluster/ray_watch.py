"""Watches the daemons of a Ray of our own: if one dies, everything else may wait for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

STDERR = 2
SECONDS_BETWEEN_LOOKS = 1.0
DAEMONS = ("gcs_server", "raylet")
"""Children of the process that started a Ray."""


@contextmanager
def ending_with_ray() -> Iterator[None]:
    """While Ray is up: end this process at once when one of Ray's daemons dies that this process has started. Ray
    itself does so after some time. The sweep then continues as after any kill: see `supervised`."""
    daemons = {child: last_words(child) for child in psutil.Process().children() if child.name() in DAEMONS}
    over = threading.Event()

    def look() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            for daemon, words in daemons.items():
                if not is_alive(daemon):
                    with suppress(OSError):
                        os.write(STDERR, words)  # waits for no lock that another thread may hold
                    os._exit(1)

    thread = threading.Thread(target=look, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def last_words(daemon: psutil.Process) -> bytes:
    """What is to be said when this daemon dies: a line."""
    logs = [word.partition("=")[2] for word in daemon.cmdline() if word.startswith("--log_dir=")]
    return f"Ray's {daemon.name()} has died{f': its log is in {logs[0]}' if logs else ''}\n".encode()


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
