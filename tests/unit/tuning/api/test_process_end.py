"""A process of ours ends with its own exit code, whatever its threads are at."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.commands import environment

IN_TORCH = """
import runpy, sys, threading, time
import torch
from tuning.sweep.background import in_background

def work():
    numbers = torch.randn(1000, 1000)
    while True:
        torch.sort(numbers)

in_background(work)
time.sleep(0.3)
sys.argv = {words}
{run}
"""


def ended(code: str, *, cwd: Path, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command, buffered = [sys.executable, "-c", code], environment() | {"PYTHONUNBUFFERED": ""}
    return subprocess.run(command, cwd=cwd, env=buffered, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("runpy.run_module('tuning', run_name='__main__')", ["kobert-tune", "report", "nowhere"]),
        (
            "from importlib.metadata import entry_points;"
            "entry_points(group='console_scripts', name='kobert-tune')['kobert-tune'].load()()",
            ["kobert-tune", "report", "nowhere"],
        ),
        ("runpy.run_module('tuning.api.driver', run_name='__main__')", ["driver", ".", '{"address": "no"}']),
    ],
    ids=["module", "script", "driver"],
)
def test_a_thread_that_is_in_torch_does_not_abort_the_process(run: str, words: list[str], tmp_path: Path) -> None:
    done = ended(IN_TORCH.format(run=run, words=words), cwd=tmp_path)
    assert "terminate called" not in done.stderr
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize(
    ("block", "code", "said"),
    [
        ("print('done')", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
        ("raise ValueError('no')", 1, "ValueError: no"),
    ],
)
def test_it_ends_as_its_block_does(block: str, code: int, said: str, tmp_path: Path) -> None:
    handler = "atexit.register(lambda: print('handled'))"
    imports = "import atexit, sys\nfrom tuning.api.process_end import ProcessEnd"
    done = ended(f"{imports}\nwith ProcessEnd().of():\n    {handler}\n    {block}", cwd=tmp_path)
    assert done.returncode == code and said in done.stderr
    assert done.stdout.endswith("handled\n"), "exit handlers are called, and what they print is written"


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    code = "from tuning.api.process_end import ProcessEnd\nwith ProcessEnd().of():\n    print('lost')"
    with open("/dev/full", "w") as full:
        done = ended(code, cwd=tmp_path, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (1, "error: stdout: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_process_without_streams_ends_as_any(closed: str, tmp_path: Path) -> None:
    code = "import atexit; atexit.register(print, 'not called', file=open('before', 'w'))\n" + (
        "from tuning.api.process_end import ProcessEnd\nwith ProcessEnd().of():\n    raise SystemExit(3)"
    )
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")
    assert (tmp_path / "before").read_text() == "", "Python is not taken apart"


def test_what_log_handlers_hold_back_is_written(tmp_path: Path) -> None:
    code = """
import logging.handlers
from tuning.api.process_end import ProcessEnd
with ProcessEnd().of():
    target = logging.FileHandler("log")
    logging.getLogger().addHandler(logging.handlers.MemoryHandler(100, target=target))
    logging.warning("held back")
"""
    assert ended(code, cwd=tmp_path).returncode == 0
    assert (tmp_path / "log").read_text() == "held back\n"
