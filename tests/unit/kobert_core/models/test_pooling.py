"""`model.pooling`: transformers' heads with its logits, and heads of our own where it has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification

from kobert_core.errors import InputError
from kobert_core.families import FAMILIES, IN_TRANSFORMERS
from kobert_core.pretrained import caveats_of, load_pretrained, save_model_files, save_weights
from kobert_core.tasks import task_class
from tests.fixtures.encoders import classification, make_encoder
from tests.unit.kobert_core.models.test_families import padded

OFFERED = [(family, pooling) for family, each in FAMILIES.items() for pooling in ("auto", *each.poolings)]


@pytest.mark.parametrize(("family", "pooling"), OFFERED)
def test_logits_are_those_of_transformers_on_the_export(family: str, pooling: str, tmp_path: Path) -> None:
    folder = make_encoder(family, tmp_path / "hub")
    task = task_class("nsmc")(classification(folder, tmp_path / "data.tsv", pooling=pooling))
    model = task.build_model().eval()
    save_model_files(tmp_path / "export", task)
    save_weights(tmp_path / "export", type(task), {key: each.clone() for key, each in model.state_dict().items()})
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export", trust_remote_code=False).eval()
    rows = np.arange(8)
    with torch.no_grad():
        ours = model(**task.train.batch(rows).inputs).logits
        torch.testing.assert_close(loaded(**padded(task, rows)).logits, ours, rtol=0, atol=1e-5)
        again = load_pretrained(tmp_path / "export").model(**task.train.batch(rows).inputs).logits
    torch.testing.assert_close(again, ours, rtol=0, atol=1e-6)


def test_the_first_token_is_another_state_than_the_mean(tmp_path: Path) -> None:
    folder, logits = make_encoder("modernbert", tmp_path / "hub"), []
    for pooling in ("cls", "mean", "auto"):
        task = task_class("nsmc")(classification(folder, tmp_path / "data.tsv", pooling=pooling))
        torch.manual_seed(0)
        with torch.no_grad():
            logits.append(task.build_model().eval()(**task.train.batch(np.arange(4)).inputs).logits)
    assert not torch.allclose(logits[0], logits[1]) and torch.equal(logits[1], logits[2])


PLAIN = [(family, pooling) for family in IN_TRANSFORMERS for pooling in ("cls", "mean")]
PLAIN = [one for one in PLAIN if one not in OFFERED]


@pytest.mark.parametrize(("family", "pooling"), PLAIN)
def test_a_head_that_transformers_has_not_is_a_linear_layer_on_its_states(
    family: str, pooling: str, tmp_path: Path
) -> None:
    """Of the export transformers loads the encoder, whole and alone; a sequence classifier finds no head there."""
    task = task_class("nsmc")(
        classification(make_encoder(family, tmp_path / "hub"), tmp_path / "data.tsv", pooling=pooling)
    )
    assert caveats_of(type(task), task.check_model().state_dict())
    model = task.build_model().eval()
    save_model_files(tmp_path / "export", task)
    save_weights(tmp_path / "export", type(task), {key: each.clone() for key, each in model.state_dict().items()})
    encoder, said = AutoModel.from_pretrained(tmp_path / "export", output_loading_info=True)
    assert {name.split(".")[0] for name in said["missing_keys"]} <= {"pooler"} and not said["unexpected_keys"]
    _, said = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export", output_loading_info=True)
    assert any("classifier" in name for name in said["missing_keys"]), "transformers tells of a head that is missing"
    rows = np.arange(8)
    inputs = padded(task, rows)
    assert len(set(task.train.lengths[rows].tolist())) > 1
    with torch.no_grad():
        states = encoder.eval()(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        of_text = states[:, 0] if pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
        head = load_file(tmp_path / "export" / "pooled_head.safetensors")
        expected = of_text @ head["pooled_head.linear.weight"].T + head["pooled_head.linear.bias"]
        torch.testing.assert_close(model(**task.train.batch(rows).inputs).logits, expected, rtol=0, atol=1e-5)
        again = load_pretrained(tmp_path / "export").model(**task.train.batch(rows).inputs).logits
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)
        graph = model.padded_outputs(states, inputs["attention_mask"])["logits"]
        torch.testing.assert_close(graph, expected, rtol=0, atol=1e-5)


def test_all_weights_of_a_head_of_our_own_are_trained(tmp_path: Path) -> None:
    """Workers that train together wait for a gradient of each weight."""
    folder = make_encoder("bert", tmp_path / "hub")
    task = task_class("nsmc")(classification(folder, tmp_path / "data.tsv", pooling="mean"))
    model = task.build_model()
    task.loss(model, task.train.batch(np.arange(8))).backward()
    assert all(each.grad is not None for each in model.parameters())
    assert not any(name.startswith(("bert.pooler", "classifier")) for name, _ in model.named_parameters())


def test_what_no_head_has_is_refused(tmp_path: Path) -> None:
    folder = make_encoder("modernbert", tmp_path / "hub")
    task = task_class("nsmc")(classification(folder, tmp_path / "data.tsv", pooling="pooler"))
    with pytest.raises(InputError, match="`modernbert` has no `pooler`; use `auto` or `cls` or `mean`"):
        task.check_model()


def test_a_pooler_that_the_checkpoint_lacks_is_a_new_one_that_is_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForMaskedLM

    folder = make_encoder("bert", tmp_path / "hub", AutoModelForMaskedLM)
    task = task_class("nsmc")(classification(folder, tmp_path / "data.tsv", pooling="pooler"))
    model = task.build_model()
    assert "has no pooler" in caplog.text
    assert model.encoder.pooler.dense.weight.requires_grad and model.encoder.pooler.dense.weight.std() > 0
