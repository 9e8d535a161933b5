"""What is said of a model before it is built and its weights are read is what would be said then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining, BertModel

from kobert_core.config import ModelConfig
from kobert_core.errors import InputError
from kobert_core.models.backbone import check_encoder, load_encoder
from kobert_core.tasks import parse_train_config
from kobert_core.tasks.question_answering.task import Korquad
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.tiny import SIZES, tiny_config


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"class_weights": [1.0, 2.0, 3.0]}, r"model\.class_weights: 3 weights for 2 classes"),
        ({"config": SIZES | {"hidden_size": 33}}, "33.* is not a multiple of the number of attention heads"),
        ({"config": SIZES | {"max_position_embeddings": 16}}, "32 tokens are longer than the encoder's 16 positions"),
        ({"config": SIZES | {"num_hidden_layers": 0}}, "no model of this shape can be used"),
        ({"config": SIZES | {"hidden_act": "gelo"}}, r"no encoder has this shape .*gelo"),
        ({"config": SIZES | {"hidden_dropout_prob": 1.5}}, "between 0 and 1, but got 1.5"),
        ({"config": SIZES | {"type_vocab_size": 0}}, "tells 0 kind"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_model_that_no_run_could_train_is_refused(model: dict[str, Any], message: str, cache: Path) -> None:
    with pytest.raises(InputError, match=message):
        Nsmc(tiny_config(model=model), cache=cache).check_model()


def test_the_check_draws_no_numbers_and_takes_no_memory(cache: Path) -> None:
    size = {"hidden_size": 8192, "num_hidden_layers": 20, "num_attention_heads": 64, "intermediate_size": 32768}
    task = Nsmc(tiny_config(model={"config": size, "class_weights": "balanced"}), cache=cache)
    assert len(task.tokenizer) and len(task.train)
    before = torch.get_rng_state()
    task.check_model()  # 64 GB, if it were real
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pair_needs_an_encoder_that_tells_its_parts_apart(shared: Path, cache: Path) -> None:
    def task(kinds: int) -> Korquad:
        config = SIZES | {"type_vocab_size": kinds}
        model = {"init": "random", "config": config, "backbone": str(shared / "models/skt-kobert-base-v1")}
        data = {"train": shared / "data/korquad/KorQuAD_v1.0_dev.json"}
        return Korquad(parse_train_config({"task": "korquad", "data": data, "model": model}), cache=cache)

    task(2).check_model()
    with pytest.raises(InputError, match="tells 1 kind"):
        task(1).check_model()


def _rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def _as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _torn(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


QUERY, WORDS = "encoder.layer.1.attention.self.query.weight", "embeddings.word_embeddings.weight"


def _in_shards(folder: Path) -> None:
    BertModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink()


def _lacks_a_shard(folder: Path) -> None:
    _in_shards(folder)
    next(folder.glob("model-00002-*.safetensors")).unlink()


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (BertModel, lambda folder: None, None),
        (BertForPreTraining, lambda folder: None, None),
        (BertModel, _as_pickle, None),
        (BertModel, _in_shards, None),
        (BertModel, _lacks_a_shard, "No such file or directory: .*model-00002"),
        (BertModel, lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (BertModel, _torn, "not fully covered"),
        (BertModel, _rewritten(lambda weights: weights.pop(QUERY)), f"lacks 1 of the encoder's weights, `{QUERY}`"),
        (
            BertModel,
            _rewritten(lambda weights: weights.update({WORDS: torch.zeros(5, 32)})),
            r"word_embeddings.* has the shape \(5, 32\), but the encoder's must have \(\d+, 32\)",
        ),
    ],
    ids=["whole", "with other heads", "pickle", "shards", "lacks a shard", "none", "torn", "lacks one", "other shape"],
)
def test_the_index_of_weights_says_what_loading_them_says(
    make: Any, change: Callable[[Path], object], message: str | None, cache: Path, tmp_path: Path
) -> None:
    task = Nsmc(tiny_config(), cache=cache)
    make(BertConfig(**SIZES, vocab_size=len(task.tokenizer), pad_token_id=1)).save_pretrained(tmp_path / "hub")
    change(tmp_path / "hub")
    model = ModelConfig(init="pretrained", backbone=str(tmp_path / "hub"))
    if message is None:
        assert check_encoder(model, task.tokenizer, longest=32).device.type == "meta"
        assert load_encoder(model, task.tokenizer, longest=32).device.type == "cpu"
        return
    with pytest.raises(InputError, match=message) as foretold:
        check_encoder(model, task.tokenizer, longest=32)
    with pytest.raises(InputError) as told:
        load_encoder(model, task.tokenizer, longest=32)
    assert str(foretold.value) == str(told.value) and str(tmp_path / "hub") in str(told.value)
