"""The runtimes of one process answer what the loop asks; those on Ray do in `tests/integration`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kobert_core.profiling import ProfilingRuntime
from kobert_core.runtime import LocalRuntime, Runtime
from tests.fixtures.runtimes import CHECKS


@pytest.fixture(params=[LocalRuntime, ProfilingRuntime])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    trace = {"trace": tmp_path / "trace.json"} if request.param is ProfilingRuntime else {}
    made = request.param(device=torch.device("cpu"), **trace)
    yield made
    if isinstance(made, ProfilingRuntime):
        made.end()  # a profiler that is left alone ends the process with a segmentation fault


@pytest.mark.parametrize("check", CHECKS)
def test_it_is_a_runtime(check: Callable[[Runtime], None], runtime: Runtime) -> None:
    check(runtime)


def test_reports_are_heard() -> None:
    heard: list[int] = []
    runtime = LocalRuntime(device=torch.device("cpu"), on_report=lambda report: heard.append(report.progress))
    for check in CHECKS:
        check(runtime)
    assert heard[:4] == [0, 5, 10, 15] and heard[-1] == 100
