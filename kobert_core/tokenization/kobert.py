"""`KoBertTokenizer`: the exact ids of KoBERT behind the interface of transformers' fast tokenizers.

transformers' own code does all that is not about pieces (padding, tensors, pairs, saving), and the `tokenizers` library
truncates and adds special tokens. Only the pieces come from elsewhere: `PieceBackend` stands in the place of the
library's tokenizer, and gets them from `SentencePieceTokenizer`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import tokenizers
from tokenizers import AddedToken, Encoding, PreTokenizedString, Token
from transformers import PreTrainedTokenizerFast

from kobert_core.errors import InputError, reason_of
from kobert_core.io.atomic import atomic_write_json
from kobert_core.tokenization.export import MODEL_MAX_LENGTH, SPECIAL_NAMES
from kobert_core.tokenization.loading import (
    MONOLOGG_MODEL,
    MONOLOGG_VOCAB,
    SKT_MODEL,
    SPECIAL_TOKENS,
    read_files,
)
from kobert_core.tokenization.tokenizer import SentencePieceTokenizer, tokenizer_of

# What SKT's `tokenizer_config.json` says to its own class.
_OF_THE_ORIGINAL = ("do_lower_case", "remove_space", "keep_accents", "sp_model_kwargs", "bos_token", "eos_token")

_OR_A_FOLDER = "check the name and the network, or give a local folder"

Piece = tuple[int, str, tuple[int, int]]
"""Id, token, and half-open character positions in the text."""


class PieceBackend:
    """A `tokenizers.Tokenizer` that gets its pieces from KoBERT's SentencePiece model.

    All else (vocabulary, added tokens, truncation, special tokens, decoding) is left to the library's tokenizer.

    Args:
        pieces: gives ids and offsets.
        rules: the library's tokenizer with the same vocabulary.
    """

    def __init__(self, pieces: SentencePieceTokenizer, rules: tokenizers.Tokenizer) -> None:
        vars(self).update(pieces=pieces, rules=rules)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["rules"], name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(vars(self)["rules"], name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> PieceBackend:
        return PieceBackend(self.pieces, tokenizers.Tokenizer.from_str(self.rules.to_str()))

    def __reduce__(self) -> tuple[type[PieceBackend], tuple[SentencePieceTokenizer, tokenizers.Tokenizer]]:
        return type(self), (self.pieces, self.rules)

    def encode(
        self, sequence: Any, pair: Any = None, is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> Encoding:
        """As of `tokenizers.Tokenizer`."""
        given = sequence if pair is None else (sequence, pair)
        return self.encode_batch([given], add_special_tokens, is_pretokenized)[0]

    def encode_batch(
        self, input: Sequence[Any], add_special_tokens: bool = True, is_pretokenized: bool = False
    ) -> list[Encoding]:
        """As of `tokenizers.Tokenizer`: truncated and padded as it has been told to.

        Raises:
            TypeError: something in the batch is neither a text, nor a pair of texts.
        """
        samples = [_sequences(given, is_pretokenized) for given in input]
        encoded = self._encode_samples(samples, is_pretokenized)
        encodings = [self.rules.post_process(*one, add_special_tokens=add_special_tokens) for one in encoded]
        padding = self.rules.padding
        if padding is not None and encodings:
            longest = max(map(len, encodings)) if padding["length"] is None else padding["length"]
            how = {key: padding[key] for key in ("direction", "pad_id", "pad_type_id", "pad_token")}
            for encoding in encodings:
                encoding.pad(longest, **how)
        return encodings

    encode_batch_fast = encode_batch

    def add_tokens(self, tokens: Sequence[str | AddedToken]) -> int:
        """As of `tokenizers.Tokenizer`; they are looked for in texts as they were given."""
        return cast(int, self.rules.add_tokens([_raw(token) for token in tokens]))

    def add_special_tokens(self, tokens: Sequence[str | AddedToken]) -> int:
        """As of `tokenizers.Tokenizer`; they are looked for in texts as they were given."""
        return cast(int, self.rules.add_special_tokens([_raw(token) for token in tokens]))

    def _encode_samples(self, samples: Sequence[Sequence[Any]], are_words: bool) -> Iterator[list[Encoding]]:
        """Of each text of each sample an encoding without special tokens, whose token types are its place there."""
        texts = [text for sample in samples for one in sample for text in (one if are_words else (one,))]
        pieces = iter(self._pieces(texts))
        added = self._added()
        for sample in samples:
            encodings = []
            for kind, one in enumerate(sample):
                if are_words:
                    words = [(number, word) for number, _ in enumerate(one) if (word := next(pieces))]
                    encodings.append(_merged([_encoding_of_word(word, kind, number) for number, word in words]))
                else:
                    encodings.append(_encoding_of_text(_words(next(pieces), added), kind))
            yield encodings

    def _added(self) -> dict[str, AddedToken]:
        return {token.content: token for token in self.rules.get_added_tokens_decoder().values()}

    def _pieces(self, texts: Sequence[str]) -> list[list[Piece]]:
        """The pieces of each text, which is cut at the tokens that were added to KoBERT's own."""
        added = {content: token for content, token in self._added().items() if content not in SPECIAL_TOKENS}
        cut = [_split(text, added) for text in texts]
        parts = [
            text[start:end] for text, parts in zip(texts, cut, strict=True) for start, end, token in parts if not token
        ]
        ids, bounds, spans = self.pieces.encode_batch_with_offsets(parts)
        tokens, unknown = self.pieces.tokens, self.pieces.unk_id
        all_ids, all_spans = ids.tolist(), spans.tolist()
        part = 0
        result = []
        for text, places in zip(texts, cut, strict=True):
            found: list[Piece] = []
            for start, end, token in places:
                if token:
                    found.append((self.rules.token_to_id(token), token, (start, end)))
                    continue
                for i in range(bounds[part], bounds[part + 1]):
                    span = start + all_spans[i][0], start + all_spans[i][1]
                    # As SentencePiece and the library do it, what is unknown is shown as it is.
                    name = (
                        tokens[all_ids[i]]
                        if all_ids[i] != unknown
                        else unicodedata.normalize("NFKC", text[slice(*span)])
                    )
                    found.append((all_ids[i], name, span))
                part += 1
            result.append(found)
        return result


