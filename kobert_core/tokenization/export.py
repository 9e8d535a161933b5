"""The tokenizer as files that `transformers.AutoTokenizer` loads without custom code."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sentencepiece

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_bytes, atomic_write_json, atomic_write_text
from kobert_core.tokenization.loading import (
    CLS,
    MASK,
    MONOLOGG_MODEL,
    MONOLOGG_VOCAB,
    PAD,
    SEP,
    SKT_MODEL,
    SPECIAL_TOKENS,
    UNK,
)
from kobert_core.tokenization.preprocessing import QUOTE_PAIRS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# KoBERT's position embeddings end here.
MODEL_MAX_LENGTH = 512

SPECIAL_NAMES = {"unk_token": UNK, "pad_token": PAD, "cls_token": CLS, "sep_token": SEP, "mask_token": MASK}
"""KoBERT's special tokens by transformers' names for them."""

# What becomes a blank: Python's white space (`preprocess`), and what SentencePiece's nmt_nfkc adds to it.
_BLANK = r"[\t-\r\x1c-\x20\x{85}\x{1680}\x{200b}\x{200e}\x{200f}\x{2028}\x{2029}\x{2581}\x{feff}\x{fffd}]"


def save_pretrained(folder: Path, tokenizer_json: str) -> None:
    """Write KoBERT's `tokenizer.json` and its two configurations."""
    # Written out: without it AutoTokenizer leaves the token types out.
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    more = {"model_input_names": inputs, "model_max_length": MODEL_MAX_LENGTH}
    write_tokenizer(folder, tokenizer_json, SPECIAL_NAMES, more)


def write_model(folder: Path, model: bytes, vocab: Sequence[str] | None) -> list[Path]:
    """Write the SentencePiece model in SKT's layout, or in monologg's if there is a vocabulary; returns the paths."""
    if vocab is None:
        atomic_write_bytes(folder / SKT_MODEL, model)
        return [folder / SKT_MODEL]
    atomic_write_bytes(folder / MONOLOGG_MODEL, model)
    atomic_write_text(folder / MONOLOGG_VOCAB, "\n".join(vocab) + "\n")
    return [folder / MONOLOGG_MODEL, folder / MONOLOGG_VOCAB]


def write_tokenizer(folder: Path, tokenizer_json: str, special: Mapping[str, str], more: Mapping[str, object]) -> None:
    """Write a `tokenizer.json` and its two configurations.

    Args:
        folder: Where.
        tokenizer_json: The content of the first.
        special: Special tokens by transformers' names for them.
        more: What else there is to say in `tokenizer_config.json`.
    """
    atomic_write_text(folder / "tokenizer.json", tokenizer_json)
    atomic_write_json(folder / "special_tokens_map.json", dict(special))
    configuration = {
        # Without it AutoTokenizer makes a tokenizer of the encoder's family, with a normaliser of its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **more,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **special,
    }
    atomic_write_json(folder / "tokenizer_config.json", configuration)


def build_tokenizer(processor: sentencepiece.SentencePieceProcessor, tokens: Sequence[str]) -> Tokenizer:
    """The same tokenizer for the `tokenizers` library.

    Raises:
        InputError: the vocabulary lacks pieces of the model, which `tokenizer.json` cannot express.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    scores = {
        processor.id_to_piece(i): processor.get_score(i)
        for i in range(len(processor))
        if not (processor.is_control(i) or processor.is_unknown(i))
    }
    if lacking := scores.keys() - set(tokens):
        raise InputError(f"the vocabulary lacks {len(lacking)} pieces of the model, such as {min(lacking)!r}")
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.Unigram([(token, scores.get(token, 0.0)) for token in tokens], unk_id=ids[UNK]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            *(normalizers.Replace(pair, '"') for pair in QUOTE_PAIRS),
            normalizers.NFKD(),
            # Not StripAccents: it also drops marks of class 0, such as the variation selectors of emoji.
            normalizers.Replace(Regex(_combining_marks()), ""),
            normalizers.NFKC(),
            normalizers.Replace(Regex(f"{_BLANK}+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS}:0 $A:0 {SEP}:0",
        pair=f"{CLS}:0 $A:0 {SEP}:0 $B:1 {SEP}:1",
        special_tokens=[(CLS, ids[CLS]), (SEP, ids[SEP])],
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


@cache
def _combining_marks() -> str:
    """A character class of what `unicodedata.combining` names, in the syntax of `tokenizers` (Oniguruma)."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.combining(chr(code)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges) + "]"
