"""`model.freeze`: what keeps its weights takes no gradient, no memory of the optimizer and no time below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kobert_core.checkpoint import load_state, newest_checkpoint
from kobert_core.config import OptimConfig
from kobert_core.errors import InputError
from kobert_core.families import FAMILIES, family_of, layers_of
from kobert_core.models.heads import EncoderWithHead
from kobert_core.optim import make_optimizer, parameter_groups
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from kobert_core.training import train
from tests.fixtures.encoders import classification, make_encoder, questions


def task_of(family: str, tmp_path: Path, **model: Any) -> Task[Any]:
    return task_class("nsmc")(classification(make_encoder(family, tmp_path / "hub"), tmp_path / "data.tsv", **model))


def frozen(model: EncoderWithHead) -> set[str]:
    return {name for name, each in model.encoder.named_parameters() if not each.requires_grad}


def below(model: EncoderWithHead, layers: int) -> set[str]:
    """Names of the encoder's weights but those of the layers from this one on, and of what lies above them."""
    kept = {id(each) for layer in layers_of(model.encoder)[layers:] for each in layer.parameters()}
    above = ("pooler.", "final_norm.")
    return {
        name for name, each in model.encoder.named_parameters() if id(each) not in kept and not name.startswith(above)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_or_the_lowest_layers_are_frozen(family: str, tmp_path: Path) -> None:
    assert not frozen(task_of(family, tmp_path).build_model())
    embeddings = frozen(task_of(family, tmp_path, freeze="embeddings").build_model())
    model = task_of(family, tmp_path, freeze=1).build_model()
    assert frozen(model) == below(model, 1) > embeddings > set()
    modules = {name.removesuffix(".weight") for name in embeddings}
    assert any("word_embeddings" in name or "tok_embeddings" in name for name in modules)
    assert not any("layer." in name or name.startswith("layers.") for name in embeddings)
    everything = task_of(family, tmp_path, freeze=len(layers_of(model.encoder))).build_model()
    assert frozen(everything) == below(everything, len(layers_of(model.encoder)))
    assert all(each.requires_grad for name, each in everything.named_parameters() if "classifier" in name)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_leaves_what_is_frozen_as_it_is_and_goes_no_deeper(family: str, tmp_path: Path) -> None:
    task = task_of(family, tmp_path, freeze=1)
    torch.manual_seed(task.config.train.seed)
    before = {name: each.clone() for name, each in task.build_model().state_dict().items()}
    reached: list[bool] = []
    build = task.build_model

    def watched() -> EncoderWithHead:
        model = build()
        for part in layers_of(model.encoder)[0].modules():
            part.register_forward_hook(lambda *given: reached.append(_needs_gradient(given[2])))
        return model

    task.build_model = watched  # type: ignore[method-assign]
    model = train(task.config, task, LocalRuntime(device=torch.device("cpu"), checkpoints=tmp_path / "checkpoints"))
    assert reached and not any(reached), "backward has nothing to do below"
    prefix, held = model.encoder_prefix, frozen(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name.removeprefix(prefix) in held), name
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    moments = load_state(newest)["optimizer"]["state"]
    trained = [each for each in model.parameters() if each.requires_grad]
    assert len(moments) == len(trained) < len(list(model.parameters()))


def _needs_gradient(output: Any) -> bool:
    first = output[0] if isinstance(output, tuple) else output
    return bool(first.requires_grad) and torch.is_grad_enabled()


def test_the_frozen_part_gives_what_it_gave(tmp_path: Path) -> None:
    task = task_of("bert", tmp_path, freeze=2)
    inputs = task.train.batch(np.arange(6)).inputs
    states = []
    for model in (task.build_model(), train(task.config, task, LocalRuntime(device=torch.device("cpu")))):
        found: list[torch.Tensor] = []
        layers_of(model.encoder)[0].register_forward_hook(lambda *given, into=found: into.append(given[2]))
        with torch.no_grad():
            model.eval()(**inputs)
        states.append(found[0])
    assert torch.equal(*states)


def test_layer_decay_and_freezing_compose(tmp_path: Path) -> None:
    model = task_of("bert", tmp_path, freeze=1).build_model()
    groups = parameter_groups(model, OptimConfig(backbone_lr=1.0, classifier_lr=7.0, layer_decay=0.5))
    assert {group["lr"] for group in groups} == {1.0, 0.5, 7.0}, "pooler, top layer, head; nothing below"
    optimizer = make_optimizer(model, OptimConfig())
    held = sum(each.numel() for group in optimizer.param_groups for each in group["params"])
    assert held == sum(each.numel() for each in model.parameters() if each.requires_grad)


def test_questions_can_be_trained_on_a_part_too(tmp_path: Path) -> None:
    folder = make_encoder("electra", tmp_path / "hub")
    task = task_class("korquad")(questions(folder, tmp_path / "data.json", freeze="embeddings"))
    model = train(task.config, task, LocalRuntime(device=torch.device("cpu")))
    assert frozen(model) and {name.split(".")[0] for name in frozen(model)} == set(FAMILIES["electra"].embeddings)


def test_an_interrupted_run_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    task = task_of("roberta", tmp_path, freeze=1, dropout=0.1)
    whole = train(task.config, task, LocalRuntime(device=torch.device("cpu"), checkpoints=tmp_path / "whole"))
    stopped = LocalRuntime(device=torch.device("cpu"), checkpoints=tmp_path / "parts")
    stopped.should_stop = lambda: True  # type: ignore[method-assign]
    train(task.config, task, stopped)
    again = train(
        task.config, task, LocalRuntime(device=torch.device("cpu"), checkpoints=tmp_path / "parts", resume=True)
    )
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), again.parameters(), strict=True))


def test_more_layers_than_there_are_cannot_be_frozen(tmp_path: Path) -> None:
    message = r"model\.freeze: 3 layers cannot be frozen: the encoder has 2; give 2 or less, or `embeddings`"
    with pytest.raises(InputError, match=message):
        task_of("bert", tmp_path, freeze=3).check_model()


def test_every_module_of_embeddings_is_there(tmp_path: Path) -> None:
    for family in FAMILIES:
        encoder = task_of(family, tmp_path / family if (tmp_path / family).mkdir() is None else tmp_path).build_model()
        names = {name for name, _ in encoder.encoder.named_modules()}
        own = set(family_of(encoder.encoder.config).embeddings)
        assert own - names <= {"embeddings_project"}, "which there is where sizes differ"
