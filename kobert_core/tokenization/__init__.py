"""KoBERT's pieces: exact ids, offsets into the user's text, a small trainer, export as `tokenizer.json`.

The rest of the package knows a tokenizer by `Tokenizer`, and gets it from `load_tokenizer` or `trained_tokenizer`.
`KoBertTokenizer` is for those who want KoBERT's tokens in a program of their own, on transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kobert_core.tokenization.protocol import Tokenizer
from kobert_core.tokenization.tokenizer import SentencePieceTokenizer, load_tokenizer, trained_tokenizer
from kobert_core.tokenization.training import train_model

if TYPE_CHECKING:
    from kobert_core.tokenization.kobert import KoBertTokenizer

__all__ = [
    "KoBertTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "train_model",
    "trained_tokenizer",
]


def __getattr__(name: str) -> object:
    """`KoBertTokenizer`, when it is asked for: it needs transformers, which takes seconds to import."""
    if name == "KoBertTokenizer":
        from kobert_core.tokenization.kobert import KoBertTokenizer

        return KoBertTokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
