"""The encoder comes from where the study says, whole, and computes what transformers computes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel, GPT2Config

from kobert_core.config import TrainConfig
from kobert_core.data.batching import Batch
from kobert_core.errors import InputError
from kobert_core.models.backbone import load_encoder
from kobert_core.tasks import parse_train_config
from kobert_core.tasks.labelled_texts.model import TextClassifier
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.tiny import SIZES, tiny_config


@pytest.fixture
def pretrained(cache: Path, tmp_path: Path) -> Path:
    """A folder as the hub has them: a tiny encoder with the tokenizer of the sample."""
    task = Nsmc(tiny_config(), cache=cache)
    torch.manual_seed(1)
    BertModel(BertConfig(**SIZES, vocab_size=len(task.tokenizer), pad_token_id=1)).save_pretrained(tmp_path / "hub")
    task.tokenizer.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def config_for(folder: Path, **model: object) -> TrainConfig:
    values = {"init": "pretrained", "backbone": str(folder), "config": {}, "tokenizer_vocab_size": None}
    return tiny_config(model=values | model)


def bert_of(config: TrainConfig, cache: Path) -> BertModel:
    return load_encoder(config.model, Nsmc(config, cache=cache).tokenizer, longest=32)


def test_pretrained_weights_are_those_of_the_folder(pretrained: Path, cache: Path) -> None:
    stored = load_file(pretrained / "model.safetensors")
    loaded = bert_of(config_for(pretrained), cache).state_dict()
    assert stored.keys() <= loaded.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


def test_weights_that_were_read_before_are_those_that_were_read(pretrained: Path, cache: Path, tmp_path: Path) -> None:
    config, other = config_for(pretrained), config_for(pretrained, hidden_dropout=0.3)
    tokenizer = Nsmc(config, cache=cache).tokenizer
    torch.manual_seed(5)
    begin = torch.get_rng_state()
    first = load_encoder(config.model, tokenizer, longest=32, cache=tmp_path / "cache")
    expected = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)  # as training would
    weights = pretrained / "model.safetensors"
    then = weights.stat()
    weights.write_bytes(bytes(then.st_size))
    os.utime(weights, ns=(then.st_atime_ns, then.st_mtime_ns))  # whoever reads it again will notice
    again = load_encoder(other.model, tokenizer, longest=32, cache=tmp_path / "cache")
    assert again.config.hidden_dropout_prob == 0.3 and first.config.hidden_dropout_prob != 0.3
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
    assert torch.equal(torch.get_rng_state(), begin), "the same random numbers follow, cold or warm"
    assert all(parameter.requires_grad for parameter in again.parameters()) and again.training
    os.utime(weights)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_encoder(config.model, tokenizer, longest=32, cache=tmp_path / "cache")


def test_a_pickle_of_tensors_is_taken_and_one_that_runs_code_is_not(
    pretrained: Path, cache: Path, tmp_path: Path
) -> None:
    weights = load_file(pretrained / "model.safetensors")
    (pretrained / "model.safetensors").unlink()
    torch.save(weights, pretrained / "pytorch_model.bin")
    loaded = bert_of(config_for(pretrained), cache).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())

    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({**weights, "extra": Hostile()}, pretrained / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        bert_of(config_for(pretrained), cache)
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_an_error_and_never_drawn(pretrained: Path, cache: Path) -> None:
    weights = load_file(pretrained / "model.safetensors")
    del weights["encoder.layer.1.attention.self.query.weight"]
    save_file(weights, pretrained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 of the encoder's weights, .*layer\.1\.attention\.self\.query"):
        bert_of(config_for(pretrained), cache)


def test_a_folder_without_weights_and_one_of_no_known_family_are_refused(pretrained: Path, cache: Path) -> None:
    (pretrained / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        bert_of(config_for(pretrained), cache)
    GPT2Config().save_pretrained(pretrained)
    with pytest.raises(InputError, match="is a model of type `gpt2`; its type must be one of `bert`, `roberta`"):
        bert_of(config_for(pretrained), cache)


def test_examples_longer_than_the_encoder_are_refused_before_a_run(pretrained: Path, cache: Path) -> None:
    values = config_for(pretrained).model_dump(mode="json", exclude_unset=True)
    values["data"]["max_length"] = 600
    with pytest.raises(InputError, match="examples of 600 tokens are longer than the encoder's 512 positions"):
        Nsmc(parse_train_config(values), cache=cache).hf_config()


def test_values_of_the_study_reach_the_encoder(pretrained: Path, cache: Path) -> None:
    bert = bert_of(config_for(pretrained, hidden_dropout=0.33, attention_dropout=0.44), cache)
    assert bert.config.hidden_dropout_prob == 0.33 and bert.config.attention_probs_dropout_prob == 0.44
    assert bert.encoder.layer[0].output.dropout.p == 0.33
    with pytest.raises(InputError, match="`hidden_sizes` is no value of"):
        bert_of(config_for(pretrained, init="random", config={"hidden_sizes": 8}), cache)


@pytest.mark.parametrize("class_weights", [None, (0.2, 0.8)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_logits_and_loss_are_those_of_transformers(
    pretrained: Path, cache: Path, class_weights: tuple[float, float] | None, label_smoothing: float
) -> None:
    config = config_for(pretrained, class_weights=class_weights, label_smoothing=label_smoothing)
    task = Nsmc(config, cache=cache)
    model = task.build_model().eval()
    reference = BertForSequenceClassification(task.hf_config()).eval()
    reference.load_state_dict(model.state_dict())
    rows = torch.arange(9).numpy()
    batch = task.train.batch(rows)
    padded = batch.padded(task.tokenizer.pad_id)
    output = model(**batch.inputs, **batch.targets)
    logits = reference(**{name: tensor for name, tensor in padded.items() if name != "labels"}).logits
    torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-6)
    weight = None if class_weights is None else torch.tensor(class_weights)
    loss = torch.nn.functional.cross_entropy(logits, padded["labels"], weight, label_smoothing=label_smoothing)
    torch.testing.assert_close(output.loss, loss, rtol=0, atol=1e-6)


def test_it_is_a_plain_module() -> None:
    torch.manual_seed(0)
    model = TextClassifier(BertModel(BertConfig(**SIZES, vocab_size=50)), num_labels=3)
    ids = torch.randint(5, 50, (4, 7))
    batch = Batch.pack(
        {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    )
    output = model(**batch.inputs, labels=torch.tensor([0, 1, 2, 0]))
    assert output.logits.shape == (4, 3) and output.loss.shape == ()
    assert model(**batch.inputs).loss is None
