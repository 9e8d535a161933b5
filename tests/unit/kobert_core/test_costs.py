"""What a model costs: counted where it can be, and measured where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kobert_core.config import LATENCY, MODEL_COSTS, MODEL_MB, PARAMETERS
from kobert_core.costs import model_costs
from kobert_core.pretrained import save_model_files, save_weights
from kobert_core.tasks import task_class
from tests.fixtures.encoders import classification, make_encoder, questions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder("bert", tmp_path_factory.mktemp("encoder"), num_hidden_layers=4)


def test_they_are_those_of_the_exported_model(encoder: Path, tmp_path: Path) -> None:
    task = task_class("nsmc")(classification(encoder, tmp_path / "data.tsv"))
    found, model = model_costs(task, CPU), task.build_model()
    assert found.keys() == set(MODEL_COSTS) and found[LATENCY] > 0
    assert model_costs(task, CPU, [PARAMETERS]).keys() == {PARAMETERS}
    assert found[PARAMETERS] == sum(each.numel() for each in model.parameters())
    save_model_files(tmp_path / "model", task)
    save_weights(tmp_path / "model", task_class("nsmc"), model.state_dict())
    (weights,) = (tmp_path / "model").glob("*.safetensors")
    assert weights.stat().st_size == pytest.approx(found[MODEL_MB] * 1e6, rel=0.05), "but for the names in the file"


def test_fewer_layers_cost_less(encoder: Path, tmp_path: Path) -> None:
    few, many = (
        model_costs(task_class("nsmc")(classification(encoder, tmp_path / "data.tsv", keep_layers=layers)), CPU)
        for layers in (1, 4)
    )
    assert few[PARAMETERS] < many[PARAMETERS] and few[MODEL_MB] < many[MODEL_MB]
    assert few[LATENCY] < many[LATENCY]


def test_a_question_costs_a_window(encoder: Path, tmp_path: Path) -> None:
    task = task_class("korquad")(questions(encoder, tmp_path / "data.json"))
    assert model_costs(task, CPU)[LATENCY] > 0
