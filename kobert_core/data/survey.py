"""What is worth knowing of the data before hours are spent on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kobert_core.data.source import Source

Digests = NDArray[np.uint64]


class Leak(NamedTuple):
    """How much of a split is trained on."""

    split: str
    found: int
    total: int

    @property
    def share(self) -> float:
        return self.found / max(1, self.total)

    @property
    def fact(self) -> tuple[str, str]:
        """What it is, and how much."""
        return f"{self.split} texts in train", share_of(self.found, self.total)

    def __str__(self) -> str:
        """In words: `3 of 120 (2.50%) texts of dev are trained on`."""
        return f"{share_of(self.found, self.total)} texts of {self.split} are trained on"


class ContextLeak(Leak):
    """How many questions of a split are on a context that is trained on."""

    @property
    def fact(self) -> tuple[str, str]:
        return f"{self.split} contexts in train", f"those of {share_of(self.found, self.total)} questions"

    def __str__(self) -> str:
        return f"{share_of(self.found, self.total)} questions of {self.split} are on contexts that are trained on"


class Survey(NamedTuple):
    """What was found, for people."""

    facts: list[tuple[str, str]]
    """What each is, and how much of it there is."""
    warnings: list[str]
    """One line for each thing that is probably a mistake."""


class CutOff(NamedTuple):
    """What does not fit into an example."""

    what: str
    """Such as `texts cut off`."""
    key: str
    """The key of the study that decides it."""
    limit: int
    """What the key says, in tokens."""
    share: float
    """How much of the training split it befalls."""
    bearable: float = 0.5
    """A larger share is probably a mistake."""


def text_digests(texts: Iterable[str]) -> Digests:
    """A number for each text, the same for texts that differ in white space around them alone.

    Of a million texts, two that differ have the same number once in 40 million files.
    """
    digests = (hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8) for text in texts)
    return np.frombuffer(b"".join(digest.digest() for digest in digests), dtype=np.uint64)


def share_of(count: int, total: int) -> str:
    """Such as `3 of 120 (2.50%)`."""
    return f"{count:,} of {total:,} ({count / max(1, total):.2%})"


def same_files(files: Mapping[str, Source | None]) -> list[tuple[str, str]]:
    """Pairs of files with the same content, the earlier one first; by what they are for, such as `train` and `test`."""
    digests = {name: Source.of(source).digest() for name, source in files.items() if source}
    names = list(digests)
    return [
        (name, other)
        for place, name in enumerate(names)
        for other in names[place + 1 :]
        if digests[name] == digests[other]
    ]


def warn_of_same_files(files: Mapping[str, Source | None]) -> list[str]:
    """One line for each pair of files with the same content."""
    return [
        f"the {other} file has the same content as the {name} file ({files[other]}): what is measured on it is no "
        "measure of new texts"
        for name, other in same_files(files)
    ]
