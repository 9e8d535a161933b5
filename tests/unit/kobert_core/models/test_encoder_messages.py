"""docs/encoders.md has the lines that people get, word by word."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForMaskedLM, GPT2Config

from kobert_core.config import TrainConfig
from kobert_core.errors import InputError
from kobert_core.pretrained import caveats_of
from kobert_core.tasks import parse_train_config, task_class
from tests.fixtures.commands import ROOT
from tests.fixtures.encoders import classification, make_encoder, questions
from tests.fixtures.tiny import SAMPLE
from tuning.study import load_study


def check(config: TrainConfig) -> None:
    task_class(config.task)(config).check_model()


def another_type(folder: Path, shared: Path) -> None:
    make_encoder("bert", folder / "hub")
    GPT2Config().save_pretrained(folder / "hub")
    check(classification(folder / "hub", folder / "data.tsv"))


def kcbert_and_korquad(folder: Path, shared: Path) -> None:
    for file in ("vocab.txt", "config.json"):
        shutil.copyfile(shared / "models/kcbert-base" / file, folder / file)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    config = questions(folder, folder / "data.json", init="random")
    data = config.data.model_copy(update={"max_seq_length": 384})
    check(config.model_copy(update={"data": data}))


def roberta_and_513_tokens(folder: Path, shared: Path) -> None:
    make_encoder("roberta", folder / "hub", max_position_embeddings=514)
    config = classification(folder / "hub", folder / "data.tsv")
    check(config.model_copy(update={"data": config.data.model_copy(update={"max_length": 512})}))
    check(config.model_copy(update={"data": config.data.model_copy(update={"max_length": 513})}))


def padding_of_roberta(folder: Path, shared: Path) -> None:
    check(classification(make_encoder("roberta", folder / "hub", pad_token_id=0), folder / "data.tsv"))


def pair_without_types(folder: Path, shared: Path) -> None:
    check(questions(make_encoder("bert", folder / "hub", type_vocab_size=1), folder / "data.json"))


def lower_case(folder: Path, shared: Path) -> None:
    for file in ("vocab.txt", "config.json"):
        shutil.copyfile(shared / "models/kcbert-base" / file, folder / file)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    check(classification(folder, folder / "data.tsv", init="random"))


def another_language(folder: Path, shared: Path) -> None:
    make_encoder("bert", folder / "hub")
    for file in (folder / "hub").glob("*token*.json"):
        file.unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film"]
    (folder / "hub" / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "hub" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    check(classification(folder / "hub", folder / "data.tsv"))


def tokenizer_of_another(folder: Path, shared: Path) -> None:
    check(classification(make_encoder("bert", folder / "hub", vocab_size=60), folder / "data.tsv"))


def pooling_of_none(folder: Path, shared: Path) -> None:
    check(classification(make_encoder("modernbert", folder / "hub"), folder / "data.tsv", pooling="pooler"))


def frozen_layers(folder: Path, shared: Path) -> None:
    check(classification(make_encoder("bert", folder / "hub"), folder / "data.tsv", freeze=13))


REFUSED = [
    another_type,
    kcbert_and_korquad,
    roberta_and_513_tokens,
    padding_of_roberta,
    pair_without_types,
    lower_case,
    another_language,
    tokenizer_of_another,
    pooling_of_none,
    frozen_layers,
]


def documented() -> list[str]:
    text = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    return [
        block.strip().split("\n")[-1] for block in re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize("mistake", REFUSED, ids=lambda mistake: mistake.__name__)
def test_a_refusal_is_the_documented_one(mistake: Callable[[Path, Path], None], tmp_path: Path, shared: Path) -> None:
    with pytest.raises(InputError) as refused:
        mistake(tmp_path, shared)
    assert re.sub(f"{tmp_path}[\\w/-]*", "…", str(refused.value)) in documented()


def test_the_warning_of_a_new_pooler_is_the_documented_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_encoder("bert", tmp_path / "hub", AutoModelForMaskedLM)
    with caplog.at_level(logging.WARNING):
        check(classification(folder, tmp_path / "data.tsv"))
    assert caplog.records[-1].getMessage().replace(str(folder), "…") in documented()


def test_the_refusal_of_a_population_of_encoders_is_the_documented_one(tmp_path: Path) -> None:
    study = {
        "schema_version": 1,
        "name": "one",
        "task": "nsmc",
        "data": {"train": str(SAMPLE / "train.tsv")},
        "parameters": {"model.backbone": {"values": ["klue/bert-base", "klue/roberta-base"]}},
        "scheduler": {"name": "pbt"},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    with pytest.raises(InputError) as refused:
        load_study(tmp_path / "study.yaml")
    assert str(refused.value).partition(": ")[2] in documented()


@pytest.mark.parametrize(("family", "pooling", "told"), [("bert", "mean", True), ("bert", "pooler", False)])
def test_what_no_class_of_transformers_has_is_told_in_the_documented_line(
    family: str, pooling: str, told: bool, tmp_path: Path
) -> None:
    config = classification(make_encoder(family, tmp_path / "hub"), tmp_path / "data.tsv", pooling=pooling)
    task = task_class("nsmc")(config)
    caveats = caveats_of(type(task), task.check_model().state_dict())
    assert len(caveats) == told and set(caveats) <= set(documented())


def test_nothing_else_is_documented() -> None:
    assert len(documented()) == len(set(documented())) == len(REFUSED) + 3


def test_padding_is_the_tokenizers_where_positions_do_not_depend_on_it(tmp_path: Path) -> None:
    folder = make_encoder("bert", tmp_path / "hub", pad_token_id=3)
    task = task_class("nsmc")(classification(folder, tmp_path / "data.tsv"))
    assert task.hf_config().pad_token_id == task.tokenizer.pad_id == 1
    assert task.build_model().encoder.embeddings.word_embeddings.padding_idx == 1


@pytest.mark.parametrize("length", [None, int(1e30), 128])
def test_an_export_tells_the_positions_of_the_encoder(length: int | None, tmp_path: Path) -> None:
    """Without a length, or with the number that transformers writes when it knows none."""
    folder = make_encoder("electra", tmp_path / "hub")
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text()) | {"model_max_length": length}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    task = task_class("nsmc")(
        parse_train_config(classification(folder, tmp_path / "data.tsv").model_dump(mode="json", exclude_unset=True))
    )
    task.tokenizer.save_pretrained(tmp_path / "export")
    told = json.loads((tmp_path / "export" / "tokenizer_config.json").read_text())["model_max_length"]
    assert told == (length if length == 128 else 512)
