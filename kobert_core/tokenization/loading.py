"""Finding and reading the tokenizer's files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import sentencepiece

from kobert_core.errors import InputError, reason_of
from kobert_core.io.remote import here

UNK, PAD, CLS, SEP, MASK = SPECIAL_TOKENS = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")

SKT_MODEL = "spiece.model"
MONOLOGG_MODEL = "tokenizer_78b3253a26.model"
MONOLOGG_VOCAB = "vocab.txt"

FAST_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spm.model",
    "config.json",
)
"""What transformers makes a fast tokenizer of, and the encoder's config."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

# White space, a syllable of three conjoining jamo, two compatibility jamo, a ligature.
_PROBE, _PROBE_NORMALISED = " \u1112\u1161\u11ab  ㅋㅠﬁ ", "▁한▁큐fi"


def find_folder(name: str | PathLike[str], revision: str | None = None) -> Path:
    """The local folder of this name, or the one that its address in an object store or the hub's files are downloaded
    to, of the hub at a branch, tag or commit.

    Raises:
        InputError: none is there.
    """
    folder = Path(here(str(name)))
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(str(name)):
        raise InputError(
            "no such folder", where=folder, fix="give a local folder or a hub name such as skt/kobert-base-v1"
        )
    from huggingface_hub import snapshot_download

    try:
        patterns = [SKT_MODEL, MONOLOGG_MODEL, *FAST_FILES]
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's client lets through the errors of the libraries below it
        raise InputError(
            f"no such folder here, and not had from the HuggingFace hub ({reason_of(error)})",
            where=name,
            fix="check the name and the network, or give a local folder",
        ) from error


def read_layout(folder: Path) -> tuple[bytes, list[str] | None]:
    """The model's bytes, and the vocabulary of monologg's layout.

    Raises:
        InputError: files are missing or cannot be read.
    """
    skt, monologg = ((file if file.is_file() else None) for file in (folder / SKT_MODEL, folder / MONOLOGG_MODEL))
    return read_files(skt, monologg, folder / MONOLOGG_VOCAB, where=folder)


def read_files(
    skt: str | PathLike[str] | None,
    monologg: str | PathLike[str] | None,
    vocab: str | PathLike[str] | None,
    *,
    where: object = None,
) -> tuple[bytes, list[str] | None]:
    """The bytes of the first model that there is, and the vocabulary of monologg's.

    Args:
        skt: SKT's `spiece.model`.
        monologg: monologg's model.
        vocab: And its `vocab.txt`.
        where: What an error names.

    Raises:
        InputError: files are missing or cannot be read.
    """
    try:
        if skt is not None:
            return Path(skt).read_bytes(), None
        if monologg is not None and vocab is not None:
            text = Path(vocab).read_text(encoding="utf-8")
            return Path(monologg).read_bytes(), text.removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the tokenizer's files ({error})", where=where) from error
    expected = f"expected {SKT_MODEL}, or {MONOLOGG_MODEL} with {MONOLOGG_VOCAB}"
    raise InputError("no tokenizer files", where=where, fix=expected)


def load_processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model that normalises as KoBERT's does (`nmt_nfkc`).

    Raises:
        InputError: it is none.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
        normalised = processor.normalize(_PROBE)
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError("not a SentencePiece model", fix="the file is damaged or something else") from error
    # The tokenizer's short cuts lean on this normalisation; with another one they would give other ids.
    if normalised != _PROBE_NORMALISED:
        raise InputError("this SentencePiece model does not normalise text as KoBERT's does (nmt_nfkc)")
    return processor


def with_ids_of(model: bytes, vocab: Sequence[str]) -> sentencepiece.SentencePieceProcessor:
    """The model with its pieces in the vocabulary's order, so that SentencePiece itself gives the right ids.

    Translating the ids in Python would cost a quarter of SentencePiece's own time. Tokens that the model does
    not have become control pieces, which no text gives; pieces that the vocabulary does not have go last.

    Raises:
        InputError: a token is there twice, or the vocabulary is another model's.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    known = ids_by_token(vocab)
    proto = ModelProto.FromString(model)
    kinds = ModelProto.SentencePiece
    pieces = {piece.piece: piece for piece in proto.pieces if piece.type not in (kinds.UNKNOWN, kinds.CONTROL)}
    extra = [piece for name, piece in pieces.items() if name not in known]
    if len(extra) > len(pieces) // 2:
        raise InputError("this vocabulary does not belong to the SentencePiece model beside it")
    ordered = []
    for token in vocab:
        kind = kinds.UNKNOWN if token == UNK else kinds.CONTROL
        ordered.append(pieces.get(token) or kinds(piece=token, score=0.0, type=kind))
    del proto.pieces[:]
    proto.pieces.extend(ordered + extra)
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def ids_by_token(tokens: Sequence[str]) -> dict[str, int]:
    """Token to id.

    Raises:
        InputError: a token is there twice, or a special one is not.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        raise InputError(f"the token {twice!r} is in the vocabulary twice")
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(f"the vocabulary has no {', '.join(missing)}", fix="KoBERT's has all five")
    return ids
