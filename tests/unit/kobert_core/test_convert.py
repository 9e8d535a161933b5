"""An encoder in an old layout becomes a folder that transformers loads without custom code."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertConfig

from kobert_core.convert import convert
from kobert_core.errors import InputError
from kobert_core.tokenization import load_tokenizer
from tests.fixtures.tiny import SIZES

TEXTS = ["한국어 모델을 공유합니다.", "재미있다ㅋㅋ", "‘인용’ café ½"]
LAYOUTS = ("skt-kobert-base-v1", "monologg-kobert")


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, shared: Path, tmp_path: Path) -> Path:
    """KoBERT's tokenizer files as they are, beside a small BERT whose weights are a pickle, as its are."""
    folder = tmp_path / "kobert"
    shutil.copytree(shared / "models" / request.param, folder, ignore=shutil.ignore_patterns("config.json"))
    folder.chmod(0o755)
    return folder


def save_weights(folder: Path, make: Any = AutoModel, **values: Any) -> Any:
    torch.manual_seed(0)
    model = make.from_config(BertConfig(vocab_size=8002, pad_token_id=0, **SIZES, **values)).eval()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    model.config.to_json_file(folder / "config.json")
    return model


def test_the_ids_and_the_hidden_states_stay_the_same(layout: Path, tmp_path: Path) -> None:
    old, ours = save_weights(layout), load_tokenizer(layout)
    convert(str(layout), tmp_path / "new")
    new, tokenizer = AutoModel.from_pretrained(tmp_path / "new"), AutoTokenizer.from_pretrained(tmp_path / "new")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    ids, starts = ours.encode_batch_flat(TEXTS)
    for row, (begin, end) in enumerate(itertools.pairwise(starts)):
        wanted = [ours.cls_id, *ids[begin:end].tolist(), ours.sep_id]
        assert batch["input_ids"][row].tolist()[: len(wanted)] == wanted
        assert set(batch["input_ids"][row].tolist()[len(wanted) :]) <= {ours.pad_id}
    with torch.no_grad():
        torch.testing.assert_close(new.eval()(**batch).pooler_output, old(**batch).pooler_output)
    config = json.loads((tmp_path / "new/config.json").read_text(encoding="utf-8"))
    assert (config["pad_token_id"], config["architectures"]) == (1, ["BertModel"])
    assert (tmp_path / "new/model.safetensors").stat().st_mode & 0o044, "others may read it, as the umask says"


def test_a_masked_language_model_has_no_pooler_and_none_is_made_up(layout: Path, tmp_path: Path) -> None:
    save_weights(layout, AutoModelForMaskedLM)
    convert(str(layout), tmp_path / "new")
    _, told = AutoModel.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert set(told["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}


def test_what_cannot_be_converted_is_a_line(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model"):
        convert(str(layout), tmp_path / "new")
    save_weights(layout)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is already there"):
        convert(str(layout), tmp_path / "full")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["notes"]
