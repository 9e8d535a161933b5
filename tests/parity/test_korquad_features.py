"""The features of transformers 4.46's `squad_convert_examples_to_features`, for the first 120 questions of KorQuAD."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kobert_core.code_points import strings
from kobert_core.tasks.question_answering.squad import read_squad
from kobert_core.tasks.question_answering.windows import WindowExamples
from kobert_core.tokenization import SentencePieceTokenizer
from tests.fixtures.squad import make_examples
from tests.fixtures.tokens import pieces_of


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.from_pretrained(shared / "models/skt-kobert-base-v1")


@pytest.fixture(scope="module")
def examples(shared: Path, tokenizer: SentencePieceTokenizer) -> WindowExamples:
    return make_examples(tokenizer, read_squad(shared / "data/korquad/KorQuAD_v1.0_dev.json")).take(np.arange(120))


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden/korquad_features_skt.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def features(examples: WindowExamples) -> dict[str, np.ndarray]:
    return examples.features(np.arange(len(examples)))


def test_the_same_windows(examples: WindowExamples, golden: dict[str, np.ndarray]) -> None:
    assert len(examples) == 136
    assert examples.texts["ids"][examples.question].tolist() == golden["qas_id"].tolist()


@pytest.mark.parametrize(
    "name", ["input_ids", "attention_mask", "token_type_ids", "p_mask", "cls_index", "is_impossible"]
)
def test_the_same_values(features: dict[str, np.ndarray], golden: dict[str, np.ndarray], name: str) -> None:
    ours = features[name]
    assert np.array_equal(ours, golden[name][:, : ours.shape[1]] if ours.ndim == 2 else golden[name])


def test_positions_differ_only_where_the_original_takes_more_than_the_answer(
    examples: WindowExamples,
    features: dict[str, np.ndarray],
    golden: dict[str, np.ndarray],
    tokenizer: SentencePieceTokenizer,
) -> None:
    """Of 136 windows 117 are the same.

    The original looks for the answer's own pieces among those of its words. Where they are not found, as in
    `"외교 정책의 아마추어"로`, it takes the words whole (10 windows); and a piece that is only the blank before a
    word belongs to the answer (9 windows).
    """
    contexts = strings(examples.texts["codes"], examples.texts["starts"])
    kinds: Counter[str] = Counter()
    for row in range(len(examples)):
        ours = features["start_positions"][row], features["end_positions"][row]
        theirs = golden["start_position"][row], golden["end_position"][row]
        if ours == theirs:
            kinds["the same"] += 1
            continue
        assert theirs[0] <= ours[0] <= ours[1] <= theirs[1], "the original takes more"
        question = examples.question[row]
        start, end = examples.texts["targets"][question] - examples.texts["starts"][examples.texts["context"][question]]
        context = contexts[examples.texts["context"][question]]
        offsets = features["offsets"][row]
        assert offsets[ours[0], 0] <= start < offsets[ours[0], 1], "our first piece has a character of the answer"
        assert offsets[ours[1], 0] < end <= offsets[ours[1], 1], "our last piece has a character of the answer"
        ids = features["input_ids"][row]
        more = [*ids[theirs[0] : ours[0]], *ids[ours[1] + 1 : theirs[1] + 1]]
        only_blank = pieces_of(tokenizer, more) == ["▁"]
        cut = context[offsets[theirs[0], 0] : offsets[theirs[1], 1]]
        assert only_blank or cut != context[start:end], "what it takes more is no part of the answer"
        kinds["a blank more" if only_blank else "whole words"] += 1
    assert kinds == {"the same": 117, "whole words": 10, "a blank more": 9}


def test_whole_contexts_differ_from_word_by_word_in_ties_alone(shared: Path, tokenizer: SentencePieceTokenizer) -> None:
    """The original tokenizes word by word: 7 of 964 contexts differ, each in where `000` is cut."""
    contexts = read_squad(shared / "data/korquad/KorQuAD_v1.0_dev.json").contexts
    whole = tokenizer.encode_batch_flat(contexts)
    words = [context.split() for context in contexts]
    by_word = tokenizer.encode_batch_flat([word for one in words for word in one])
    bounds = by_word[1][np.cumsum([0, *map(len, words)])]
    differing = 0
    for number in range(len(contexts)):
        ours = whole[0][whole[1][number] : whole[1][number + 1]].tolist()
        theirs = by_word[0][bounds[number] : bounds[number + 1]].tolist()
        if ours != theirs:
            differing += 1
            assert sorted(ours) == sorted(theirs), "the same pieces in another order"
    assert differing == 7
