"""What the command line does when Ray itself has died under a sweep: this process starts over with the same command.

As after any kill, the sweep goes on where it was. Nothing in this process could: what has asked Ray waits for ever.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import NoReturn

from tuning.cli_options import EXIT_NOTHING_WON
from tuning.display import Display
from tuning.sitting import Sitting


def when_ray_dies(display: Display, what: str, sitting: Sitting | None) -> NoReturn:
    """Start over, or end with a line that says how to go on."""
    display.console.show_cursor()
    if sitting is not None:
        display.say(f"{what}: starting it again, and going on from the checkpoints")
        start_over(sitting)
    display.say(f"{what}; go on with: {command_to_go_on()}")
    os._exit(EXIT_NOTHING_WON)


def start_over(sitting: Sitting) -> NoReturn:
    """Become a new process of the same command, in the same sitting."""
    for descriptor in os.listdir("/proc/self/fd"):
        if int(descriptor) > 2:
            try:
                os.set_inheritable(int(descriptor), False)
            except OSError:
                continue  # that of the listing
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | sitting.as_variable())


def command_to_go_on() -> str:
    """What a user types to go on with the sweep of this process."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return "kobert-tune submit, the same study and --resume"
    again = sys.argv[1:] if "--resume" in sys.argv else [*sys.argv[1:], "--resume"]
    return f"kobert-tune {shlex.join(again)}"
