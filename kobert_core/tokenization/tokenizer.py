"""`SentencePieceTokenizer`: the ids of SKT's original at the speed of SentencePiece, with character offsets."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kobert_core.errors import InputError
from kobert_core.garbage_collection import no_collection
from kobert_core.io.atomic import atomic_write_bytes
from kobert_core.tokenization import export, loading, offsets, training
from kobert_core.tokenization.batch_offsets import CharacterTable
from kobert_core.tokenization.loading import CLS, PAD, SEP, SPECIAL_TOKENS, UNK
from kobert_core.tokenization.preprocessing import not_plain, preprocess, preprocess_with_positions
from kobert_core.tokenization.protocol import Tokenizer, keep_longest_first

# The original cuts a text at the names of the special tokens and tokenizes what lies between on its own.
_SPECIAL = re.compile(f"({'|'.join(map(re.escape, SPECIAL_TOKENS))})")

# Texts of more characters than this are faster as an array each than as a list of Python's integers.
_LONG = 100

# Part of the fingerprint: raise it when the ids or the offsets of any text change.
_CODE_VERSION = 1


class SentencePieceTokenizer:
    """KoBERT's tokenizer: text to ids, equal to SKT's `KoBERTTokenizer` and monologg's `KoBertTokenizer`.

    It never changes, can be shared by threads, and can be pickled.

    Args:
        model: the content of a SentencePiece model file.
        vocab: tokens in the order of their ids (monologg's `vocab.txt`); None: ids are SentencePiece's own.

    Raises:
        InputError: not a SentencePiece model, one that normalises unlike KoBERT's, or a vocabulary that does
            not belong to it.
    """

    def __init__(self, model: bytes, vocab: Sequence[str] | None = None) -> None:
        self._model = model
        self._vocab = None if vocab is None else tuple(vocab)
        self._processor = loading.load_processor(model)
        if self._vocab is not None:
            self._processor = loading.with_ids_of(model, self._vocab)
        pieces = [self._processor.id_to_piece(i) for i in range(len(self._processor))]
        self._tokens = tuple(pieces) if self._vocab is None else self._vocab
        self._id_of = loading.ids_by_token(self._tokens)
        self._shapes = offsets.PieceShapes(pieces, self.unk_id)
        self._characters = CharacterTable(self._processor, self._shapes)

    pair_separators = 1
    pair_type = 1

    @classmethod
    def from_pretrained(cls, name: str | PathLike[str], revision: str | None = None) -> SentencePieceTokenizer:
        """Load from a local folder or from the HuggingFace hub.

        Two layouts are known: `spiece.model` alone (skt/kobert-base-v1, or a folder that `save_pretrained` or
        `train` made), and `tokenizer_78b3253a26.model` with `vocab.txt` (monologg/kobert).

        Raises:
            InputError: no such folder or repository, files missing or broken, or the hub cannot be reached.
        """
        folder = loading.find_folder(name, revision)
        model, vocab = loading.read_layout(folder)
        try:
            return tokenizer_of(model, None if vocab is None else tuple(vocab))
        except InputError as error:
            raise InputError(str(error), where=folder) from None

    @classmethod
    def train(cls, texts: Iterable[str], folder: str | PathLike[str], vocab_size: int) -> SentencePieceTokenizer:
        """Train a small unigram model with SKT's special ids, and write it to `folder`/`spiece.model`.

        The same texts give the same bytes. A small corpus may give fewer than `vocab_size` tokens.

        Raises:
            InputError: no text, or a `vocab_size` too small to hold the corpus's characters.
        """
        model = training.train_model(texts, vocab_size)
        atomic_write_bytes(Path(folder) / loading.SKT_MODEL, model)
        return cls(model)

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write the files that `from_pretrained` and `transformers.AutoTokenizer` load, without custom code.

        AutoTokenizer gives the same ids but for ties: `....` is `.` + `...` or `...` + `.`, of equal score,
        and SentencePiece lets the rounding of its float32 sums decide, which float64 sums cannot repeat. Seen
        in 6 of the 3,106 golden texts and in 261 of 100,000 reviews; the pieces are the same, their order is
        not. Besides, `tokenizers` knows an older Unicode: 73 rare characters (㋿) are unknown there.

        Raises:
            InputError: the vocabulary lacks pieces of the model, which `tokenizer.json` cannot express.
        """
        export.save_pretrained(Path(folder), self.tokenizer_json)
        self.save_model(folder)

    def save_model(self, folder: str | PathLike[str]) -> list[Path]:
        """Write the files that the tokenizer was loaded from, and return their paths."""
        return export.write_model(Path(folder), self._model, self._vocab)

    @cached_property
    def tokenizer_json(self) -> str:
        """The content of the `tokenizer.json` that `save_pretrained` writes.

        Raises:
            InputError: the vocabulary lacks pieces of the model, which `tokenizer.json` cannot express.
        """
        return export.build_tokenizer(self._processor, self._tokens).to_str(pretty=True) + "\n"

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"SentencePieceTokenizer(vocab_size={len(self)}, fingerprint={self.fingerprint[:12]!r})"

    def __reduce__(self) -> tuple[type[SentencePieceTokenizer], tuple[bytes, tuple[str, ...] | None]]:
        return type(self), (self._model, self._vocab)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens in the order of their ids; `▁` marks a blank."""
        return self._tokens

    @property
    def vocab_size(self) -> int:
        """The number of tokens, the special ones included."""
        return len(self._tokens)

    @property
    def unk_id(self) -> int:
        """The id of `[UNK]`."""
        return self._id_of[UNK]

    @property
    def pad_id(self) -> int:
        """The id of `[PAD]` (1 in KoBERT, not 0)."""
        return self._id_of[PAD]

    @property
    def cls_id(self) -> int:
        """The id of `[CLS]`."""
        return self._id_of[CLS]

    @property
    def sep_id(self) -> int:
        """The id of `[SEP]`."""
        return self._id_of[SEP]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all that ids and offsets depend on: model, vocabulary, Unicode and this code."""
        vocab = "" if self._vocab is None else "\n".join(self._vocab)
        versions = f"{_CODE_VERSION} {unicodedata.unidata_version}"
        parts = (versions.encode(), hashlib.sha256(self._model).digest(), vocab.encode())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> list[int]:
        """`[CLS] text [SEP]`, or `[CLS] text [SEP] pair [SEP]`, cut to `max_length` ids.

        A single text loses its tail; of a pair the longer one does, as in HuggingFace's `longest_first`.

        Raises:
            InputError: `max_length` leaves no room for the special tokens.
        """
        if pair is not None:
            return self.encode_pair(text, pair, max_length)[0]
        return self.encode_batch([text], max_length)[0]

    def encode_pair(self, text: str, pair: str, max_length: int | None = None) -> tuple[list[int], list[int]]:
        """The ids of `encode(text, pair, max_length)` and their token types: 0 up to the first [SEP], then 1.

        Raises:
            InputError: `max_length` leaves no room for the special tokens.
        """
        first, second = self._encode_pieces([text, pair], num_threads=1)
        room = _room(max_length, specials=3)
        if room is not None:
            kept, kept_of_pair = keep_longest_first(len(first), len(second), room)
            first, second = first[:kept], second[:kept_of_pair]
        ids = [self.cls_id, *first, self.sep_id, *second, self.sep_id]
        return ids, [0] * (len(first) + 2) + [1] * (len(second) + 1)

    def encode_batch(
        self, texts: Sequence[str], max_length: int | None = None, num_threads: int = 1
    ) -> list[list[int]]:
        """`encode` of every text, in hardly more time than SentencePiece alone takes.

        Raises:
            InputError: `max_length` leaves no room for the special tokens.
        """
        room = _room(max_length, specials=2)
        cls_id, sep_id = self.cls_id, self.sep_id
        batch = self._encode_pieces(texts, num_threads)
        for ids in batch:  # in place: new lists would take three times as long
            if room is not None:
                del ids[room:]
            ids.insert(0, cls_id)
            ids.append(sep_id)
        return batch

    @no_collection()
    def encode_batch_flat(
        self, texts: Sequence[str], num_threads: int = 1
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of many texts in one array, without special tokens: what a feature cache stores.

        Returns:
            ids of shape (total,), int32, and bounds of shape (len(texts) + 1,), int64: the ids of text i are
            `ids[bounds[i]:bounds[i + 1]]`.
        """
        as_arrays = sum(map(len, texts)) > _LONG * len(texts)
        pieces = self._encode_pieces(texts, num_threads, return_type="numpy" if as_arrays else None)
        bounds = np.zeros(len(pieces) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces)), out=bounds[1:])
        if as_arrays:
            return np.concatenate([np.asarray(ids, dtype=np.int32) for ids in pieces]), bounds
        return np.fromiter(chain.from_iterable(pieces), dtype=np.int32, count=int(bounds[-1])), bounds

    def encode_with_offsets(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids without [CLS] and [SEP], and where each piece lies in the text as the user gave it.

        Returns:
            ids of shape (n,), int32, and offsets of shape (n, 2), int32: half-open character positions,
            starts and ends never descending. A piece made from a part of a character (㈜, ﬁ) covers all of
            it, and combining marks that were dropped belong to the character before them. A blank is not
            covered: a piece that is only a blank is empty and lies where the next piece begins.
        """
        all_ids: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
        all_offsets: list[NDArray[np.int64]] = [np.zeros((0, 2), dtype=np.int64)]
        position = 0
        for part in _SPECIAL.split(text):
            if part in SPECIAL_TOKENS:
                all_ids.append(np.array([self._id_of[part]], dtype=np.int32))
                all_offsets.append(np.array([[position, position + len(part)]]))
            elif part:
                prepared, starts = preprocess_with_positions(part)
                ids = self._processor.encode(prepared, return_type="numpy")
                spans = offsets.piece_offsets(self._processor, prepared, ids, starts, self._shapes)
                all_ids.append(np.where(ids < len(self), ids, self.unk_id))
                all_offsets.append(spans + position)
            position += len(part)
        return np.concatenate(all_ids).astype(np.int32), np.concatenate(all_offsets).astype(np.int32)

    def encode_batch_with_offsets(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """`encode_with_offsets` of many texts, in a fraction of the time.

        Returns:
            ids of shape (total,), bounds of shape (len(texts) + 1,) as from `encode_batch_flat`, and offsets of
            shape (total, 2), each in its own text.
        """
        ids, bounds = self.encode_batch_flat(texts)
        spans, left = self._characters.offsets(texts, ids, bounds)
        for number, text in enumerate(texts):
            if left[number] or _SPECIAL.search(text):
                spans[bounds[number] : bounds[number + 1]] = self.encode_with_offsets(text)[1]
        return ids, bounds, spans

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of the ids: normalised and without what was unknown, so not always what was encoded."""
        special = {self._id_of[token] for token in SPECIAL_TOKENS} if skip_special_tokens else set()
        return "".join(self._tokens[i] for i in ids if i not in special).replace("▁", " ").strip()

    def _encode_pieces(
        self, texts: Sequence[str], num_threads: int, return_type: Literal["numpy"] | None = None
    ) -> list[list[int]]:
        prepared = list(texts)
        with_special: list[int] = []
        for i in not_plain(prepared):
            if _SPECIAL.search(texts[i]):
                with_special.append(i)
                prepared[i] = ""
            else:
                prepared[i] = preprocess(texts[i])
        batch = self._known(self._processor.encode(prepared, num_threads=num_threads, return_type=return_type))
        for i in with_special:
            batch[i] = self._encode_around_special(texts[i])
        return batch

    def _encode_around_special(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in _SPECIAL.split(text):
            if part in SPECIAL_TOKENS:
                ids.append(self._id_of[part])
            else:
                ids += self._known([self._processor.encode(preprocess(part))])[0]
        return ids

    def _known(self, batch: list[list[int]]) -> list[list[int]]:
        """[UNK] for pieces that are in the model but not in the vocabulary (KoBERT has none)."""
        size = len(self._tokens)
        if len(self._processor) == size:
            return batch
        return [[i if i < size else self.unk_id for i in ids] for ids in batch]


def load_tokenizer(name: str | PathLike[str], revision: str | None = None) -> Tokenizer:
    """The tokenizer of a local folder, or of a model on the hub: KoBERT's where its SentencePiece model is there, else
    the fast one that belongs to the encoder.

    Raises:
        InputError: no such folder or repository, files missing or broken, or the hub cannot be reached.
    """
    folder = loading.find_folder(name, revision)
    is_kobert = any((folder / file).is_file() for file in (loading.SKT_MODEL, loading.MONOLOGG_MODEL))
    if is_kobert or not any((folder / file).is_file() for file in loading.FAST_FILES if file != "config.json"):
        return SentencePieceTokenizer.from_pretrained(folder)
    from kobert_core.tokenization.fast import load_fast_tokenizer

    return load_fast_tokenizer(folder)


def trained_tokenizer(model: bytes) -> Tokenizer:
    """The tokenizer with a model of `train_model`."""
    return tokenizer_of(model)


@lru_cache(maxsize=16)
def tokenizer_of(model: bytes, vocab: tuple[str, ...] | None = None) -> SentencePieceTokenizer:
    """The one tokenizer of this process for these contents: trials on a warm worker share it."""
    return SentencePieceTokenizer(model, vocab)


def _room(max_length: int | None, *, specials: int) -> int | None:
    """How many pieces fit beside the special tokens; None: as many as there are."""
    if max_length is None:
        return None
    if max_length < specials:
        raise InputError(
            f"max_length {max_length} leaves no room for the special tokens", fix=f"use {specials} or more"
        )
    return max_length - specials
