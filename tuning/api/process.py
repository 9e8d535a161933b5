"""The driver of a sweep as seen from outside: started, looked for, told to stop, and heard."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kobert_core.errors import InputError
from tuning.study import StudyConfig, dump_study
from tuning.sweep_dir.home import has_sweep
from tuning.sweep_dir.layout import ASKED, MESSAGES, OUTPUT, STUDY
from tuning.sweep_dir.lock import driver_of, is_running
from tuning.sweep_dir.names import sweep_address

LAST_LINES = 15


def start_driver(study: StudyConfig, folder: Path, *, address: str | None) -> subprocess.Popen[bytes]:
    """Start a process that runs a study in a sweep's folder, or goes on there.

    It is in a session of its own: neither Ctrl-C here nor the end of this process ends it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder cannot be made ({error.strerror})", where=folder) from error
    dump_study(study, folder / ASKED)
    (folder / MESSAGES).write_bytes(b"")
    home = sweep_address(study, folder)
    there = (folder / STUDY).is_file() or (home is not None and has_sweep(home))
    options = json.dumps({"address": address, "resume": there})
    places = [os.path.abspath(place) for place in sys.path if place and os.path.exists(place)]
    with open(folder / OUTPUT, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tuning.api.driver", str(folder), options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(places))},  # what is imported here, is there
        )


@dataclass
class Heard:
    """What a driver has said in its latest session."""

    said: list[str] = field(default_factory=list)
    """Lines for the reader."""
    work: str | None = None
    """What it is at, until the first trial begins."""
    groups: int | None = None
    """How many trials run at once."""
    refused: str | None = None
    """What cannot be used of what a user gave."""
    result: dict[str, Any] | None = None
    """As `SweepResult.as_json`."""
    pid: int | None = None
    begun: float | None = None
    host: str | None = None

    @property
    def warnings(self) -> list[str]:
        """The lines that warn."""
        return list(dict.fromkeys(line for line in self.said if line.startswith("warning:")))


def hear(folder: Path) -> Heard:
    """Read what the driver of a sweep has said; nothing where the command line runs it."""
    heard = Heard()
    try:
        lines = (folder / MESSAGES).read_bytes().split(b"\n")[:-1]
    except OSError:
        return heard
    for line in lines:
        message: dict[str, Any] = json.loads(line)
        if "said" in message:
            heard.said.append(message["said"])
        elif "work" in message:
            total, done = message["total"], message["done"]
            share = f" {done:,} of {total:,}" if total else f" {done:,}" if done else ""
            heard.work = None if done == total else message["work"] + share
        else:
            for name in ("groups", "refused", "result", "pid", "begun", "host"):
                if name in message:
                    setattr(heard, name, message[name])
    return heard


def process_of(folder: Path) -> int | None:
    """The id of the process to signal, if the sweep of a folder runs on this machine."""
    heard = hear(folder)
    if heard.pid is not None and heard.host == socket.gethostname() and _lives(heard.pid, heard.begun):
        return heard.pid
    driver = driver_of(folder)
    return driver[0] if driver and driver[1] == socket.gethostname() else None


def is_driven(folder: Path) -> bool:
    """Whether a process runs the sweep of a folder, or is about to start it again."""
    return is_running(folder) or process_of(folder) is not None


def interrupt(folder: Path) -> None:
    """Tell the driver of a sweep to stop, as Ctrl-C does.

    Raises:
        InputError: it runs on another machine.
    """
    pid = process_of(folder)
    if pid is None and is_running(folder):
        driver = driver_of(folder)
        where = f"{driver[1]} (process {driver[0]})" if driver else "another machine"
        raise InputError(f"the sweep runs on {where}", where=folder, fix="stop it there")
    if pid is not None:
        try:
            os.kill(pid, signal.SIGINT)
        except ProcessLookupError:  # it has just ended
            return


def last_output(folder: Path) -> str:
    """The last lines that the driver's process printed."""
    try:
        text = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-LAST_LINES:])


def _lives(pid: int, begun: float | None) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == begun and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
