"""The ids of the original Python tokenizers, text by text, and what an exported folder gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kobert_core.tokenization import SentencePieceTokenizer
from kobert_core.tokenization.preprocessing import preprocess
from tests.fixtures.tokens import pieces_of

LAYOUTS = {"skt": "skt-kobert-base-v1", "monologg": "monologg-kobert"}

# SentencePiece breaks ties (`....` as `.` + `...` or the other way round) by rounding in float32.
EXPORTED_TIES = 6


@dataclass
class Golden:
    tokenizer: SentencePieceTokenizer
    folder: Path
    texts: list[str]
    ids: list[list[int]]


@pytest.fixture(scope="module", params=LAYOUTS)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    lines = (shared / f"golden/{request.param}_tokenizer.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    folder = shared / "models" / LAYOUTS[request.param]
    tokenizer = SentencePieceTokenizer.from_pretrained(folder)
    return Golden(tokenizer, folder, [row["text"] for row in rows], [row["ids"] for row in rows])


@pytest.fixture(scope="module")
def auto(golden: Golden, tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("exported")
    golden.tokenizer.save_pretrained(path)
    config = (shared / "models/skt-kobert-base-v1/config.json").read_text(encoding="utf-8")
    (path / "config.json").write_text(config, encoding="utf-8")
    assert SentencePieceTokenizer.from_pretrained(path).fingerprint == golden.tokenizer.fingerprint
    return transformers.AutoTokenizer.from_pretrained(path)


def test_golden_ids(golden: Golden) -> None:
    assert len(golden.texts) == 3106
    assert golden.tokenizer.encode_batch(golden.texts, num_threads=2) == golden.ids
    assert [golden.tokenizer.encode(text) for text in golden.texts] == golden.ids


def test_golden_special_ids(golden: Golden) -> None:
    tokenizer = golden.tokenizer
    ids = [tokenizer.unk_id, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id]
    assert ids == [0, 1, 2, 3] and tokenizer.encode("[MASK]") == [2, 4, 3]
    assert len(tokenizer) == 8002


def test_golden_pairs(golden: Golden) -> None:
    for first, second, a, b in zip(golden.texts, golden.texts[1:], golden.ids, golden.ids[1:], strict=False):
        ids, types = golden.tokenizer.encode_pair(first, second)
        assert ids == a + b[1:]
        assert types == [0] * len(a) + [1] * (len(b) - 1)


def test_offsets_of_golden_texts(golden: Golden) -> None:
    normalize = golden.tokenizer._processor.normalize
    for text, expected in zip(golden.texts, golden.ids, strict=True):
        ids, spans = golden.tokenizer.encode_with_offsets(text)
        assert ids.tolist() == expected[1:-1]
        pieces = pieces_of(golden.tokenizer, ids.tolist())
        for piece, (start, end) in zip(pieces, spans.tolist(), strict=True):
            if piece != "[UNK]":
                assert piece.removeprefix("▁") in normalize(preprocess(text[start:end]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("정육점을 한국어", [("▁정", "정"), ("육", "육"), ("점을", "점을"), ("▁한국", "한국"), ("어", "어")]),
        ("ﬁ", [("▁", ""), ("f", "ﬁ"), ("i", "ﬁ")]),
        ("㈜한국", [("▁(", "㈜"), ("주", "㈜"), (")", "㈜"), ("한국", "한국")]),
        ("e\u0301 \u1112\u1161\u11ab", [("▁", ""), ("e", "e\u0301"), ("▁한", "\u1112\u1161\u11ab")]),
        ("가``ㅁ", [("▁", ""), ("가", "가"), ('"', "``"), ("[UNK]", "ㅁ")]),
        ("a[SEP]가", [("▁", ""), ("a", "a"), ("[SEP]", "[SEP]"), ("▁", ""), ("가", "가")]),
        ("ㅋㅠ…", [("▁", ""), ("큐", "ㅋㅠ"), ("...", "…")]),
        ("ｶﾞ 株", [("▁", ""), ("[UNK]", "ｶﾞ"), ("▁", ""), ("株", "株")]),
    ],
)
def test_offsets_by_example(shared: Path, text: str, expected: list[tuple[str, str]]) -> None:
    tokenizer = SentencePieceTokenizer.from_pretrained(shared / "models/skt-kobert-base-v1")
    ids, spans = tokenizer.encode_with_offsets(text)
    pieces = pieces_of(tokenizer, ids.tolist())
    assert [(p, text[a:b]) for p, (a, b) in zip(pieces, spans.tolist(), strict=True)] == expected


def test_exported_ids(golden: Golden, auto: Any) -> None:
    found = auto(golden.texts)["input_ids"]
    differing = [(a, b) for a, b in zip(found, golden.ids, strict=True) if a != b]
    assert len(differing) == EXPORTED_TIES
    dots = {i for i in range(8002) if set(pieces_of(golden.tokenizer, [i])[0]) == {"."}}
    for a, b in differing:
        assert sorted(a) == sorted(b)
        assert all({x, y} <= dots for x, y in zip(a, b, strict=True) if x != y)


def test_exported_pairs(golden: Golden, auto: Any) -> None:
    alone = [ids == found for ids, found in zip(golden.ids, auto(golden.texts)["input_ids"], strict=True)]
    found = auto(golden.texts[:-1], golden.texts[1:], padding=True)
    for i, (ids, types) in enumerate(zip(found["input_ids"], found["token_type_ids"], strict=True)):
        expected_ids, expected_types = golden.tokenizer.encode_pair(golden.texts[i], golden.texts[i + 1])
        padding = len(ids) - len(expected_ids)
        assert types == expected_types + [0] * padding
        if alone[i] and alone[i + 1]:
            assert ids == expected_ids + [1] * padding
