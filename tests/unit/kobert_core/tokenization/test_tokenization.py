"""SentencePieceTokenizer on a small model that is trained here; the real models are in tests/parity."""

from __future__ import annotations

import io
import pickle
import random
import re
import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from kobert_core.errors import InputError
from kobert_core.tokenization import SentencePieceTokenizer
from kobert_core.tokenization.preprocessing import not_plain, preprocess, preprocess_with_positions
from tests.fixtures.tokens import pieces_of

CORPUS = [
    "정말 재미있는 영화였어요. 배우들의 연기가 좋았다!",
    "별로였다 - 시간이 아깝다, 돈도 아깝다",
    "ㅋㅋㅋ 웃겨서 죽는 줄 ㅠㅠ 큐 하하",
    "감동적인 이야기 (1998년) 주인공 fi ga 1,000원",
    'He said "good" 한국어 모델을 공유합니다. 정육점을 대통령이',
] * 6

# Each of these has its own way through normalisation.
HOSTILE = st.lists(
    st.sampled_from(
        [
            *"가각한글영화 ,.1aA\"'`[]ㅋㅠㄱㅏㄳㄻ\t\n\r\x00\x0b\x1c\x85\xa0\u3000",
            *"\u200b\u200d\ufeff\u2581\ufffd",
            *"\u1112\u1161\u11ab\u11a8e\u0301\u0344\ufe0f\u20e3\u3164\u202e’♥😀👩👧🏻",
            *"ﷺ㈜ﬁ½…™①Ａ［ｱｶﾞﾟ゛が漢株ःกำ",
            *["``", "''", "[MASK]", "[SEP]", "[UNK]", "정육점을", "\u1112\u1161\u11ab", "  "],
        ]
    )
    | st.characters(),
    max_size=25,
).map("".join)


