"""The tags of a sentence to its entities. All ways to write them come to spans, which have one meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Format = Literal["auto", "klue", "conll", "table", "records"]
"""`klue`: a character and its tag a line. `conll`: a word a line, first or after its number, and its tag last, as in
Naver NER. `table`: a sentence, a tab, and a tag for each of its words. `records`: JSON, Parquet or a data set."""

Scheme = Literal["IOB2", "IOB1", "BIOES"]

OUTSIDE = ("O", "-")
_FIRST = re.compile(r"([BIESLU])[-_](.+)")
_LAST = re.compile(r"(.+)[-_]([BIESLU])")
_SAME_AS = {"L": "E", "U": "S"}
"""BILOU is BIOES by other letters."""


class Tag(NamedTuple):
    """`B-PS`, `PS_B` and `PS-B` are the same."""

    prefix: str
    """B, I, E, S; or O, which has no label."""
    label: str


class Span(NamedTuple):
    """An entity, from its first unit up to the one after its last: units are characters or words."""

    start: int
    end: int
    label: str


class BadTags(ValueError):
    """These are no tags of entities; it says why."""


def parse(tag: str) -> Tag:
    """A tag as it is written.

    Raises:
        BadTags: it is none.
    """
    if tag in OUTSIDE:
        return Tag("O", "")
    if match := _FIRST.fullmatch(tag):
        prefix, label = match.groups()
    elif match := _LAST.fullmatch(tag):
        label, prefix = match.groups()
    else:
        raise BadTags(f"{tag!r:.40} is no tag: they are written O, B-PS, I-PS; or -, PS_B, PS_I")
    return Tag(_SAME_AS.get(prefix, prefix), label)


def is_tag(tag: str) -> bool:
    """Whether this is written as a tag is."""
    return tag in OUTSIDE or bool(_FIRST.fullmatch(tag) or _LAST.fullmatch(tag))


def scheme_of(sentences: Iterable[Sequence[Tag]]) -> Scheme:
    """How the tags of a file are meant.

    BIOES has ends. In IOB1 entities begin with `I-`, and with `B-` only right after another one of the same label. All
    else is IOB2: an `I-` there that continues nothing is a mistake.
    """
    begins_with_i = begins_with_b = False
    for tags in sentences:
        before = Tag("O", "")
        for tag in tags:
            if tag.prefix in "ES":
                return "BIOES"
            is_first = tag.label != before.label
            begins_with_i |= is_first and tag.prefix == "I"
            begins_with_b |= is_first and tag.prefix == "B"
            before = tag
    return "IOB1" if begins_with_i and not begins_with_b else "IOB2"


def spans_of(tags: Sequence[Tag], scheme: Scheme) -> list[Span]:
    """The entities of a sentence.

    Raises:
        BadTags: a tag is against the scheme.
    """
    spans: list[Span] = []
    start: int | None = None
    before = Tag("O", "")
    for place, tag in enumerate([*tags, Tag("O", "")]):
        continues = start is not None and tag.prefix in "IE" and tag.label == before.label
        if not continues:
            if start is not None:
                if scheme == "BIOES" and before.prefix not in "ES":
                    raise BadTags(f"tag {place}: the entity {before.label!r} has no end ({scheme})")
                spans.append(Span(start, place, before.label))
            if tag.prefix in "IE" and not (scheme == "IOB1" and tag.prefix == "I"):
                raise BadTags(f"tag {place + 1}: I-{tag.label} continues no entity ({scheme})")
            start = None if tag.prefix == "O" else place
        elif before.prefix in "ES":
            raise BadTags(f"tag {place + 1}: {tag.prefix}-{tag.label} comes after the end of its entity ({scheme})")
        before = tag
    return spans
