"""KoBERT's pieces: exact ids, offsets into the user's text, a small trainer, export as `tokenizer.json`."""

from __future__ import annotations

from kobert_core.tokenization.tokenizer import KoBertTokenizer, tokenizer_from

__all__ = ["KoBertTokenizer", "tokenizer_from"]
