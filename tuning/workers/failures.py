"""Failures of trials and losses of processes. Only an error of its training function fails a trial."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

MAX_LOSSES = 3
"""A sweep gives up after more losses of processes in a row than this, without a new report of a trial between."""


class TrialFailed(RuntimeError):
    """The only error that fails a trial: its training function raised it, or its workers were lost again and again
    without progress. Any other error of a trial in Ray Tune is a loss of infrastructure."""


class TrialRefused(TrialFailed):
    """The line of an `InputError` of the training function: the user's input cannot be trained."""


def failure_of(trial: TuneTrial) -> TrialFailed | None:
    """Why a trial failed that ended with an error in Ray Tune; None when it did not fail, but was lost."""
    from ray import cloudpickle

    if trial.pickled_error_file is None:
        return None
    try:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:
        return None  # some errors of Ray's own cannot be read back
    cause = getattr(error, "cause", error)
    return cause if isinstance(cause, TrialFailed) else None


def error_of(trial: TuneTrial) -> str:
    """Ray Tune's text of the error."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return "Ray Tune left no error file"


def is_infrastructure(error: BaseException | None) -> bool:
    """Whether an exception from Ray's functions means that processes have died or do not answer."""
    from ray.exceptions import RayError

    while error is not None:
        if isinstance(error, RayError) or "ray.exceptions." in str(error):
            return True
        error = error.__cause__
    return False


def was_infrastructure(reason: str) -> bool:
    """Whether a trial that an older version marked as failed had only lost processes around it: its reason is then an
    error of Ray, other than the one that carries a training function's traceback."""
    return bool(_LOST.search(reason)) and not _RAISED.search(reason)


def in_one_line(error: object) -> str:
    """What died, according to an error of Ray or its text, and what a user can do about it."""
    text = str(error)
    who = f"the process `{found[1]}`" if (found := _PROCESS.search(text)) else "a process"
    if memory := _MEMORY.search(text):
        return (
            f"Ray's memory monitor ended {who}, since {memory[1]} of {memory[2]} GB of the machine's memory were in "
            "use: a smaller `optim.batch_size`, `optim.max_tokens` or `resources.concurrent` takes less"
        )
    if found:
        return f"{who} has died"
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def process_of(error: object) -> int | None:
    """The id of the process that has died, where an error of Ray has it."""
    found = _PID.search(str(error))
    return int(found[1]) if found else None


_PROCESS = re.compile(r"(?:class_name: |Selected to kill: .*?task name=)(\w+)", re.DOTALL)
_MEMORY = re.compile(r"was ([\d.]+)GB used / ([\d.]+)GB limit")
_PID = re.compile(r"Selected to kill: .*?pid=(\d+)", re.DOTALL)
_LOST = re.compile(
    r"^(ray\.exceptions\.)?(RayActorError|Actor\w*Error|NodeDiedError|WorkerCrashedError|OutOfMemoryError|"
    r"RaySystemError|Object\w*Error|OwnerDiedError|LocalRayletDiedError|RpcError|GetTimeoutError|\w*Removed)\b"
    r"|The actor died|The actor is dead|The actor is temporarily unavailable|ray::Exchange\.",
    re.MULTILINE,
)
_RAISED = re.compile(r"RuntimeError: (Traceback|the trial's workers were lost)")