WITHOUT_SURROGATES = HOSTILE.filter(lambda text: not re.search("[\ud800-\udfff]", text))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    SentencePieceTokenizer.train(CORPUS, path, vocab_size=90)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def monologg_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The other layout: a model without the special tokens, and a vocabulary in another order."""
    path = tmp_path_factory.mktemp("monologg")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=90,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (path / "tokenizer_78b3253a26.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(3, len(processor))]
    vocab = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *sorted(pieces)]
    (path / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    return path


# Training


def test_trained_special_ids_are_those_of_skt(tokenizer: SentencePieceTokenizer) -> None:
    ids = [tokenizer.unk_id, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id]
    assert ids == [0, 1, 2, 3]
    assert pieces_of(tokenizer, range(5)) == ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.encode("[MASK]") == [2, 4, 3]
    assert len(tokenizer) == tokenizer.vocab_size == 90


def test_the_same_contents_are_the_same_tokenizer(
    folder: Path, tmp_path: Path, tokenizer: SentencePieceTokenizer
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert SentencePieceTokenizer.from_pretrained(tmp_path / "copy") is SentencePieceTokenizer.from_pretrained(folder)
    other = SentencePieceTokenizer.train(CORPUS[1:], tmp_path / "copy", vocab_size=88)
    assert (
        SentencePieceTokenizer.from_pretrained(tmp_path / "copy").fingerprint
        == other.fingerprint
        != tokenizer.fingerprint
    )


def test_training_is_deterministic_and_quiet(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    SentencePieceTokenizer.train(iter(CORPUS), tmp_path / "new", vocab_size=90)
    assert (tmp_path / "new/spiece.model").read_bytes() == (folder / "spiece.model").read_bytes()
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["spiece.model"]


def test_training_a_small_corpus_with_a_large_vocab_size(tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer.train(CORPUS, tmp_path, vocab_size=8002)
    assert 90 < len(tokenizer) < 200
    assert tokenizer.decode(tokenizer.encode("정말 좋았다!")) == "정말 좋았다!"


@pytest.mark.parametrize(("texts", "vocab_size"), [([], 100), (["  ", "\u0301"], 100), (CORPUS, 6)])
def test_training_refuses(texts: list[str], vocab_size: int, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        SentencePieceTokenizer.train(texts, tmp_path, vocab_size)
    assert not (tmp_path / "spiece.model").exists()


# Ids


def test_encode_single_and_pair(tokenizer: SentencePieceTokenizer) -> None:
    first, second = tokenizer.encode("정말 좋았다"), tokenizer.encode("별로")
    assert first[0] == 2 and first[-1] == 3
    assert tokenizer.encode("") == [2, 3]
    assert tokenizer.encode("정말 좋았다", "별로") == first + second[1:]
    ids, types = tokenizer.encode_pair("정말 좋았다", "별로")
    assert ids == first + second[1:]
    assert types == [0] * len(first) + [1] * (len(second) - 1)


def test_special_tokens_in_a_text_cut_it(tokenizer: SentencePieceTokenizer) -> None:
    inner = [tokenizer.encode(part)[1:-1] for part in ("정말", "좋았다")]
    assert tokenizer.encode("정말[SEP]좋았다[UNK][MASK]") == [2, *inner[0], 3, *inner[1], 0, 4, 3]


def test_quotes_marks_and_blanks_are_normalised(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.encode("``good''") == tokenizer.encode('"good"')
    assert tokenizer.encode("go\u0301od") == tokenizer.encode("good")
    assert tokenizer.encode(" \x1cgood\x0b\t said\u3000") == tokenizer.encode("good said")
    assert tokenizer.encode(unicodedata.normalize("NFD", "정육점을")) == tokenizer.encode("정육점을")
    assert tokenizer.encode("good\ud800") == tokenizer.encode("good")  # half of a surrogate pair


@settings(deadline=None)
@given(st.lists(HOSTILE, max_size=6), st.sampled_from([1, 2]))
def test_batch_flat_and_single_agree(tokenizer: SentencePieceTokenizer, texts: list[str], threads: int) -> None:
    singles = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts, num_threads=threads) == singles
    flat, bounds = tokenizer.encode_batch_flat(texts, num_threads=threads)
    assert flat.dtype == np.int32 and bounds.dtype == np.int64 and len(bounds) == len(texts) + 1
    assert [flat[a:b].tolist() for a, b in pairwise(bounds)] == [s[1:-1] for s in singles]


def test_max_length_cuts_the_tail_of_a_single_text(tokenizer: SentencePieceTokenizer) -> None:
    ids = tokenizer.encode(CORPUS[0])
    assert tokenizer.encode(CORPUS[0], max_length=len(ids)) == ids
    assert tokenizer.encode(CORPUS[0], max_length=7) == [*ids[:6], 3]
    assert tokenizer.encode_batch([CORPUS[0], ""], max_length=2) == [[2, 3], [2, 3]]
    for refused in (lambda: tokenizer.encode("가", max_length=1), lambda: tokenizer.encode("가", "나", 2)):
        with pytest.raises(InputError, match="leaves no room"):
            refused()


def test_decode(tokenizer: SentencePieceTokenizer) -> None:
    ids = tokenizer.encode("정말 좋았다", "별로")
    assert tokenizer.decode(ids) == "정말 좋았다 별로"
    assert tokenizer.decode([2, 3, 4, 1], skip_special_tokens=False) == "[CLS][SEP][MASK][PAD]"


# The short cut for plain text


def test_plain_characters_need_no_preprocessing(tokenizer: SentencePieceTokenizer) -> None:
    plain = [chr(code) for code in range(0xD800) if not not_plain([chr(code)])]
    assert len(plain) > 30_000
    normalize = tokenizer._processor.normalize
    others = [c for c in plain if not ("가" <= c <= "힣" or "ㄱ" <= c <= "ㅣ")]
    assert [c for c in others if preprocess(c) != c and not c.isspace()] == []
    jamo = [c for c in plain if "ㄱ" <= c <= "ㅣ"]
    open_syllables = [chr(code) for code in range(ord("가"), ord("힣") + 1, 28)]
    texts = [a + b + c for a in jamo for b in jamo for c in ("", "ㅏ", "ㄱ", "가")]
    texts += [a + b for a in open_syllables for b in jamo]
    rng = random.Random(0)
    texts += ["".join(rng.choices(plain, k=8)) for _ in range(5000)]
    texts += ["".join(rng.choices([*jamo, *open_syllables, "a", " "], k=8)) for _ in range(20_000)]
    differing = [t for t in texts if not not_plain([t]) and normalize(t) != normalize(preprocess(t))]
    assert differing == []


def test_not_plain_names_the_texts() -> None:
    texts = ["보통 it's (1)", "ﬁ", "", "``", "'", "'", "a''", "", "[MASK]", "😀", "하ㄳ", "끝"]
    assert not_plain(texts) == [1, 3, 6, 8, 9, 10]
    assert not_plain([]) == []


def original_steps(text: str) -> str:
    """`XLNetTokenizer.preprocess_text` of transformers 4.46, with `keep_accents` off and `remove_space` on."""
    text = " ".join(text.strip().split()).replace("``", '"').replace("''", '"')
    text = unicodedata.normalize("NFKD", text)
    return "".join(c for c in text if not unicodedata.combining(c))


@settings(max_examples=1000, deadline=None)
@given(WITHOUT_SURROGATES)
def test_preprocess_as_the_original(tokenizer: SentencePieceTokenizer, text: str) -> None:
    normalize = tokenizer._processor.normalize
    assert normalize(preprocess(text)) == normalize(original_steps(text))
    prepared, positions = preprocess_with_positions(text)
    if positions is None:
        assert prepared == text and not_plain([text]) == []
    else:
        assert len(positions) == len(prepared) + 1 and positions[-1] == len(text)
        assert (np.diff(positions) >= 0).all() and positions[0] >= 0


def test_preprocess_beside_hangul_as_the_original(tokenizer: SentencePieceTokenizer) -> None:
    """What NFKD changes, and all jamo, between Hangul: nothing joins that the original does not join."""
    normalize = tokenizer._processor.normalize
    jamo = map(chr, range(0x1100, 0x1200))
    changed = (c for c in map(chr, range(0x30000)) if unicodedata.decomposition(c))
    texts = [f"하{c}가 ㄱ{c}ㅏ" for c in chain(jamo, changed)]
    differing = [text for text in texts if normalize(preprocess(text)) != normalize(original_steps(text))]
    assert differing == []


# Offsets


def surfaces(tokenizer: SentencePieceTokenizer, text: str) -> list[tuple[str, str]]:
    ids, spans = tokenizer.encode_with_offsets(text)
    pieces = pieces_of(tokenizer, ids.tolist())
    return [(piece, text[start:end]) for piece, (start, end) in zip(pieces, spans.tolist(), strict=True)]


def assert_offsets_hold(tokenizer: SentencePieceTokenizer, text: str) -> None:
    ids, spans = tokenizer.encode_with_offsets(text)
    assert ids.dtype == spans.dtype == np.int32 and spans.shape == (len(ids), 2)
    assert ids.tolist() == tokenizer.encode(text)[1:-1]
    starts, ends = spans[:, 0], spans[:, 1]
    assert (starts >= 0).all() and (starts <= ends).all() and (ends <= len(text)).all()
    assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all()

    covered = {position for start, end in spans.tolist() for position in range(start, end)}
    boundaries = set(starts.tolist()) | set(ends.tolist())
    for position, character in enumerate(text):
        if set(tokenizer.encode(character)[1:-1]):  # by itself it gives a piece
            assert position in covered, (text, position)
        follows = position > 0 and text[position - 1] != "]"  # a special token has no marks
        if follows and unicodedata.combining(character):
            assert position not in boundaries, (text, position)

    for piece, surface in surfaces(tokenizer, text):
        if piece in ("[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]"):
            assert surface
        else:  # what the span holds does become the piece
            normalised = tokenizer._processor.normalize(preprocess(surface))
            assert piece.removeprefix("▁") in normalised, (text, piece, surface)
            assert piece == "▁" or surface == surface.strip()


@settings(max_examples=600, deadline=None)
@given(HOSTILE)
def test_offsets_on_hostile_text(tokenizer: SentencePieceTokenizer, text: str) -> None:
    assert_offsets_hold(tokenizer, text)


@settings(deadline=None)
@given(HOSTILE)
def test_offsets_of_the_other_layout(monologg_folder: Path, text: str) -> None:
    assert_offsets_hold(SentencePieceTokenizer.from_pretrained(monologg_folder), text)


@pytest.mark.parametrize("text", ["", "\u200b \t", "\u0301"])
def test_offsets_of_nothing(tokenizer: SentencePieceTokenizer, text: str) -> None:
    ids, spans = tokenizer.encode_with_offsets(text)
    assert ids.shape == (0,) and spans.shape == (0, 2)


def test_offsets_of_a_long_text(tokenizer: SentencePieceTokenizer) -> None:
    text = "정육점을 e\u0301😀 ㈜영화\t" * 1600
    assert len(text) > 20_000
    assert_offsets_hold(tokenizer, text)


# Identity: workers, caches, files


def test_pickled_and_shared_by_threads(tokenizer: SentencePieceTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    expected = tokenizer.encode_batch(CORPUS)
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode_batch(CORPUS) == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode, CORPUS)) == expected


def test_fingerprint_follows_what_ids_depend_on(tmp_path: Path, tokenizer: SentencePieceTokenizer) -> None:
    other = SentencePieceTokenizer.train(CORPUS, tmp_path, vocab_size=88)
    model = (tmp_path / "spiece.model").read_bytes()
    tokens = pieces_of(other, range(len(other)))
    with_vocab = SentencePieceTokenizer(model, [*tokens[:5], *reversed(tokens[5:])])
    assert len({tokenizer.fingerprint, other.fingerprint, with_vocab.fingerprint}) == 3
    assert len(tokenizer.fingerprint) == 64


def test_vocab_line_numbers_are_ids(monologg_folder: Path) -> None:
    tokenizer = SentencePieceTokenizer.from_pretrained(monologg_folder)
    vocab = (monologg_folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    alone = sentencepiece.SentencePieceProcessor(model_file=str(monologg_folder / "tokenizer_78b3253a26.model"))
    for text in CORPUS[:5]:
        pieces = alone.encode(text, out_type=str)
        assert tokenizer.encode(text)[1:-1] == [vocab.index(piece) for piece in pieces]
    assert tokenizer.encode("漢")[-2] == tokenizer.unk_id


def test_pieces_outside_the_vocabulary_are_unknown(monologg_folder: Path) -> None:
    model = (monologg_folder / "tokenizer_78b3253a26.model").read_bytes()
    vocab = (monologg_folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    whole = SentencePieceTokenizer(model, vocab)
    gone = whole.encode("영화")[-2]
    assert gone > 4
    less = SentencePieceTokenizer(model, vocab[:gone] + vocab[gone + 1 :])
    expected = [0 if i == gone else i - (i > gone) for i in whole.encode("영화, 정말")]
    assert less.encode("영화, 정말") == expected and 0 in expected
    assert less.encode_with_offsets("영화, 정말")[0].tolist() == expected[1:-1]
    texts = ["영화, 정말 " * 50, "", "영화"]  # long on average, which come as arrays
    ids, bounds = less.encode_batch_flat(texts)
    for text, begin, end in zip(texts, bounds[:-1], bounds[1:], strict=True):
        assert ids[begin:end].tolist() == less.encode(text)[1:-1]
    with pytest.raises(InputError, match="lacks 1 pieces"):
        less.save_pretrained(monologg_folder / "out")


# Export


@pytest.fixture(scope="module", params=["folder", "monologg_folder"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tokenizer, and what AutoTokenizer makes of its exported folder (beside a BERT config)."""
    transformers = pytest.importorskip("transformers")
    original = SentencePieceTokenizer.from_pretrained(request.getfixturevalue(request.param))
    path = tmp_path_factory.mktemp("exported")
    original.save_pretrained(path)
    (path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    again = SentencePieceTokenizer.from_pretrained(path)
    assert again.fingerprint == original.fingerprint
    return again, transformers.AutoTokenizer.from_pretrained(path)


def test_exported_specials_and_padding(exported: tuple[Any, Any]) -> None:
    tokenizer, auto = exported
    assert (auto.unk_token_id, auto.pad_token_id, auto.cls_token_id) == (0, 1, 2)
    assert (auto.sep_token_id, auto.mask_token_id) == (3, 4)
    assert auto.model_max_length == 512 and len(auto) == len(tokenizer) and auto.padding_side == "right"
    batch = auto(["정말", CORPUS[0]], ["별로", "줄"], padding=True)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
    ids, types = tokenizer.encode_pair("정말", "별로")
    width = len(batch["input_ids"][1])
    assert batch["input_ids"][0] == ids + [1] * (width - len(ids))
    assert batch["token_type_ids"][0] == types + [0] * (width - len(ids))
    assert batch["attention_mask"][0] == [1] * len(ids) + [0] * (width - len(ids))
    assert auto.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


@settings(max_examples=400, deadline=None)
@given(WITHOUT_SURROGATES)
def test_exported_ids(exported: tuple[Any, Any], text: str) -> None:
    tokenizer, auto = exported
    assert_same_but_for_known(tokenizer, auto, text)


def assert_same_but_for_known(tokenizer: SentencePieceTokenizer, auto: Any, text: str) -> None:
    ours, theirs = tokenizer.encode(text), auto(text)["input_ids"]
    newer = any(auto.backend_tokenizer.normalizer.normalize_str(c).strip() != _alone(tokenizer, c) for c in text)
    if not newer:  # characters of a Unicode that `tokenizers` does not know
        assert sorted(ours) == sorted(theirs)  # of equal score, the order may differ


def _alone(tokenizer: SentencePieceTokenizer, character: str) -> str:
    normalised: str = tokenizer._processor.normalize(preprocess(character))
    return normalised.replace("▁", " ").strip()


@settings(deadline=None)
@given(
    st.integers(0, 12).flatmap(lambda n: st.sampled_from(["정말 " * n, "가" * n, "영화 좋았다 " * n])),
    st.integers(1, 12).flatmap(lambda n: st.sampled_from(["별로 " * n, "각" * n])),
    st.integers(4, 24),
)
def test_truncation_as_longest_first(exported: tuple[Any, Any], first: str, second: str, max_length: int) -> None:
    tokenizer, auto = exported
    expected = auto(first, second, truncation="longest_first", max_length=max_length)
    ids, types = tokenizer.encode_pair(first, second, max_length)
    assert (ids, types) == (expected["input_ids"], expected["token_type_ids"])
    single = auto(first, truncation=True, max_length=max_length)["input_ids"]
    assert tokenizer.encode(first, max_length=max_length) == single


# Bad input: one clear line


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_folder_or_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder") as error:
        SentencePieceTokenizer.from_pretrained(tmp_path / "missing")
    assert str(tmp_path / "missing") in one_line(error)
    with pytest.raises(InputError, match=r"no tokenizer files; expected spiece.model") as error:
        SentencePieceTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in one_line(error)


def test_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="skt/no-such-kobert: no such folder here") as error:
        SentencePieceTokenizer.from_pretrained("skt/no-such-kobert")
    assert "check the name and the network" in one_line(error)


