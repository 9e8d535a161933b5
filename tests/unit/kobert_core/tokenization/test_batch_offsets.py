"""`encode_batch_with_offsets` is `encode_with_offsets` of every text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kobert_core.tokenization import SentencePieceTokenizer

PARTS = [
    "정육점을", " ", "  ", "\t", "\u3000", "\u00a0", "a", "É", "麤", "麤龘", "뷁", "《",
    "·", "ㅋ", "e\u0301", "ﬁ", "㈜", "①", "…", "''", "``", "[UNK]", "[", "▁",
    "\u1112\u1161\u11ab", "カ", "が", "か\u3099", "ｶ", "Ω", "〜", "\u200b", "👍🏽", "¼",
    "ﾞ",
]  # fmt: skip


@pytest.fixture(scope="module", params=["skt-kobert-base-v1", "monologg-kobert"])
def tokenizer(shared: Path, request: pytest.FixtureRequest) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.from_pretrained(shared / "models" / request.param)


def assert_the_same(tokenizer: SentencePieceTokenizer, texts: list[str]) -> None:
    ids, bounds, offsets = tokenizer.encode_batch_with_offsets(texts)
    assert len(bounds) == len(texts) + 1
    for text, start, end in zip(texts, bounds[:-1], bounds[1:], strict=True):
        own_ids, own_offsets = tokenizer.encode_with_offsets(text)
        assert np.array_equal(ids[start:end], own_ids), text
        assert np.array_equal(offsets[start:end], own_offsets), text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.lists(st.sampled_from(PARTS) | st.text(max_size=3)).map("".join), max_size=4))
def test_any_texts(tokenizer: SentencePieceTokenizer, texts: list[str]) -> None:
    assert_the_same(tokenizer, texts)


def test_every_character_of_the_plane_0(tokenizer: SentencePieceTokenizer) -> None:
    codes = [*range(0x20, 0xD800), *range(0xE000, 0x10000)]
    assert_the_same(tokenizer, [f"가 {chr(code)}나 a{chr(code)}{chr(code)} 뷁{chr(code)}" for code in codes[::7]])


def test_real_contexts(tokenizer: SentencePieceTokenizer, shared: Path) -> None:
    content = json.loads((shared / "data/korquad/KorQuAD_v1.0_dev.json").read_text(encoding="utf-8"))
    assert_the_same(tokenizer, [one["context"] for article in content["data"] for one in article["paragraphs"]])
