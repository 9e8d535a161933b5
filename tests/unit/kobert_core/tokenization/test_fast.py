"""Fast tokenizers: the ids are transformers', and what would spoil Korean is refused."""

from __future__ import annotations

import shutil
import unicodedata
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, BertTokenizerFast

from kobert_core.errors import InputError
from kobert_core.tokenization import SentencePieceTokenizer, Tokenizer, load_tokenizer
from kobert_core.tokenization.fast import FastTokenizer
from tests.fixtures.tokenizers import SPECIAL, TEXTS, byte_level, unigram, wordpiece

CASED = '{"tokenizer_class": "BertTokenizer", "do_lower_case": false, "model_max_length": 512}'


@pytest.fixture(scope="module")
def reviews(shared: Path) -> list[str]:
    lines = (shared / "data/nsmc/ratings_test.txt").read_text(encoding="utf-8").split("\n")[1:1001]
    return [line.split("\t")[1] for line in lines]


@pytest.fixture(params=["kcbert-base", "koelectra", "e5-korean"])
def real(request: pytest.FixtureRequest, shared: Path, tmp_path: Path) -> Path:
    """The folder of a real tokenizer; to a bare vocabulary it is told that case and accents stay."""
    for file in (shared / "models" / request.param).iterdir():
        if file.name != "model.safetensors":
            shutil.copyfile(file, tmp_path / file.name)
    if not (tmp_path / "tokenizer.json").is_file():
        (tmp_path / "tokenizer_config.json").write_text(CASED, encoding="utf-8")
    return tmp_path


def test_real_vocabularies_give_the_ids_of_transformers(real: Path, reviews: list[str], tmp_path: Path) -> None:
    tokenizer, its = load_tokenizer(real), AutoTokenizer.from_pretrained(real)
    expected = its(reviews, add_special_tokens=False, return_offsets_mapping=True)
    ids, bounds = tokenizer.encode_batch_flat(reviews)
    again, again_bounds, offsets = tokenizer.encode_batch_with_offsets(reviews)
    assert ids.tolist() == again.tolist() == [*chain.from_iterable(expected["input_ids"])]
    assert bounds.tolist() == again_bounds.tolist()
    assert (ids == tokenizer.unk_id).mean() < 0.03
    for text, begin, end in zip(reviews, bounds, bounds[1:], strict=False):
        starts, ends = offsets[begin:end].T
        assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all() and (starts <= ends).all()
        covered = {place for start, stop in offsets[begin:end].tolist() for place in range(start, stop)}
        assert covered == {place for place, one in enumerate(text) if not one.isspace()}, text
    for first, second in zip(reviews[:50], reviews[50:100], strict=True):
        pair = its(first, second, truncation="longest_first", max_length=40)
        assert tokenizer.encode_pair(first, second, 40)[0] == pair["input_ids"]
    tokenizer.save_pretrained(tmp_path / "export")
    exported = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert exported(reviews)["input_ids"] == its(reviews)["input_ids"]
    assert load_tokenizer(tmp_path / "export").fingerprint == tokenizer.fingerprint


def test_hangul_that_is_taken_apart_is_put_together(real: Path, reviews: list[str], tmp_path: Path) -> None:
    """NFD, as macOS writes names of files and some editors their texts."""
    tokenizer = load_tokenizer(real)
    together = [unicodedata.normalize("NFC", text) for text in reviews[:200]]
    apart = [unicodedata.normalize("NFD", text) for text in together]
    assert together != apart
    ids, bounds = tokenizer.encode_batch_flat(together)
    assert [one.tolist() for one in tokenizer.encode_batch_flat(apart)] == [ids.tolist(), bounds.tolist()]
    _, _, offsets = tokenizer.encode_batch_with_offsets(apart)
    for text, begin, end in zip(apart, bounds, bounds[1:], strict=False):
        assert not end - begin or offsets[end - 1, 1] == len(text.rstrip())
    tokenizer.save_pretrained(tmp_path / "export")
    exported = AutoTokenizer.from_pretrained(tmp_path / "export")
    its = exported(apart, add_special_tokens=False)["input_ids"]
    assert [*chain.from_iterable(its)] == ids.tolist()


@pytest.mark.parametrize("config", [None, '{"tokenizer_class": "BertTokenizer", "strip_accents": true}'])
def test_a_tokenizer_that_makes_unknown_tokens_of_hangul_is_refused(
    config: str | None, shared: Path, tmp_path: Path
) -> None:
    """A bare vocabulary is lower-cased by default, which strips accents, which takes syllables apart."""
    for name in ("vocab.txt", "config.json"):
        shutil.copyfile(shared / "models/kcbert-base" / name, tmp_path / name)
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")
    with pytest.raises(InputError, match=r"makes \[UNK\] of Hangul: .* is in its vocabulary.*do_lower_case: false"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_hangul_is_refused() -> None:
    letters = BertTokenizerFast(vocab={token: n for n, token in enumerate([*SPECIAL.values(), *"abc"])})
    with pytest.raises(InputError, match=r"knows no Hangul: .* was trained on Korean"):
        FastTokenizer(letters.backend_tokenizer.to_str(), SPECIAL)


def test_it_must_have_a_token_for_padding_and_a_known_template() -> None:
    content = wordpiece(Path())._content
    with pytest.raises(InputError, match="the tokenizer has no `pad_token`"):
        FastTokenizer(content, {name: token for name, token in SPECIAL.items() if name != "pad_token"})
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    other = Backend.from_str(content)
    other.post_processor = TemplateProcessing("$A [SEP] [CLS]", "$A [SEP] $B [CLS]", [("[CLS]", 2), ("[SEP]", 3)])
    with pytest.raises(InputError, match="a template of its own for pairs"):
        FastTokenizer(other.to_str(), SPECIAL)


@pytest.mark.parametrize("make", [wordpiece, unigram, byte_level])
def test_what_a_tokenizer_file_would_cut_off_is_kept(make: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend

    whole = make(tmp_path)
    cutting = Backend.from_str(whole._content)
    cutting.enable_truncation(4)
    cutting.enable_padding(length=64)
    cut = FastTokenizer(cutting.to_str(), whole._special)
    assert [one.tolist() for one in cut.encode_batch_flat(TEXTS)] == [
        one.tolist() for one in whole.encode_batch_flat(TEXTS)
    ]
    assert cut.encode_batch_flat(["\ud800 정말"])[0].size, "half of a surrogate pair is no error"


def test_bytes_of_a_syllable_are_each_all_of_it(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    ids, _, offsets = tokenizer.encode_batch_with_offsets([" 漢 정말"])
    assert len(ids) > 3 and offsets[:3].tolist() == [[1, 1], [1, 2], [1, 2]] and offsets[-1, 1] == 5


def test_the_longest_sequence_that_an_export_tells_is_the_encoders(real: Path, tmp_path: Path) -> None:
    load_tokenizer(real).save_pretrained(tmp_path / "export")
    longest = AutoTokenizer.from_pretrained(tmp_path / "export").model_max_length
    assert longest == (300 if (real / "config.json").is_file() and "300" in (real / "config.json").read_text() else 512)


def test_kobert_keeps_its_own(shared: Path) -> None:
    for name in ("skt-kobert-base-v1", "monologg-kobert", "e5-kobert"):
        tokenizer: Tokenizer = load_tokenizer(shared / "models" / name)
        assert isinstance(tokenizer, SentencePieceTokenizer)


def test_files_that_make_no_tokenizer_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="transformers makes no fast tokenizer of these files") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
