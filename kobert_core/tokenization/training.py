"""A small SentencePiece model with SKT's special ids, for samples and tests."""

from __future__ import annotations

import io
from collections.abc import Iterable

import sentencepiece

from kobert_core.errors import InputError
from kobert_core.tokenization.loading import SPECIAL_TOKENS
from kobert_core.tokenization.preprocessing import preprocess


def train_model(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train a unigram model with SKT's special ids; the same texts give the same bytes.

    Raises:
        InputError: no text, or a `vocab_size` too small to hold the corpus's characters.
    """
    sentences = [sentence for text in texts if (sentence := preprocess(text).strip())]
    if not sentences:
        raise InputError("no text to train a tokenizer on")
    unknown, *others = SPECIAL_TOKENS
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,  # a small corpus gives fewer pieces: no error
            character_coverage=0.9995,  # as SKT's
            normalization_rule_name="nmt_nfkc",
            max_sentence_length=max(len(sentence.encode("utf-8")) for sentence in sentences) + 1,
            unk_id=0,
            unk_piece=unknown,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            user_defined_symbols=others,  # ids 1 to 4, of the type that they have in SKT's model
            num_threads=1,  # the sums of several threads differ from run to run
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"cannot train a tokenizer with vocab_size {vocab_size} ({reason})") from error
    return model.getvalue()
