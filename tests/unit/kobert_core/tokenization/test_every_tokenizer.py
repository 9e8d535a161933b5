"""What tasks, caches and exports ask of a tokenizer, asked of each kind that there is."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kobert_core.config import ModelConfig
from kobert_core.models.backbone import encoder_config
from kobert_core.tasks.labelled_texts.examples import TextExamples, tokenize
from kobert_core.tokenization import Tokenizer
from tests.fixtures.tokenizers import TEXTS, TOKENIZERS

KOREAN = st.text(st.sampled_from(sorted({*"".join(TEXTS), *"ㅋ漢😀é \t\n.[]"})), max_size=30)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return TOKENIZERS[request.param](tmp_path_factory.mktemp("tokenizer"))


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_batch_flat([text])[0].tolist()


def test_its_special_tokens_are_four_of_its_own(tokenizer: Tokenizer) -> None:
    special = {tokenizer.unk_id, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id}
    assert len(special) == 4 and special <= set(range(len(tokenizer)))
    assert tokenizer.unk_id in ids_of(tokenizer, "漢字")
    assert not special & set(ids_of(tokenizer, TEXTS[0]))


def test_texts_side_by_side_have_the_ids_of_each_alone(tokenizer: Tokenizer) -> None:
    texts = [*TEXTS, "", "  ", "漢字", TEXTS[0] * 50]
    ids, bounds = tokenizer.encode_batch_flat(texts)
    assert (ids.dtype, ids.shape) == (np.int32, (bounds[-1],)) and (bounds.dtype, bounds[0]) == (np.int64, 0)
    alone = [ids_of(tokenizer, text) for text in texts]
    assert [ids[start:end].tolist() for start, end in itertools.pairwise(bounds)] == alone
    assert all(alone[: len(TEXTS)]) and ids.min() >= 0 and ids.max() < len(tokenizer)
    nothing = tokenizer.encode_batch_flat([])
    assert nothing[0].shape == (0,) and nothing[1].tolist() == [0]


@settings(deadline=None, max_examples=100)
@given(st.lists(KOREAN, max_size=4))
def test_offsets_lie_in_order_in_their_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, bounds, offsets = tokenizer.encode_batch_with_offsets(texts)
    flat = tokenizer.encode_batch_flat(texts)
    assert ids.tolist() == flat[0].tolist() and bounds.tolist() == flat[1].tolist()
    assert (offsets.dtype, offsets.shape) == (np.int32, (len(ids), 2))
    for text, begin, end in zip(texts, bounds, bounds[1:], strict=False):
        starts, ends = offsets[begin:end].T
        assert (starts <= ends).all() and (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all()
        assert (starts >= 0).all() and (ends <= len(text)).all()


def test_tokens_cover_all_but_the_blanks(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        _, _, offsets = tokenizer.encode_batch_with_offsets([text])
        covered = {place for start, end in offsets.tolist() for place in range(start, end)}
        assert covered == {place for place, character in enumerate(text) if character != " "}


def test_a_pair_is_both_texts_between_the_special_tokens(tokenizer: Tokenizer) -> None:
    first, second = ids_of(tokenizer, TEXTS[1]), ids_of(tokenizer, TEXTS[0])
    ids, types = tokenizer.encode_pair(TEXTS[1], TEXTS[0])
    between = [tokenizer.sep_id] * tokenizer.pair_separators
    assert ids == [tokenizer.cls_id, *first, *between, *second, tokenizer.sep_id]
    assert types == [0] * (len(first) + 1 + len(between)) + [tokenizer.pair_type] * (len(second) + 1)
    assert tokenizer.encode_pair(TEXTS[1], TEXTS[0], len(ids)) == (ids, types)
    room = len(ids) - 2
    assert len(first) - 2 >= len(second), "the longer one can lose two"
    cut, cut_types = tokenizer.encode_pair(TEXTS[1], TEXTS[0], room)
    assert cut == [tokenizer.cls_id, *first[:-2], *between, *second, tokenizer.sep_id]
    assert len(cut_types) == room and sum(cut_types) == tokenizer.pair_type * (len(second) + 1)


def test_another_process_has_the_same(tokenizer: Tokenizer) -> None:
    copy: Tokenizer = pickle.loads(pickle.dumps(tokenizer))
    assert (copy.fingerprint, len(copy)) == (tokenizer.fingerprint, len(tokenizer))
    assert ids_of(copy, TEXTS[1]) == ids_of(tokenizer, TEXTS[1])


def test_no_two_have_one_fingerprint(tmp_path: Path) -> None:
    made = [make(tmp_path / str(number)) for number, make in enumerate(TOKENIZERS.values())]
    assert len({one.fingerprint for one in made}) == len(made)


def test_transformers_loads_what_it_saves(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertConfig

    tokenizer.save_pretrained(tmp_path)
    BertConfig().to_json_file(tmp_path / "config.json")
    auto = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    encoded = auto(TEXTS[0], TEXTS[2])
    ids, types = tokenizer.encode_pair(TEXTS[0], TEXTS[2])
    assert (encoded["input_ids"], encoded.get("token_type_ids", [0] * len(ids))) == (ids, types)
    special = [auto.unk_token_id, auto.pad_token_id, auto.cls_token_id, auto.sep_token_id]
    assert special == [tokenizer.unk_id, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id]


def test_a_task_and_an_encoder_take_it(tokenizer: Tokenizer) -> None:
    config = encoder_config(ModelConfig(init="random", tokenizer="."), tokenizer, longest=16)
    assert (config.vocab_size, config.pad_token_id) == (len(tokenizer), tokenizer.pad_id)
    examples = TextExamples(**tokenize(TEXTS, np.zeros(len(TEXTS)), tokenizer), tokenizer=tokenizer, max_length=16)
    ids = examples.batch(np.array([0])).inputs["input_ids"].tolist()
    assert ids == [tokenizer.cls_id, *ids_of(tokenizer, TEXTS[0])[:14], tokenizer.sep_id]
