"""The process that drives a sweep: the command line's, or one that `Study.start` starts.

A notebook's kernel does not drive a sweep itself. Ray ends the driver's process at once when one of its daemons dies,
which would take the kernel and all that is in it along; here another process takes its place and goes on. A kernel that
is restarted does not end the sweep either. What the driver has to say goes into a file of the sweep's folder, which
anybody can watch.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from kobert_core.errors import InputError
from kobert_core.progress import Progress
from kobert_core.texts import printable
from tuning.api.exit_codes import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_NOTHING_WON
from tuning.api.process_end import ProcessEnd
from tuning.api.supervisor import supervised
from tuning.cluster.head import starts_here
from tuning.study import StudyConfig, load_dumped_study
from tuning.sweep_dir.layout import ASKED, MESSAGES
from tuning.sweep_dir.trial_table import TrialTable
from tuning.tracking import redact_uri

if TYPE_CHECKING:
    from tuning.sweep.budget import Budget
    from tuning.sweep.display import SweepDisplay
    from tuning.sweep.result import SweepResult

SECONDS_BETWEEN_PROGRESS = 0.5


@dataclass(frozen=True)
class Asked:
    """What a driver is asked to run."""

    study: StudyConfig
    folder: Path
    """Of the sweep."""
    resume: bool = False
    """See `run_sweep`."""


def drive(
    asked: Callable[[], Asked], *, address: str | None, display: SweepDisplay, how_to_go_on: Callable[[], str]
) -> SweepResult:
    """Run a sweep in a process that is started again when Ray has killed it.

    It returns in the child process alone, with which this one then ends.

    Args:
        asked: Says what to run; called in the child, so that what is wrong with it is told there.
        address: A Ray cluster to join; by default one is started here.
        display: Shows the sweep.
        how_to_go_on: Says what continues the sweep, when nobody does that here.

    Raises:
        InputError: something that a user gave cannot be used.
    """
    with supervised(display.say, own_ray=starts_here(address), how_to_go_on=how_to_go_on) as session:
        wanted = asked()
        from tuning.sweep.sweep import run_sweep  # takes long: a mistake in the study is told before

        return run_sweep(
            wanted.study, wanted.folder, address=address, resume=wanted.resume, display=display, session=session
        )


class Messages:
    """Shows a sweep by lines of JSON in a file, for those who watch its folder. As `SweepDisplay`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def say(self, text: str) -> None:
        """One line for the reader."""
        self.send(said=printable(text))

    def send(self, **content: object) -> None:
        """A line of the file."""
        line = json.dumps({"time": time.time(), **content}, ensure_ascii=False) + "\n"
        with open(self._path, "ab", buffering=0) as file:
            file.write(line.encode("utf-8", "surrogatepass"))

    @contextmanager
    def watching(self) -> Iterator[Progress]:
        """Show the progress of the work in the block."""
        last: dict[str, float] = {}

        def progress(work: str, done: int, total: int | None = None, /) -> None:
            now = time.monotonic()
            if done == total or now - last.get(work, 0.0) >= SECONDS_BETWEEN_PROGRESS:
                last[work] = now
                self.send(work=work, done=done, total=total)

        yield progress

    @contextmanager
    def showing(self, table: TrialTable, study: StudyConfig, budget: Budget) -> Iterator[None]:
        """The trials are in the ledger: here is what else is to be known of them."""
        self.send(groups=budget.groups, seconds_left=budget.seconds_left)
        yield


def main() -> None:
    """`python -m tuning.api.driver FOLDER OPTIONS`: run the study that waits in a sweep's folder."""
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    messages = Messages(folder / MESSAGES)
    here = psutil.Process()
    messages.send(pid=here.pid, begun=here.create_time(), host=socket.gethostname())
    try:
        result = drive(
            lambda: Asked(load_dumped_study(folder / ASKED), folder, options["resume"]),
            address=options["address"],
            display=messages,
            how_to_go_on=lambda: "study.run() with the same name, or kobert-tune sweep --resume",
        )
    except InputError as error:
        messages.send(refused=printable(redact_uri(str(error))))
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        if error.filename is None:
            raise
        messages.send(refused=f"{error.filename}: {error.strerror}")
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    messages.send(result=result.as_json())
    sys.exit(EXIT_INTERRUPTED if result.interrupted else EXIT_NOTHING_WON if result.winner is None else os.EX_OK)


if __name__ == "__main__":
    with ProcessEnd().of():
        main()
