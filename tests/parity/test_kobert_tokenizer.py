"""KoBertTokenizer does what transformers' fast tokenizers do, where `tokenizer.json` has the same ids."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from kobert_core.errors import InputError
from kobert_core.tokenization import KoBertTokenizer, SentencePieceTokenizer
from kobert_core.tokenization.export import SPECIAL_NAMES
from tests.fixtures.commands import ROOT

LAYOUTS = {"skt": "skt-kobert-base-v1", "monologg": "monologg-kobert"}
FIELDS = {
    "return_offsets_mapping": True,
    "return_special_tokens_mask": True,
    "return_token_type_ids": True,
    "return_attention_mask": True,
    "return_length": True,
}


def golden(shared: Path, layout: str = "skt") -> tuple[list[str], list[list[int]]]:
    lines = (shared / f"golden/{layout}_tokenizer.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    return [row["text"] for row in rows], [row["ids"] for row in rows]


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "models" / LAYOUTS["skt"]


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    return KoBertTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def fast(folder: Path) -> Any:
    """The library's own, of the exported `tokenizer.json`."""
    content = SentencePieceTokenizer.from_pretrained(folder).tokenizer_json
    backend = tokenizers.Tokenizer.from_str(content)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    options = {"model_max_length": 512, "model_input_names": names, **SPECIAL_NAMES}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


