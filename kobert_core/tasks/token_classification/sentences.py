"""Files to texts with entities. A text that cannot be used is set aside with its line and its reason, never
silently."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kobert_core.data.arrow_tables import ROWS_AT_ONCE
from kobert_core.data.dialect import DEFAULT, Dialect
from kobert_core.data.set_aside import BadRow, check_usable
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.garbage_collection import no_collection
from kobert_core.tasks.token_classification.formats import Bad, Raw, Words, read_raw, read_unlabelled
from kobert_core.tasks.token_classification.tags import BadTags, Format, Scheme, Span, Tag, parse, scheme_of, spans_of
from kobert_core.texts import plain_or_distinct, text_problem

LABELS_SHOWN = 20


class Sentence(NamedTuple):
    """A text, and its entities in characters of it: none overlaps another, none begins or ends with a blank."""

    id: str
    text: str
    words: Words | None
    """What the file tags; None when these are characters."""
    spans: list[Span]


class Sentences(NamedTuple):
    """The usable texts of a file, in its order, and those that were set aside."""

    usable: list[Sentence]
    bad: list[BadRow]


def read_sentences(
    path: Source,
    kind: Format,
    text_column: str,
    labels: Sequence[str],
    *,
    max_bad_fraction: float,
    dialect: Dialect = DEFAULT,
    tag_names: Sequence[str] = (),
) -> Sentences:
    """Read a labelled file.

    Args:
        path: The file, or several.
        kind: Its format.
        text_column: The column of the text in records.
        labels: The labels that entities may have.
        max_bad_fraction: A larger share of texts that are set aside is an error.
        dialect: How files of text are to be read.
        tag_names: The tags that numbers stand for in records.

    Raises:
        InputError: the file cannot be read, or has too little that can be used.
    """
    found = _checked(read_raw(path, kind, text_column, dialect, tag_names), labels)
    _check_enough(path, len(found.usable), found.bad, max_bad_fraction)
    return found


def text_parts(
    path: Source, text_column: str, *, max_bad_fraction: float, dialect: Dialect = DEFAULT, size: int = ROWS_AT_ONCE
) -> Iterator[Sentences]:
    """Read a file to predict, whose entities, if it has any, are not looked at, in parts of `size` texts.

    That there are too many bad texts is known, and raised, after the last part.

    Raises:
        InputError: as from `read_sentences`.
    """
    raw, usable, bad = read_unlabelled(path, text_column, dialect), 0, list[BadRow]()
    while some := list(itertools.islice(raw, size)):
        found = _checked((one._replace(tags=None, spans=[]) if isinstance(one, Raw) else one for one in some), ())
        usable += len(found.usable)
        bad.extend(found.bad)
        yield found
    _check_enough(path, usable, bad, max_bad_fraction)


def _check_enough(path: Source, usable: int, bad: Sequence[BadRow], max_bad_fraction: float) -> None:
    check_usable(path, bad, unit="texts", usable=usable, unusable=len(bad), max_bad_fraction=max_bad_fraction)


def infer_labels(
    path: Source, kind: Format, text_column: str, dialect: Dialect = DEFAULT, *, tag_names: Sequence[str] = ()
) -> list[str]:
    """The labels of the usable texts of a file, in order.

    Raises:
        InputError: the file cannot be read, or has no entities.
    """
    found = _checked(read_raw(path, kind, text_column, dialect, tag_names), None)
    labels = sorted({span.label for sentence in found.usable for span in sentence.spans})
    if not labels:
        why = f" ({found.bad[0]})" if found.bad else ""
        raise InputError(f"no text has an entity{why}", where=path, fix="check `data.format`")
    return labels


@no_collection()
def _checked(raw: Iterable[Raw | Bad], labels: Sequence[str] | None) -> Sentences:
    """`labels` None lets all pass."""
    parsed: list[tuple[Raw, list[Tag] | None] | BadRow] = []
    for one in raw:
        if not isinstance(one, Raw):
            parsed.append(BadRow(*one))
            continue
        try:
            parsed.append((one, None if one.tags is None else [parse(tag) for tag in one.tags]))
        except BadTags as error:
            parsed.append(BadRow(one.line, str(error)))
    scheme = scheme_of(one[1] for one in parsed if not isinstance(one, BadRow) and one[1] is not None)
    found = Sentences([], [])
    for each in parsed:
        if isinstance(each, BadRow):
            found.bad.append(each)
            continue
        try:
            found.usable.append(_sentence(*each, scheme, labels))
        except BadTags as error:
            found.bad.append(BadRow(each[0].line, str(error)))
    return found


def _sentence(raw: Raw, tags: list[Tag] | None, scheme: Scheme, labels: Sequence[str] | None) -> Sentence:
    problem = text_problem(raw.text)
    if problem is None and raw.words is not None and any(not raw.text[s:e].strip() for s, e in raw.words):
        problem = "an empty word"
    if problem is not None:
        raise BadTags(problem)
    spans = sorted(raw.spans or [])
    if tags is not None:
        spans = spans_of(tags, scheme)
        if raw.words is not None:
            spans = [Span(raw.words[s][0], raw.words[e - 1][1], label) for s, e, label in spans]
    trimmed = [_without_blanks(raw.text, span) for span in spans]
    if any(one.end > other.start for one, other in itertools.pairwise(trimmed)):
        raise BadTags("entities overlap")
    if labels is not None and (other := next((span.label for span in trimmed if span.label not in labels), None)):
        there = ", ".join(map(plain_or_distinct, labels[:LABELS_SHOWN]))
        raise BadTags(f"the label {other!r:.40} is none of {there} (`data.labels`)")
    return Sentence(raw.id, raw.text, raw.words, trimmed)


def _without_blanks(text: str, span: Span) -> Span:
    if not 0 <= span.start < span.end <= len(text):
        raise BadTags(f"the entity {span.start}:{span.end} is outside of the text of {len(text)} characters")
    if not span.label.strip() or span.label == "O":
        raise BadTags(f"{span.label!r} is no label of an entity")
    part = text[span.start : span.end]
    if not part.strip():
        raise BadTags(f"the entity {span.start}:{span.end} is blank")
    return Span(span.start + len(part) - len(part.lstrip()), span.end - len(part) + len(part.rstrip()), span.label)