def test_damaged_model(folder: Path, tmp_path: Path) -> None:
    for content in (b"", b"not a model", (folder / "spiece.model").read_bytes()[:1000]):
        (tmp_path / "spiece.model").write_bytes(content)
        with pytest.raises(InputError, match="SentencePiece model") as error:
            SentencePieceTokenizer.from_pretrained(tmp_path)
        assert str(tmp_path) in one_line(error)


def test_model_with_another_normalisation(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=90,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    with pytest.raises(InputError, match="nmt_nfkc"):
        SentencePieceTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vocab: [*vocab, vocab[7]], "is in the vocabulary twice"),
        (lambda vocab: [token for token in vocab if token != "[CLS]"], r"no \[CLS\]"),
        (lambda vocab: vocab[:10], "does not belong"),
    ],
)
def test_wrong_vocabulary(monologg_folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    name = "tokenizer_78b3253a26.model"
    (tmp_path / name).write_bytes((monologg_folder / name).read_bytes())
    with pytest.raises(InputError, match="cannot read") as error:
        SentencePieceTokenizer.from_pretrained(tmp_path)
    assert "vocab.txt" in one_line(error)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot read"):
        SentencePieceTokenizer.from_pretrained(tmp_path)
    vocab = (monologg_folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    (tmp_path / "vocab.txt").write_text("\n".join(change(vocab)) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        SentencePieceTokenizer.from_pretrained(tmp_path)
