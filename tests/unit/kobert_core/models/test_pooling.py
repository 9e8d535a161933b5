"""`model.pooling`: what transformers' heads can do, and its logits; nothing that would need custom code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kobert_core.errors import InputError
from kobert_core.families import FAMILIES
from kobert_core.pretrained import load_pretrained, save_model_files, save_weights
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


def test_what_no_head_of_transformers_does_is_refused(tmp_path: Path) -> None:
    folder = make_encoder("bert", tmp_path / "hub")
    for pooling in ("cls", "mean"):
        task = task_class("nsmc")(classification(folder, tmp_path / "data.tsv", pooling=pooling))
        expected = f"`bert` has no pooling `{pooling}`, and an export must load there .* use `auto` or `pooler`"
        with pytest.raises(InputError, match=expected):
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
