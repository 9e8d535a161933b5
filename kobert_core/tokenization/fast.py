"""The fast tokenizer that belongs to an encoder of any family, behind the package's protocol."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import normalizers

from kobert_core.code_points import code_points
from kobert_core.errors import InputError, reason_of
from kobert_core.families import FAMILIES, import_family, known_type
from kobert_core.garbage_collection import no_collection
from kobert_core.tokenization.export import write_tokenizer
from kobert_core.tokenization.loading import FAST_FILES
from kobert_core.tokenization.protocol import keep_longest_first

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_CODE_VERSION = 1
"""Part of the fingerprint: raise it when the ids or the offsets of any text change."""

_HANGUL = re.compile("(?:▁|##)?([가-힣]+)")
_SENTENCE = "배우의 연기가 정말 좋았다"
_PROBES = 500
_MOST_UNKNOWN = 0.5

_AT_ONCE = 512
"""Texts that are encoded before what came of them is read: the processor's cache still has it."""

_BLANK = np.zeros(0x110000, dtype=bool)
"""Whether a code point is a blank; the last one that is, is U+3000."""
_BLANK[[code for code in range(0x3001) if chr(code).isspace()]] = True

Ids = tuple[NDArray[np.int32], NDArray[np.int64]]


class FastTokenizer:
    """A tokenizer of the library `tokenizers`: its ids, and character offsets without the blanks around a token.

    It never changes, and can be pickled. Hangul that is taken apart into letters (NFD, as macOS has it) is put together
    before a tokenizer sees it that would not do so itself.
    """

    def __init__(
        self,
        content: str,
        special: Mapping[str, str],
        *,
        input_names: Sequence[str] = ("input_ids", "token_type_ids", "attention_mask"),
        max_length: int | None = None,
    ) -> None:
        """A tokenizer with the content of a `tokenizer.json`.

        Args:
            content: The content.
            special: Special tokens by the name that transformers has for them: `unk_token`, `pad_token`, `mask_token` …
            input_names: What the encoder takes, of what transformers' tokenizers give.
            max_length: The longest sequence of the encoder, for those who load the tokenizer elsewhere.

        Raises:
            InputError: it has no token for padding or for what it does not know, no template as BERT's or RoBERTa's, or
                makes unknown tokens of Hangul.
        """
        self._content, self._special = content, dict(special)
        self._input_names, self._max_length = tuple(input_names), max_length
        self._backend = _bare(content)
        self.pad_id, self.unk_id = (self._special_id(name) for name in ("pad_token", "unk_token"))
        self._read_template()
        self._check_hangul()
        self._composing = self._backend
        if not self._composes():
            self._composing = _bare(content)
            own = self._composing.normalizer
            self._composing.normalizer = normalizers.Sequence([normalizers.NFC(), *([own] if own else [])])

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self._content, self._special, self._input_names, self._max_length)

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __repr__(self) -> str:
        return f"FastTokenizer(vocab_size={len(self)}, fingerprint={self.fingerprint[:12]!r})"

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all that ids and offsets depend on: the tokenizer, its library, and this code."""
        versions = f"{_CODE_VERSION} {tokenizers.__version__}"
        template = f"{self.cls_id} {self.sep_id} {self.pair_separators} {self.pair_type} {self.pad_id} {self.unk_id}"
        parts = (versions, template, self._composing.to_str())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def encode_batch_flat(self, texts: Sequence[str]) -> Ids:
        """The ids of many texts in one array, without special tokens; see `Tokenizer`."""
        parts = [self._ids(piece) for piece in _pieces(texts)]
        return np.concatenate([ids for ids, _ in parts]), _bounds(np.concatenate([counts for _, counts in parts]))

    def encode_batch_with_offsets(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """`encode_batch_flat`, and where each token lies in its text; see `Tokenizer`."""
        parts = [self._ids_and_offsets(piece) for piece in _pieces(texts)]
        ids, counts, offsets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return ids, _bounds(counts), offsets

    def encode_pair(self, text: str, pair: str, max_length: int | None = None) -> tuple[list[int], list[int]]:
        """Both texts in the tokenizer's own template, and their token types; see `Tokenizer`.

        Raises:
            InputError: `max_length` leaves no room for the special tokens.
        """
        ids, (_, middle, _) = self.encode_batch_flat([text, pair])
        first, second = ids[:middle].tolist(), ids[middle:].tolist()
        if max_length is not None:
            room = max_length - 2 - self.pair_separators
            if room < 0:
                raise InputError(f"max_length {max_length} leaves no room for the special tokens")
            kept, kept_of_pair = keep_longest_first(len(first), len(second), room)
            first, second = first[:kept], second[:kept_of_pair]
        before = [self.cls_id, *first, *[self.sep_id] * self.pair_separators]
        return [*before, *second, self.sep_id], [0] * len(before) + [self.pair_type] * (len(second) + 1)

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write the files that `transformers.AutoTokenizer` loads, without custom code."""
        more: dict[str, object] = {"model_input_names": list(self._input_names)}
        if self._max_length is not None:
            more["model_max_length"] = self._max_length
        content = self._composing.to_str(pretty=True) + "\n"
        write_tokenizer(Path(folder), content, self._special, more)

    @no_collection()
    def _ids(self, texts: Sequence[str]) -> Ids:
        encoded = self._backend_for(texts).encode_batch_fast(_valid(texts), add_special_tokens=False)
        return _flat([one.ids for one in encoded])

    @no_collection()
    def _ids_and_offsets(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        encoded = self._backend_for(texts).encode_batch(_valid(texts), add_special_tokens=False)
        ids, counts = _flat([one.ids for one in encoded])
        spans = chain.from_iterable(chain.from_iterable([one.offsets for one in encoded]))
        offsets = np.fromiter(spans, dtype=np.int32, count=2 * len(ids))
        return ids, counts, _without_blanks(texts, counts, offsets[::2], offsets[1::2])

    def _backend_for(self, texts: Sequence[str]) -> tokenizers.Tokenizer:
        """To compose takes time, and changes nothing where all is composed."""
        composed = self._composing is self._backend or unicodedata.is_normalized("NFC", "\n".join(texts))
        return self._backend if composed else self._composing

    def _special_id(self, name: str) -> int:
        number = self._backend.token_to_id(self._special.get(name, ""))
        if number is None:
            raise InputError(f"the tokenizer has no `{name}`", fix=f"name one in its tokenizer_config.json: `{name}`")
        return number

    def _read_template(self) -> None:
        one, two = (self._backend.encode(text, add_special_tokens=False).ids for text in ("가", "나 다"))
        single, pair = self._backend.encode("가").ids, self._backend.encode("가", "나 다")
        self.cls_id, self.sep_id = single[0], single[-1]
        self.pair_separators = len(pair.ids) - len(one) - len(two) - 2
        between = [self.sep_id] * self.pair_separators
        expected = [self.cls_id, *one, *between, *two, self.sep_id]
        if single != [self.cls_id, *one, self.sep_id] or pair.ids != expected or not 1 <= self.pair_separators <= 2:
            raise InputError(
                f"the tokenizer has a template of its own for pairs: {' '.join(pair.tokens)}",
                fix="it must be `[CLS] text [SEP] pair [SEP]`, or with two [SEP] between both",
            )
        self.pair_type = pair.type_ids[-1] if "token_type_ids" in self._input_names else 0

    def _check_hangul(self) -> None:
        """What is in the vocabulary must not be unknown as a text."""
        tokens = (_HANGUL.fullmatch(token) for token in self._backend.get_vocab(with_added_tokens=False))
        known = sorted(match[1] for match in tokens if match)
        texts = known[:: max(1, len(known) // _PROBES)] or [_SENTENCE]
        encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        unknown = [text for text, one in zip(texts, encoded, strict=True) if not one.ids or self.unk_id in one.ids]
        if len(unknown) <= _MOST_UNKNOWN * len(texts):
            return
        if not known:
            raise InputError(
                f"the tokenizer knows no Hangul: `{_SENTENCE}` becomes {' '.join(encoded[0].tokens)}",
                where="model.tokenizer",
                fix="take an encoder that was trained on Korean",
            )
        raise InputError(
            f"the tokenizer makes {self._special['unk_token']} of Hangul: `{unknown[0]}` is in its vocabulary, but "
            "lower-casing or stripping accents takes it apart first",
            where="model.tokenizer",
            fix="write `do_lower_case: false` and `strip_accents: false` into its tokenizer_config.json",
        )

    def _composes(self) -> bool:
        """Whether the letters of Hangul give the same ids as its syllables."""
        apart = unicodedata.normalize("NFD", _SENTENCE)
        together, again = (self._backend.encode(text, add_special_tokens=False).ids for text in (_SENTENCE, apart))
        return together == again and self.unk_id not in together


def _rebuilt(content: str, special: dict[str, str], names: Sequence[str], max_length: int | None) -> FastTokenizer:
    return FastTokenizer(content, special, input_names=names, max_length=max_length)


def _bare(content: str) -> tokenizers.Tokenizer:
    """The tokenizer of a `tokenizer.json`, without what it would cut off or add."""
    backend = tokenizers.Tokenizer.from_str(content)
    backend.no_truncation()
    backend.no_padding()
    return backend


def _valid(texts: Sequence[str]) -> list[str]:
    """Texts of which each is valid UTF-8, as the library wants them; half of a surrogate pair is unknown."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]
    return list(texts)


def _pieces(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """At least one, which may be empty."""
    return (texts[start : start + _AT_ONCE] for start in range(0, max(len(texts), 1), _AT_ONCE))


def _flat(ids: list[list[int]]) -> Ids:
    """The ids of texts end to end, and how many each text has."""
    counts = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    return np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(counts.sum())), counts


def _bounds(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)])


def _without_blanks(
    texts: Sequence[str], counts: NDArray[np.int64], begin: NDArray[np.int32], end: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Offsets that begin and end with no blank, and of which neither the starts nor the ends of a text descend: of
    shape (tokens, 2)."""
    codes, starts = code_points(texts)
    starts = starts.astype(np.int32)
    is_blank = np.zeros(len(codes) + 1, dtype=bool)
    is_blank[:-1] = _BLANK.take(codes)
    base = np.repeat(starts[:-1], counts)
    begin, end = begin + base, end + base
    while (leading := (begin < end) & is_blank.take(begin)).any():
        begin += leading
    while (trailing := (begin < end) & is_blank.take(end - 1)).any():
        end -= trailing
    # A text's own characters are all after those of the texts before it.
    begin = np.maximum.accumulate(begin)
    end = np.maximum.accumulate(np.maximum(begin, end))
    # A character that melts into the one before it (a final letter, a mark) is left out by the library.
    with_tokens = counts > 0
    upto = np.append(begin[1:], np.int32(0))
    upto[np.cumsum(counts)[with_tokens] - 1] = starts[1:][with_tokens]
    if ((end < upto) & ~is_blank.take(end)).any():
        blank_at = np.where(is_blank, np.arange(len(is_blank), dtype=np.int32), np.int32(len(is_blank)))
        next_blank = np.minimum.accumulate(blank_at[::-1])[::-1]
        end = np.maximum(end, np.minimum(upto, next_blank[end]))
    return np.stack([begin - base, end - base], axis=1)


def load_fast_tokenizer(folder: Path) -> FastTokenizer:
    """The fast tokenizer of a local folder.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    stats = [(name, (folder / name).stat()) for name in FAST_FILES if (folder / name).is_file()]
    return _loaded(folder, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


@lru_cache(maxsize=16)
def _loaded(folder: Path, files: tuple[tuple[str, int, int], ...]) -> FastTokenizer:
    """The one tokenizer of this process for these files: trials on a warm worker share it."""
    from transformers import AutoTokenizer

    try:
        fast: Any = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        content = fast.backend_tokenizer.to_str()
    except Exception as error:  # of each kind of file its own
        raise InputError(
            f"transformers makes no fast tokenizer of these files ({reason_of(error)})",
            where=folder,
            fix="give a folder with a tokenizer.json, or with a `tokenizer_class` in its tokenizer_config.json",
        ) from error
    special = {name: str(token) for name, token in fast.special_tokens_map.items() if name.endswith("_token")}
    names, longest = list(fast.model_input_names), fast.model_max_length
    max_length = longest if longest < 2**31 else None
    config = _config_of(folder)
    if config is not None and (family := FAMILIES.get(config.model_type)):
        max_length = min(max_length or family.positions(config), family.positions(config))
        if not family.tells_types_apart(config):  # it would be given types that it has no embeddings for
            names = [name for name in names if name != "token_type_ids"]
    try:
        return FastTokenizer(content, special, input_names=names, max_length=max_length)
    except InputError as error:
        raise InputError(str(error), where=folder) from None


def _config_of(folder: Path) -> PretrainedConfig | None:
    from transformers import AutoConfig

    import_family(known_type(str(folder)))
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):  # whoever needs one will say so
        return None
    return config
