"""Watches over Ray's daemons: without them Ray ends a driver after some seconds, from the inside, without a word."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import ray

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_ANSWER = 2.0
PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's own setting: after so many seconds without a head it ends this process."""
DAEMONS = ("gcs_server", "raylet")
"""What a Ray consists of, as children of the process that started it."""


@contextmanager
def watching(gone: Callable[[str, bool], object] | None) -> Iterator[None]:
    """While Ray is up: call `gone` in a thread when it has died, with what has, and whether it was one of our own, of
    which then nothing is left."""
    if gone is None:
        yield
        return
    watch = RayWatch(gone)
    try:
        yield
    finally:
        watch.end()


class RayWatch:
    """A thread that looks whether the daemons live: of a Ray that this process started, or of a cluster that it joined.

    To be made when this process is connected.
    """

    def __init__(self, gone: Callable[[str, bool], object]) -> None:
        self._gone, self._ended = gone, threading.Event()
        self._daemons = [child for child in psutil.Process().children() if child.name() in DAEMONS]
        self._is_own = bool(self._daemons)
        self._started: set[psutil.Process] = set()
        self._addresses = {} if self._is_own else addresses_of_cluster()
        self._thread = threading.Thread(target=self._look, name="ray-watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Before Ray is shut down."""
        self._ended.set()
        self._thread.join()

    def _kill_all(self) -> None:
        """End what a Ray of our own has started, and what outlives its daemons: workers would go on writing."""
        for process in self._started:
            if is_alive(process):
                process.kill()
        psutil.wait_procs(self._started, timeout=5)

    def _look(self) -> None:
        answered = dict.fromkeys(self._addresses, time.monotonic())
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            for daemon in self._daemons:
                if not is_alive(daemon):
                    self._kill_all()
                    self._gone("Ray has died", True)
                    return
            for address, patience in self._addresses.items():
                if answers(address):
                    answered[address] = time.monotonic()
                elif time.monotonic() - answered[address] > patience:
                    self._gone(f"the Ray cluster does not answer any more at {address[0]}:{address[1]}", False)
                    return
            if self._is_own:  # also what has lost its parent since
                self._started |= set(psutil.Process().children(recursive=True))


def addresses_of_cluster() -> dict[tuple[str, int], float]:
    """Where the daemons listen that this process depends on, and for how many seconds they may be away: a head can be
    replaced, the daemon of this machine not."""
    here = ray.get_runtime_context().get_node_id()
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    patience = float(os.environ.get(PATIENCE, "60")) - 10
    machine = next(node for node in ray.nodes() if node["NodeID"] == here)
    return {(host, int(port)): patience, (machine["NodeManagerAddress"], machine["NodeManagerPort"]): 5.0}


def answers(address: tuple[str, int]) -> bool:
    """Whether somebody listens."""
    try:
        socket.create_connection(address, timeout=SECONDS_TO_ANSWER).close()
    except OSError:
        return False
    return True


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs, and does not only wait for its parent to hear of its end."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
