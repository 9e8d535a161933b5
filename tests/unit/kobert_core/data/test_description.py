"""What is told of texts before they are trained on: counts that are right by another way of counting."""

from __future__ import annotations

from pathlib import Path

import pytest

from kobert_core.data.description import (
    PAIR_ENDS,
    describe_texts,
    leaked,
    near_form,
    table_of,
    table_of_lengths,
    unknown_characters,
)
from kobert_core.tokenization import Tokenizer
from tests.fixtures.tokenizers import TEXTS, kobert, wordpiece


@pytest.fixture(params=[kobert, wordpiece])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    made: Tokenizer = request.param(tmp_path)
    return made


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("정말 좋았다!", "정말좋았다"),
        ("ㅋㅋㅋㅋ 웃기다", "ㅋㅋ웃기다"),
        ("좋아아아아", "좋아~"),
        ("ＧＯＯＤ 영화", "good영화"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
        ("… 별로 ♥", "별로"),
    ],
)
def test_texts_that_differ_in_form_are_nearly_the_same(one: str, other: str) -> None:
    assert near_form(one) == near_form(other) != ""


@pytest.mark.parametrize(
    ("one", "other"), [("좋다", "싫다"), ("10점", "100점"), ("!!!", "ㅠㅠ"), ("!!", "♥"), ("3.5점", "4.5점")]
)
def test_texts_that_say_something_else_are_not(one: str, other: str) -> None:
    assert near_form(one) != near_form(other)


def test_the_texts_of_a_pair_stay_apart() -> None:
    table = table_of([("가 나", "다"), ("가", "나 다"), (" 가 나", "다 "), ("가나", "다!")])
    assert table["exact"].duplicated().tolist() == [False, False, True, False]
    assert table["near"].duplicated().tolist() == [False, False, True, True]
    assert table["near"][0] == f"가나{PAIR_ENDS}다"


def test_leaks_are_counted_to_the_letter_and_nearly() -> None:
    train = [("좋았다",), ("별로",), ("최고!",)]
    assert leaked(train, [("좋았다 ",), ("별로!!",), ("최고",), ("새로운 글",)]) == {"rows": 4, "exact": 1, "near": 3}
    assert leaked(train, []) == {"rows": 0, "exact": 0, "near": 0}


def test_lengths_are_those_of_examples(tokenizer: Tokenizer) -> None:
    rows = [(TEXTS[0],), (TEXTS[1],)]
    table = table_of_lengths(rows, tokenizer)
    assert table["characters"].tolist() == [len(text) for (text,) in rows]
    ids, bounds = tokenizer.encode_batch_flat([text for (text,) in rows])
    assert table["pieces"].tolist() == [bounds[1] + 2, bounds[2] - bounds[1] + 2]
    assert table["unknown"].tolist() == [0, 0] and tokenizer.unk_id not in ids
    pair = table_of_lengths([(TEXTS[0], TEXTS[1])], tokenizer)
    assert pair["pieces"].tolist() == [len(tokenizer.encode_pair(TEXTS[0], TEXTS[1])[0])]


def test_a_description_has_what_is_unknown_and_what_is_cut_off(tokenizer: Tokenizer) -> None:
    long = " ".join(TEXTS * 3)
    rows = [(TEXTS[0],), (TEXTS[0],), (f"{TEXTS[1]} 뷁",), (long,)]
    found = describe_texts(rows, tokenizer)
    pieces = table_of_lengths(rows, tokenizer)["pieces"]
    assert found["rows"] == 4 and found["duplicates"] == {"exact": 1, "near": 1}
    assert found["longer_than"] == {str(limit): (pieces > limit).mean() for limit in (32, 64, 128, 256, 512)}
    assert found["longer_than"]["32"] == 0.25  # type: ignore[index]
    assert found["unknown"] == {
        "rate": pytest.approx(1 / (pieces - 2).sum(), abs=1e-6),
        "rows": 0.25,
        "characters": {"뷁": 1},
    }
    first, middle, last = found["samples"]  # type: ignore[misc]
    assert first["text"] == TEXTS[0] and "".join(first["pieces"][0].split(" | ")) == TEXTS[0].replace(" ", "")
    assert middle["text"] == TEXTS[0] or "[UNK 뷁]" in middle["pieces"][0]
    assert len(last["text"]) <= 201


def test_a_word_of_known_characters_that_is_unknown_is_named_as_it_is(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    word = "영" * 150  # longer than WordPiece takes a word
    assert unknown_characters([(word,), ("뷁 뷁",), ("뷁",)], tokenizer) == {"뷁": 3, "영" * 20: 1}
