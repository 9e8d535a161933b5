"""KoBERT's pieces: exact ids, offsets into the user's text, a small trainer, export as `tokenizer.json`.

The rest of the package knows a tokenizer by `Tokenizer`, and gets it from `load_tokenizer` or `trained_tokenizer`.
"""

from __future__ import annotations

from kobert_core.tokenization.protocol import Tokenizer
from kobert_core.tokenization.tokenizer import KoBertTokenizer, load_tokenizer, trained_tokenizer
from kobert_core.tokenization.training import train_model

__all__ = ["KoBertTokenizer", "Tokenizer", "load_tokenizer", "train_model", "trained_tokenizer"]
