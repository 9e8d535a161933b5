"""A sweep in a notebook's kernel: what a cell shows, its stop button, and a kernel that is killed meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from tests.fixtures.commands import ROOT, environment
from tests.fixtures.sweeps import progress_of, records_of
from tuning import Sweep

pytestmark = pytest.mark.slow
NOTEBOOK = ROOT / "docs" / "notebooks" / "python-api.ipynb"
RUN = """
from tuning import Study
study = Study.load(
    {study!r}, {{"confirm": None, "budget.trials": 4, "train.epochs": 12, "resources.concurrent": 1}}
)
sweep = study.run("stopped")
print(sweep.state)
"""


def test_the_notebook_runs_and_has_one_display_for_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (cell,) = (cell for cell in notebook.cells if ".run(" in cell.source)
    (display,) = [output for output in cell.outputs if output.output_type == "display_data"]
    assert "finished, 3 of 3 trials" in display["data"]["text/html"]
    assert [each.output_type for each in cell.outputs if each is not display] == []


class Kernel:
    """A kernel in a folder."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager()
        self.manager.start_kernel(cwd=str(folder), env=environment())
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str, *, meanwhile: Callable[[], object] | None = None) -> tuple[dict[str, Any], str]:
        """Run a cell: the reply, and what it printed."""
        asked, printed = self.client.execute(code), ""
        if meanwhile:
            meanwhile()
        while (reply := self.client.get_shell_msg(timeout=400))["parent_header"].get("msg_id") != asked:
            continue
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                printed += message["content"]["text"]
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return reply["content"], printed

    def kill(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < deadline, "it has taken too long"
        time.sleep(0.05)


def test_a_stopped_cell_and_a_killed_kernel_go_on_when_the_cell_is_run_again(tmp_path: Path) -> None:
    folder, code = tmp_path / "sweeps" / "stopped", RUN.format(study=str(ROOT / "search_spaces" / "quickstart.yaml"))
    kernel = Kernel(tmp_path)

    def stop() -> None:
        wait_until(lambda: progress_of(folder) > 0)
        kernel.manager.interrupt_kernel()

    reply, _ = kernel.run(code, meanwhile=stop)
    assert reply["status"] == "error" and reply["ename"] == "KeyboardInterrupt"
    sweep = Sweep.open(folder)
    assert sweep.state == "interrupted" and not sweep.is_running
    assert kernel.run("import sys; print([name for name in ('ray', 'mlflow') if name in sys.modules])")[1] == "[]\n"
    before = progress_of(folder)
    kernel.client.execute(code)
    wait_until(lambda: progress_of(folder) > before)
    kernel.kill()
    assert sweep.is_running, "a kernel that dies does not take it along"
    another = Kernel(tmp_path)
    try:
        reply, printed = another.run(code)
    finally:
        another.kill()
    assert reply["status"] == "ok" and printed == "finished\n"
    assert sweep.state == "finished" and len(records_of(folder)) == 4
    assert {record["state"] for record in records_of(folder).values()} <= {"COMPLETE", "PRUNED"}
