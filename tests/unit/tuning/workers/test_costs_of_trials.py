"""Trials whose models have one shape share what such a model costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kobert_core import costs
from kobert_core.config import LATENCY, MODEL_COSTS
from kobert_core.tasks import task_class
from tests.fixtures.tiny import tiny_config
from tuning.sweep_dir.layout import COSTS
from tuning.workers.train_trial import costs_of


def test_each_shape_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = list[dict[str, float]]()

    def counted(*about: Any) -> dict[str, float]:
        measured.append(measure(*about))
        return measured[-1]

    measure = costs.model_costs
    monkeypatch.setattr(costs, "model_costs", counted)
    task = task_class("nsmc")(tiny_config())

    def of(**values: object) -> dict[str, float]:
        named = {name.replace("__", "."): value for name, value in values.items()}
        return costs_of(MODEL_COSTS, task, torch.device("cpu"), named, tmp_path)

    first = of(model__keep_layers=1, optim__backbone_lr=1e-4)
    assert of(model__keep_layers=1, optim__backbone_lr=1e-3, model__dropout=0.2) == first and len(measured) == 1
    of(model__keep_layers=2)
    of(data__max_length=16)
    assert len(measured) == 3 and len(list((tmp_path / COSTS).iterdir())) == 3
    before = torch.get_rng_state()
    of(model__keep_layers=1)
    assert torch.equal(torch.get_rng_state(), before)
    for file in (tmp_path / COSTS).iterdir():
        file.write_text(file.read_text(encoding="utf-8").replace(f"{first[LATENCY]}", "0.001"), encoding="utf-8")
    assert of(model__keep_layers=1)[LATENCY] > 0.001, "a file that was altered is measured anew"
    assert len(measured) == 4
