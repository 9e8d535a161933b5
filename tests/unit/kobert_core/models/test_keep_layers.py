"""A student that begins with some of the layers of its backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from kobert_core.errors import InputError
from kobert_core.families import FAMILIES, layers_of, spread
from kobert_core.pretrained import load_pretrained, save_model_files, save_weights
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from tests.fixtures.encoders import FAMILIES as TINY
from tests.fixtures.encoders import classification, make_encoder

LAYERS = 5
KEPT = [0, 2, 4]


def task_of(family: str, folder: Path, tmp_path: Path, **model: Any) -> Task[Any]:
    values = {name: LAYERS for name in TINY[family][1] if name in ("n_layers", "num_hidden_layers")}
    return task_class("nsmc")(
        classification(make_encoder(family, folder, **values), tmp_path / "data.tsv", dropout=0.0, **model)
    )


def test_those_of_distilbert_are_every_other_one() -> None:
    assert spread(12, 6) == [0, 2, 4, 7, 9, 11], "as its authors' script takes them"
    assert spread(12, 1) == [0] and spread(12, 2) == [0, 11] and spread(12, None) == list(range(12))
    assert all(len(set(spread(layers, keep))) == keep for layers in range(1, 25) for keep in range(1, layers + 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_those_of_the_backbone(family: str, tmp_path: Path, cache: Path) -> None:
    task = task_of(family, tmp_path / "hub", tmp_path, keep_layers=len(KEPT))
    student, whole = task.build_model(), AutoModel.from_pretrained(tmp_path / "hub")
    ours, theirs = layers_of(student.encoder), layers_of(whole)
    assert len(ours) == len(KEPT)
    for layer, place in zip(ours, KEPT, strict=True):
        assert layer.state_dict().keys() == theirs[place].state_dict().keys()
        assert all(torch.equal(weight, theirs[place].state_dict()[name]) for name, weight in layer.state_dict().items())
        assert getattr(layer, "attention_type", None) == getattr(theirs[place], "attention_type", None)
    assert task.check_model().state_dict().keys() == student.state_dict().keys()
    in_cache = task_class("nsmc")(task.config, cache=cache).build_model()
    assert all(
        torch.equal(weight, in_cache.encoder.state_dict()[name])
        for name, weight in student.encoder.state_dict().items()
        if not name.startswith("pooler")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_its_export_is_a_model_of_so_many_layers(family: str, tmp_path: Path) -> None:
    task = task_of(family, tmp_path / "hub", tmp_path, keep_layers=len(KEPT))
    model = task.build_model().eval()
    save_model_files(tmp_path / "model", task)
    save_weights(tmp_path / "model", type(task), model.state_dict())
    again = load_pretrained(tmp_path / "model")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert theirs.config.num_hidden_layers == len(layers_of(again.model.encoder)) == len(KEPT)  # type: ignore[arg-type]
    batch = task.train.batch(task.train.rows[:4])
    logits = model(**batch.inputs).logits
    assert torch.equal(again.model(**batch.inputs).logits, logits)
    padded = batch.padded(task.tokenizer.pad_id)
    takes = ["input_ids", "attention_mask", *["token_type_ids"] * (family not in ("distilbert", "modernbert"))]
    found = theirs(**{name: padded[name] for name in takes}).logits
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_more_than_there_are_is_told(init: str, tmp_path: Path) -> None:
    task = task_of("bert", tmp_path / "hub", tmp_path, keep_layers=LAYERS + 1, init=init)
    for build in (task.build_model, task.build_on_meta):
        with pytest.raises(InputError, match=f"model.keep_layers: {LAYERS + 1} layers cannot be kept.* has {LAYERS}"):
            build()
