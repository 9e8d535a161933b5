"""Where the time of a run goes is measured on the run itself."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import get_args

import pytest
import torch

from kobert_core.profiling import TRACED_STEPS, ProfilingRuntime
from kobert_core.runtime import LocalRuntime, Phase
from kobert_core.tasks.text_classification.task import Nsmc
from kobert_core.training import train
from tests.fixtures.tiny import tiny_config


@pytest.mark.parametrize("epochs", [0.2, 2])
def test_every_phase_of_a_run_has_its_time_and_its_place_in_the_trace(
    cache: Path, tmp_path: Path, epochs: float
) -> None:
    """Also a run that ends before the trace would."""
    config = tiny_config(train={"epochs": epochs, "eval_percent": 50})
    begin = time.perf_counter()
    runtime = ProfilingRuntime(device=torch.device("cpu"), checkpoints=tmp_path / "run", trace=tmp_path / "new/t.json")
    profiled = train(config, Nsmc(config, cache=cache), runtime)
    phases = dict(runtime.end())
    total = time.perf_counter() - begin
    assert runtime.steps == max(1, round(epochs * 12))
    assert set(phases) == {*get_args(Phase), "other"} - {"graph"}, "a CPU has no graphs"
    assert all(seconds > 0 for seconds in phases.values())
    assert sum(phases.values()) < total

    events = json.loads((tmp_path / "new" / "t.json").read_text(encoding="utf-8"))["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert names.count("forward") == names.count("backward") == min(runtime.steps, TRACED_STEPS)
    assert "aten::addmm" in {event["name"] for event in events}
    assert not list((tmp_path / "new").glob(".*"))

    plain = train(config, Nsmc(config, cache=cache), LocalRuntime(device=torch.device("cpu")))
    for one, other in zip(profiled.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other), "to look at a run does not change it"
