"""A sweep runs in a child process, because Ray ends the driver's process at once when one of its daemons dies. The
parent then starts the sweep again, which continues as after any kill."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import psutil

from tuning.api.exit_codes import EXIT_INTERRUPTED, EXIT_NOTHING_WON
from tuning.sweep.session import Session
from tuning.workers.failures import MAX_LOSSES

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
FORWARDED = (signal.SIGINT, signal.SIGTERM)
WITH_THREADS = {"ray", "torch"}


def command_to_go_on() -> str:
    """The command that continues the sweep of this process."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return "kobert-tune submit, the same study and --resume"
    again = sys.argv[1:] if "--resume" in sys.argv else [*sys.argv[1:], "--resume"]
    return f"kobert-tune {shlex.join(again)}"


@contextmanager
def supervised(
    say: Callable[[str], object], *, own_ray: bool, how_to_go_on: Callable[[], str] = command_to_go_on
) -> Iterator[Session]:
    """Run the block in a child process, and again in another one if that dies; exit as the child did.

    A process that has threads of libraries cannot be split: where they are loaded already, the block runs in this one.

    Args:
        say: Is told why it is run again.
        own_ray: Whether the child starts a Ray of its own. A cluster that has taken it along is not there any more.
        how_to_go_on: Says what continues the sweep, when it is not run again here.
    """
    if sys.platform != "linux" or WITH_THREADS & sys.modules.keys():
        yield Session()
        return
    session = Session(descriptor=os.memfd_create("session"))
    _Supervisor(say, own_ray, session, how_to_go_on).run()  # returns in the child alone
    try:
        yield session
    finally:
        session.end()


class _Supervisor:
    def __init__(
        self, say: Callable[[str], object], own_ray: bool, session: Session, how_to_go_on: Callable[[], str]
    ) -> None:
        self._say, self._own_ray, self._session, self._how_to_go_on = say, own_ray, session, how_to_go_on
        self._child: int | None = None
        self._stopped = False

    def run(self) -> None:
        before = {number: signal.signal(number, self._forward) for number in FORWARDED}
        _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what Ray leaves behind becomes a child of this process
        here = os.getpid()
        while not self._stopped:
            signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # until both sides of the fork can hear them
            child = os.fork()
            if not child:
                os.setpgid(0, 0)  # Ctrl-C in a terminal goes to all of a group: the child hears of it from here, once
                _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != here:
                    os._exit(EXIT_NOTHING_WON)
                for number, handler in before.items():
                    signal.signal(number, handler)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
                return
            self._child = child
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            self._child = None
            _kill_descendants()
            self._session.read()
            if self._session.ended:
                _leave(code)
            if not self._stopped:
                self._explain(code)
        _leave(EXIT_INTERRUPTED)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.kill(self._child, number)

    def _explain(self, code: int) -> None:
        """Say what happened, and that the sweep continues, or how to continue it."""
        what = f"the sweep's process was killed ({signal.Signals(-code).name})" if code < 0 else "Ray has died"
        if code > 0 and not self._own_ray:
            what = "the Ray cluster is gone"
        elif self._session.count_loss():
            self._say(f"{what}: going on from the checkpoints")
            return
        else:
            what = f"{what}, and no trial has come any further since {MAX_LOSSES} such losses"
        self._say(f"{what}; go on with: {self._how_to_go_on()}")
        _leave(EXIT_NOTHING_WON)


def _kill_descendants() -> None:
    """Kill what a dead child has left: its workers would continue to write."""
    left = psutil.Process().children(recursive=True)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)


def _leave(code: int) -> NoReturn:
    """Exit as the child did, without another word."""
    os._exit(code if code >= 0 else 128 - code)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