class KoBertTokenizer(PreTrainedTokenizerFast):
    """KoBERT's tokenizer as transformers knows tokenizers, with the ids of SKT's and monologg's originals.

    It is a fast one: `tokenizer(texts, padding=True, truncation=True, return_offsets_mapping=True, …)`, `word_ids()`,
    `char_to_token()`, `decode`, `pad`, and so in `DataCollatorWithPadding`, `Trainer(processing_class=…)` and
    `datasets.map`. Offsets are characters of the text as it was given, without the blanks around a token.

    `from_pretrained` takes a folder or the name of a repository of the HuggingFace hub, in the layout of
    skt/kobert-base-v1 (`spiece.model`) or of monologg/kobert (`tokenizer_78b3253a26.model` and `vocab.txt`), with all
    options of transformers. `AutoTokenizer` loads what `save_pretrained` writes, without this package; a few texts have
    other ids there (`SentencePieceTokenizer.save_pretrained` says which).

    Args:
        vocab_file: The path of `spiece.model`.
        monologg_file: Or that of monologg's SentencePiece model.
        monologg_vocab: And that of its `vocab.txt`.
        tokenizer_file: Not read: the two above say all.
        options: What else transformers' tokenizers take: `model_max_length` (512 if not given), `padding_side` …

    Raises:
        InputError: files are missing or damaged, or not KoBERT's.
    """

    vocab_files_names = {  # noqa: RUF012  (transformers has them as mutable attributes)
        "vocab_file": SKT_MODEL,
        "monologg_file": MONOLOGG_MODEL,
        "monologg_vocab": MONOLOGG_VOCAB,
        "tokenizer_file": "tokenizer.json",  # whose added tokens transformers reads
    }
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        vocab_file: str | PathLike[str] | None = None,
        monologg_file: str | PathLike[str] | None = None,
        monologg_vocab: str | PathLike[str] | None = None,
        tokenizer_file: str | PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        where = options.get("name_or_path") or vocab_file or monologg_file
        if vocab_file is None and monologg_file is None and options.get("is_local") is False:
            raise InputError("KoBERT's files are not had from the HuggingFace hub", where=where, fix=_OR_A_FOLDER)
        model, vocab = read_files(vocab_file, monologg_file, monologg_vocab, where=where)
        try:
            pieces = tokenizer_of(model, None if vocab is None else tuple(vocab))
            rules = tokenizers.Tokenizer.from_str(pieces.tokenizer_json)
        except InputError as error:
            raise InputError(str(error), where=where) from None
        options = {"model_max_length": MODEL_MAX_LENGTH, **SPECIAL_NAMES, **options}
        for name in _OF_THE_ORIGINAL:
            options.pop(name, None)
        super().__init__(tokenizer_object=PieceBackend(pieces, rules), **options)  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str], *init_inputs: Any, **options: Any
    ) -> Self:
        """Load from a local folder or from the HuggingFace hub; `options` as of transformers, such as `revision`.

        Raises:
            InputError: no such folder or repository, files missing or broken, or the hub cannot be reached.
        """
        try:
            return cast(Self, super().from_pretrained(pretrained_model_name_or_path, *init_inputs, **options))
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(
                f"no such folder here, and not had from the HuggingFace hub ({reason_of(error)})",
                where=pretrained_model_name_or_path,
                fix=_OR_A_FOLDER,
            ) from error

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **options: Any) -> dict[str, Any]:
        """What transformers found, as it is: it would take the SentencePiece model apart."""
        return options

    @classmethod
    def train(cls, texts: Iterable[str], folder: str | PathLike[str], vocab_size: int, **options: Any) -> Self:
        """Train a small unigram model with SKT's special ids, and write it to `folder`/`spiece.model`.

        The same texts give the same bytes. A small corpus may give fewer than `vocab_size` tokens.

        Raises:
            InputError: no text, or a `vocab_size` too small to hold the corpus's characters.
        """
        SentencePieceTokenizer.train(texts, folder, vocab_size)
        return cls(Path(folder) / SKT_MODEL, **options)

    def train_new_from_iterator(self, *arguments: Any, **options: Any) -> NoReturn:
        """Not here: `KoBertTokenizer.train` does it by SentencePiece."""
        raise NotImplementedError("use KoBertTokenizer.train(texts, folder, vocab_size)")

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        save_format: str | None = None,
        **options: Any,
    ) -> tuple[str, ...]:
        """Write what `KoBertTokenizer.from_pretrained` and, without this package, `AutoTokenizer` load.

        Returns:
            The files' paths.

        Raises:
            InputError: there is a `filename_prefix`, which no tokenizer would be found by.
        """
        if filename_prefix:
            raise InputError("files with a prefix are not found again", fix="leave filename_prefix out")
        # The options of the last call are no part of the tokenizer.
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        names = super().save_pretrained(save_directory)
        config = Path(save_directory) / "tokenizer_config.json"
        # AutoTokenizer knows no class of another package.
        content = json.loads(config.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        own = ("model_input_names", "padding_side", "truncation_side", "clean_up_tokenization_spaces")
        atomic_write_json(config, content | {name: getattr(self, name) for name in own})
        names = (*names, *self.save_vocabulary(save_directory))
        if push_to_hub:
            self.push_to_hub(options.pop("repo_id", Path(save_directory).name), **options)
        return names

    def save_vocabulary(  # type: ignore[override]  # there are two in monologg's layout
        self, save_directory: str | PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the files that the tokenizer was loaded from, and return their paths."""
        return tuple(map(str, cast(PieceBackend, self.backend_tokenizer).pieces.save_model(save_directory)))


def _raw(token: str | AddedToken) -> AddedToken:
    given = AddedToken(token) if isinstance(token, str) else token
    flags = {name: getattr(given, name) for name in ("single_word", "lstrip", "rstrip", "special")}
    return AddedToken(given.content, normalized=False, **flags)


def _sequences(given: Any, are_words: bool) -> tuple[Any, ...]:
    """The text of one sample, or the two of a pair."""
    if are_words:
        if isinstance(given, (list, tuple)):
            if all(isinstance(word, str) for word in given):
                return (given,)
            if len(given) == 2 and all(isinstance(one, (list, tuple)) for one in given):
                return tuple(given)
        raise TypeError(f"expected a list of words, or a pair of such lists, got {given!r}")
    if isinstance(given, str):
        return (given,)
    if isinstance(given, (list, tuple)) and len(given) == 2 and all(isinstance(text, str) for text in given):
        return tuple(given)
    raise TypeError(f"expected a text, or a pair of texts, got {given!r}")


def _split(text: str, added: dict[str, AddedToken]) -> list[tuple[int, int, str | None]]:
    """Start and end of the parts of a text, and which of the added tokens they are, if any."""
    if not added:
        return [(0, len(text), None)]
    patterns = [_pattern(token) for token in sorted(added.values(), key=lambda token: -len(token.content))]
    parts: list[tuple[int, int, str | None]] = []
    done = 0
    for match in re.finditer("|".join(patterns), text):
        parts += [(done, match.start(), None), (*match.span(), match.group().strip())]
        done = match.end()
    return [*parts, (done, len(text), None)]


def _pattern(token: AddedToken) -> str:
    left, right = (r"(?<!\w)", r"(?!\w)") if token.single_word else ("", "")
    blank_left, blank_right = (r"\s*" if strips else "" for strips in (token.lstrip, token.rstrip))
    return f"{blank_left}{left}{re.escape(token.content)}{right}{blank_right}"


def _words(pieces: Sequence[Piece], added: dict[str, AddedToken]) -> list[list[Piece]]:
    """The pieces of each word: `▁` and added tokens begin one."""
    words: list[list[Piece]] = []
    for piece in pieces:
        if not words or piece[1].startswith("▁") or piece[1] in added:
            words.append([])
        words[-1].append(piece)
    return words


def _encoding_of_text(words: Sequence[Sequence[Piece]], kind: int) -> Encoding:
    spans = [(word[0][2][0], word[-1][2][1]) for word in words]
    apart = all(start < end for start, end in spans) and all(one[1] <= other[0] for one, other in pairwise(spans))
    if not apart or not words:  # several words of one character, such as ﷺ, which the library can give to one alone
        return _merged([_encoding_of_word(word, kind, number) for number, word in enumerate(words)])
    text = _stand_in(spans[-1][1])
    text.split(lambda _, whole: [whole[start:end] for start, end in spans])
    left = iter(zip(words, spans, strict=True))

    def tokens(_: str) -> list[Token]:
        word, (origin, _end) = next(left)
        return [Token(id, token, (start - origin, end - origin)) for id, token, (start, end) in word]

    text.tokenize(tokens)
    return text.to_encoding(kind)


def _encoding_of_word(word: Sequence[Piece], kind: int, number: int) -> Encoding:
    text = _stand_in(word[-1][2][1])
    text.tokenize(lambda _: [Token(*piece) for piece in word])
    return text.to_encoding(kind, number)


def _merged(words: Sequence[Encoding]) -> Encoding:
    return Encoding.merge(words, growing_offsets=False)


def _stand_in(length: int) -> PreTokenizedString:
    """A text of this length in which UTF-8's bytes, which the library counts, are characters, which it gives back."""
    return PreTokenizedString("x" * max(1, length))
