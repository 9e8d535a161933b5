"""What pretraining on own texts leaves, a masked language model, is a backbone: only its pooler is new."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

from kobert_core.checkpoint import seed_everything
from kobert_core.config import TrainConfig
from kobert_core.errors import InputError
from kobert_core.models.backbone import load_encoder
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.tiny import SIZES, tiny_config

POOLER = "pooler.dense.weight"


@pytest.fixture(params=["model.safetensors", "pytorch_model.bin"])
def masked(request: pytest.FixtureRequest, cache: Path, tmp_path: Path) -> Path:
    """The folder of a `BertForMaskedLM`, in both of the formats that transformers has had."""
    task = Nsmc(tiny_config(), cache=cache)
    torch.manual_seed(1)
    config = BertConfig(**SIZES, vocab_size=len(task.tokenizer), pad_token_id=1, initializer_range=0.05)
    BertForMaskedLM(config).save_pretrained(tmp_path / "masked")
    task.tokenizer.save_pretrained(tmp_path / "masked")
    if request.param == "pytorch_model.bin":
        weights = tmp_path / "masked" / "model.safetensors"
        torch.save(load_file(weights), tmp_path / "masked" / request.param)
        weights.unlink()
    return tmp_path / "masked"


def config_for(folder: Path) -> TrainConfig:
    model = {"init": "pretrained", "backbone": str(folder), "config": {}, "tokenizer_vocab_size": None}
    return tiny_config(model=model)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / "model.safetensors"
    return load_file(file) if file.is_file() else torch.load(folder / "pytorch_model.bin", weights_only=True)


def built(folder: Path, cache: Path, *, seed: int) -> dict[str, torch.Tensor]:
    seed_everything(seed)
    return Nsmc(config_for(folder), cache=cache).build_model().state_dict()


def test_only_the_pooler_is_drawn_from_the_seed_and_one_line_says_so(
    masked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        first = built(masked, tmp_path / "cache", seed=3)
    assert [record.getMessage() for record in caplog.records] == [
        f"`{masked}` has no pooler, as after masked language modelling: a new one begins at random"
    ]
    assert "LOAD REPORT" not in "".join(capfd.readouterr())
    its = {name: tensor for name, tensor in stored(masked).items() if name.startswith("bert.")}
    assert its and all(torch.equal(first[name], tensor) for name, tensor in its.items())
    pooler = first[f"bert.{POOLER}"]
    assert pooler.std().item() == pytest.approx(0.05, rel=0.1) and not first["bert.pooler.dense.bias"].any()
    assert not torch.equal(pooler[:2], first["classifier.weight"]), "the head does not repeat its numbers"

    again, warm = (built(masked, folder, seed=3) for folder in (tmp_path / "other", tmp_path / "cache"))
    assert all(torch.equal(first[name], model[name]) for model in (again, warm) for name in first)
    other = built(masked, tmp_path / "cache", seed=4)
    assert not torch.equal(other[f"bert.{POOLER}"], pooler), "what is cached holds no pooler of another seed"


def test_an_encoder_for_questions_needs_no_pooler(masked: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_for(masked)
    bert = load_encoder(config.model, Nsmc(config, cache=cache).tokenizer, longest=32, pooler=False)
    assert bert.pooler is None and not caplog.records


def test_half_a_pooler_is_no_whole_checkpoint(masked: Path, cache: Path) -> None:
    weights = stored(masked) | {"bert.pooler.dense.bias": torch.zeros(SIZES["hidden_size"])}
    (masked / "model.safetensors").unlink(missing_ok=True)
    torch.save(weights, masked / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"lacks 1 of the encoder's weights, `pooler\.dense\.weight` first"):
        built(masked, cache, seed=0)