@pytest.fixture(scope="module")
def texts(shared: Path, fast: Any) -> list[str]:
    """Golden texts, but for those with ties, and texts with little in them."""
    every = golden(shared)
    found = fast(every[0])["input_ids"]
    same = [text for text, expected, ids in zip(*every, found, strict=True) if expected == ids]
    assert len(same) == 3100
    return [*same[::10], "", " ", "[SEP]", "가[MASK] 나", "뷁 麤", "👍🏽 좋다"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_golden_ids(layout: str, shared: Path) -> None:
    tokenizer = KoBertTokenizer.from_pretrained(shared / "models" / LAYOUTS[layout])
    texts, expected = golden(shared, layout)
    assert tokenizer(texts, verbose=False)["input_ids"] == expected
    assert [tokenizer.encode(text) for text in texts[:50]] == expected[:50]
    pair = tokenizer(texts[0], texts[1])
    assert pair["input_ids"] == expected[0] + expected[1][1:]
    assert pair["token_type_ids"] == [0] * len(expected[0]) + [1] * (len(expected[1]) - 1)


def without_blanks(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """The library counts the blank before a piece to it."""
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    return start, end


def plain(values: Any) -> Any:
    """Lists, also where arrays of several lengths lie in one."""
    return [plain(value) for value in values] if isinstance(values, (list, np.ndarray)) else values


def assert_the_same(ours: Any, fast: Any, *inputs: Any, **options: Any) -> None:
    try:
        theirs = fast(*inputs, verbose=False, **FIELDS, **options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of the library, where the stride is too great, is no Exception
        with pytest.raises(BaseException):  # noqa: B017  (of a batch with several faults it tells any one)
            ours(*inputs, verbose=False, **FIELDS, **options)
        return
    found = ours(*inputs, verbose=False, **FIELDS, **options)
    assert list(found) == list(theirs)
    for name in theirs:
        if name != "offset_mapping":
            assert plain(found[name]) == plain(theirs[name]), name
    for row, (one, other) in enumerate(zip(found.encodings, theirs.encodings, strict=True)):
        assert one.word_ids == other.word_ids and one.sequence_ids == other.sequence_ids
        assert one.tokens == other.tokens, row


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_all_options_do_what_they_do_in_the_library(
    data: st.DataObject, ours: Any, fast: Any, texts: list[str]
) -> None:
    draw = data.draw
    size = draw(st.integers(1, 3), label="size")
    some = st.lists(st.sampled_from(texts), min_size=size, max_size=size)
    first, second = draw(some, label="first"), draw(st.none() | some, label="second")
    words = draw(st.booleans(), label="are words")
    if words:
        first, second = ([text.split() for text in given] if given else given for given in (first, second))
    if size == 1 and draw(st.booleans(), label="alone"):
        first, second = first[0], second and second[0]
    options: dict[str, Any] = {
        "padding": draw(st.sampled_from([False, True, "longest", "max_length"])),
        "truncation": draw(st.sampled_from([False, True, "only_first", "only_second", "longest_first"])),
        "max_length": draw(st.sampled_from([None, 5, 12, 40, 64])),
        "stride": draw(st.sampled_from([0, 0, 2, 5])),
        "return_overflowing_tokens": draw(st.booleans()),
        "add_special_tokens": draw(st.sampled_from([True, True, False])),
        "pad_to_multiple_of": draw(st.sampled_from([None, 8])),
        "padding_side": draw(st.sampled_from([None, "left", "right"])),
        "return_tensors": draw(st.sampled_from([None, None, "np"])),
        "is_split_into_words": words,
    }
    ours.truncation_side = fast.truncation_side = draw(st.sampled_from(["right", "left"]))
    assert_the_same(ours, fast, first, second, **options)


@pytest.mark.parametrize("truncation", ["only_first", "only_second", "longest_first"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("words", [False, True])
def test_windows_of_pairs(truncation: str, side: str, words: bool, ours: Any, fast: Any, texts: list[str]) -> None:
    """Also the token types of all windows after the first."""
    long = sorted(texts, key=len)[-6:]
    first, second = ([text.split() for text in given] if words else given for given in (long[::2], long[1::2]))
    ours.truncation_side = fast.truncation_side = side
    sizes = {"longest_first": 90, "only_first": 450, "only_second": 450}
    options = {"truncation": truncation, "max_length": sizes[truncation], "stride": 8, "is_split_into_words": words}
    assert_the_same(ours, fast, first, second, padding=True, return_overflowing_tokens=True, **options)
    found = fast(first, second, padding=True, return_overflowing_tokens=True, **options)
    assert len(found["input_ids"]) > 3


def test_offsets_are_the_librarys_without_blanks_or_cover_more(ours: Any, fast: Any, texts: list[str]) -> None:
    """More: both marks of a pair of quotes, each letter of a syllable that is put together. A lone `▁` has none."""
    found, theirs = (one(texts, return_offsets_mapping=True, verbose=False) for one in (ours, fast))
    differing = 0
    for row, text in enumerate(texts):
        others = [without_blanks(text, span) for span in theirs["offset_mapping"][row]]
        for token, span, other in zip(found.tokens(row), found["offset_mapping"][row], others, strict=True):
            differing += span != other
            within = span[0] <= other[0] and other[1] <= span[1]
            assert span == other or within or (token == "▁" and span[0] == span[1]), (text, token)
    assert differing < len(texts) / 4


def test_places(ours: Any) -> None:
    text = "정육점을  닫았다 ﷺ"
    encoded = ours(text, return_offsets_mapping=True)
    assert encoded.tokens()[1:4] == ["▁정", "육", "점을"]
    assert [text[start:end] for start, end in encoded["offset_mapping"][1:4]] == ["정", "육", "점을"]
    assert encoded.char_to_token(3) == encoded.char_to_token(2) == 3 and encoded.char_to_token(4) is None
    assert encoded.word_ids()[:5] == [None, 0, 0, 0, 1]
    assert encoded.token_to_chars(3) == (2, 4)
    spans = zip(encoded["offset_mapping"], encoded.word_ids(), strict=True)
    words = {word: span for span, word in spans if word is not None and word > 1}
    assert words == {2: (10, 11), 3: (10, 11), 4: (10, 11), 5: (10, 11)}, "four words in one character"


def test_windows_of_a_long_context(ours: Any, shared: Path) -> None:
    content = json.loads((shared / "data/korquad/KorQuAD_v1.0_dev.json").read_text(encoding="utf-8"))
    paragraph = content["data"][0]["paragraphs"][0]
    context, question = paragraph["context"], paragraph["qas"][0]["question"]
    windows = ours(
        question, context, truncation="only_second", max_length=128, stride=32, padding="max_length",
        return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt",
    )  # fmt: skip
    assert windows["input_ids"].shape[1] == 128 and len(windows["input_ids"]) > 2
    assert windows["overflow_to_sample_mapping"].tolist() == [0] * len(windows["input_ids"])
    covered: set[int] = set()
    for row, spans in enumerate(windows["offset_mapping"].tolist()):
        for span, sequence in zip(spans, windows.sequence_ids(row), strict=True):
            covered |= set(range(*span)) if sequence == 1 else set()
    assert covered == {i for i, character in enumerate(context) if not character.isspace()}


def test_tokens_and_ids(ours: Any) -> None:
    assert ours.tokenize("정육점을 뷁") == ["▁정", "육", "점을", "▁", "뷁"]
    assert ours.convert_tokens_to_ids(["[CLS]", "▁정", "뷁"]) == [2, ours.convert_tokens_to_ids("▁정"), 0]
    assert ours.convert_ids_to_tokens([2, 3, 4]) == ["[CLS]", "[SEP]", "[MASK]"]
    batch = ours(["정말 좋았다", "별로, 시간이 아까웠다"])["input_ids"]
    assert ours.decode(batch[0], skip_special_tokens=True) == "정말 좋았다"
    assert ours.batch_decode(batch, skip_special_tokens=True) == ["정말 좋았다", "별로, 시간이 아까웠다"]
    assert ours.vocab_size == len(ours) == len(ours.get_vocab()) == 8002
    special = [getattr(ours, f"{name}_token_id") for name in ("unk", "pad", "cls", "sep", "mask")]
    assert special == [0, 1, 2, 3, 4]
    assert ours.model_max_length == 512 and ours.is_fast and ours.padding_side == "right"
    assert ours.num_special_tokens_to_add(pair=True) == 3


def test_padding(ours: Any) -> None:
    rows = [{**ours("가"), "label": 1}, {**ours("정말 좋았다"), "label": 0}]
    padded = DataCollatorWithPadding(ours, pad_to_multiple_of=8)(rows)
    assert padded["input_ids"].shape == (2, 8) and padded["input_ids"][0, -1] == 1
    assert padded["labels"].tolist() == [1, 0] and padded["attention_mask"][0].sum() == len(ours("가")["input_ids"])
    alone = ours.pad({"input_ids": [[2, 3], [2, 5, 3]]}, return_tensors="pt")
    assert alone["input_ids"].tolist() == [[2, 3, 1], [2, 5, 3]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_and_loaded(layout: str, shared: Path, tmp_path: Path) -> None:
    tokenizer = KoBertTokenizer.from_pretrained(
        shared / "models" / LAYOUTS[layout], model_max_length=64, padding_side="left"
    )
    tokenizer.add_tokens(["뷁뷁"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<감독>"]})
    text = "아 뷁뷁 <감독>이 ``말''했다"
    encoded = tokenizer(text, truncation=True, padding="max_length", return_offsets_mapping=True)
    tokens = [token for token in encoded.tokens() if token != "[PAD]"]
    assert tokens[:4] == ["[CLS]", "▁아", "뷁뷁", "<감독>"] and encoded["input_ids"][0] == tokenizer.pad_token_id
    files = {Path(name).name for name in tokenizer.save_pretrained(tmp_path)}
    assert files == {path.name for path in tmp_path.iterdir()}
    again = KoBertTokenizer.from_pretrained(tmp_path)
    assert again(text, truncation=True, padding="max_length", return_offsets_mapping=True) == encoded
    assert len(again) == 8004 and again.model_max_length == 64 and again.padding_side == "left"
    assert 'truncation": null' in (tmp_path / "tokenizer.json").read_text(encoding="utf-8").replace("\n", "")
    auto = AutoTokenizer.from_pretrained(tmp_path)
    for name, values in auto(text).items():
        assert values == tokenizer(text)[name]


def test_names_of_the_hub(shared: Path, tmp_path: Path) -> None:
    """From the hub's cache, as it lies on a machine without network."""
    names = {"skt/kobert-base-v1": LAYOUTS["skt"], "monologg/kobert": LAYOUTS["monologg"]}
    for name, source in names.items():
        repository, commit = tmp_path / "hub" / f"models--{name.replace('/', '--')}", "0" * 40
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        shutil.copytree(shared / "models" / source, repository / "snapshots" / commit)
    code = (
        "from kobert_core.tokenization import KoBertTokenizer\n"
        f"for name in {list(names)!r}: print(KoBertTokenizer.from_pretrained(name)('정육점을')['input_ids'])\n"
        "try: KoBertTokenizer.from_pretrained('skt/nothing')\n"
        "except ValueError as error: print(error)"
    )
    offline = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=offline, capture_output=True, text=True, check=True
    )
    folders = (shared / "models" / source for source in names.values())
    expected = [str(SentencePieceTokenizer.from_pretrained(folder).encode("정육점을")) for folder in folders]
    *ids, error = made.stdout.splitlines()
    assert ids == expected
    assert error.startswith("skt/nothing: KoBERT's files are not had from the HuggingFace hub; check")


def test_a_copy_in_another_process_is_the_same(ours: Any, folder: Path) -> None:
    """So is the fingerprint of `datasets`, whatever the tokenizer was called with before."""
    fingerprint = datasets.fingerprint.Hasher.hash(ours)
    ours(["가"], truncation=True, max_length=7, padding="max_length")
    assert datasets.fingerprint.Hasher.hash(ours) == fingerprint
    assert pickle.loads(pickle.dumps(ours))("정육점을 [MASK]") == ours("정육점을 [MASK]")
    code = (
        "from kobert_core.tokenization import KoBertTokenizer; from datasets.fingerprint import Hasher;"
        f"print(Hasher.hash(KoBertTokenizer.from_pretrained({str(folder)!r})))"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == datasets.fingerprint.Hasher.hash(KoBertTokenizer.from_pretrained(folder))


def test_datasets_map_in_two_processes(ours: Any, shared: Path) -> None:
    texts, expected = golden(shared)
    table = datasets.Dataset.from_dict({"document": texts[:200]})
    mapped = table.map(lambda rows: ours(rows["document"], verbose=False), batched=True, batch_size=50, num_proc=2)
    assert mapped["input_ids"][:] == expected[:200]


def test_trainer_saves_it_with_each_checkpoint(ours: Any, tmp_path: Path) -> None:
    labels = {"정말 좋았다": 1, "별로": 0, "시간이 아까웠다": 0}
    rows = [{**ours(text), "labels": label} for text, label in labels.items()]
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(ours), pad_token_id=ours.pad_token_id, **sizes)
    settings = TrainingArguments(tmp_path, max_steps=1, save_steps=1, use_cpu=True, report_to="none", disable_tqdm=True)
    Trainer(BertForSequenceClassification(config), settings, train_dataset=rows, processing_class=ours).train()
    saved = KoBertTokenizer.from_pretrained(tmp_path / "checkpoint-1")
    assert saved("정육점을")["input_ids"] == ours("정육점을")["input_ids"]


def test_importing_the_package_does_not_import_transformers() -> None:
    code = (
        "import sys; import kobert_core.tokenization as t;"
        "assert not {'transformers', 'torch'} & set(sys.modules);"
        "t.KoBertTokenizer; assert 'transformers' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [(["가", 1], TypeError), ([["가", "나", "다"]], TypeError), (5, ValueError), (None, ValueError)],
)
def test_what_is_no_text_is_refused(ours: Any, inputs: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        ours(inputs)


def test_folders_without_kobert_are_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kcbert-base: no tokenizer files; expected spiece\.model"):
        KoBertTokenizer.from_pretrained(shared / "models" / "kcbert-base")
    (tmp_path / "spiece.model").write_bytes(b"no model")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        KoBertTokenizer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="no such folder here, and not had from the HuggingFace hub"):
        KoBertTokenizer.from_pretrained(tmp_path / "nothing")
