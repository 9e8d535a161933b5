"""A process of ours ends with its own exit code, whatever its threads are at."""

from __future__ import annotations

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
