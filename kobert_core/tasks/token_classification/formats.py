"""Files to texts with tags or entities, one function a format. Whether these make sense is not looked at here."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from typing_extensions import TypeIs

from kobert_core.data.dialect import DEFAULT, Dialect
from kobert_core.data.formats import Line, Record, read_table
from kobert_core.data.source import LocalPart, Part, Source, part_names
from kobert_core.data.text_files import is_compressed, read_lines
from kobert_core.errors import InputError
from kobert_core.tasks.token_classification.tags import Format, Span, is_tag

RECORDS = (".jsonl", ".ndjson", ".json-lines", ".json", ".parquet")
HEAD = 1000
"""Lines by which a format is told."""
FITS = 0.9
"""Part of these that must be as the format has them."""
COMMENT = "##"
NUMBERS_SHOWN = 30
TOKENS, TAGS, ENTITIES, ID = "tokens", ("ner_tags", "tags"), ("entities", "label"), "id"

Words = list[tuple[int, int]]
"""Where each word of a text begins and ends."""


class Raw(NamedTuple):
    """A text as a file has it."""

    line: Line
    id: str
    text: str
    words: Words | None = None
    """What the file tags; None when these are characters."""
    tags: list[str] | None = None
    """One for each word or character."""
    spans: list[Span] | None = None
    """In the place of tags: entities, in characters."""


Bad = tuple[Line, str]
"""The line of a text that cannot be used, and why."""


Lines = Callable[[], Iterator[str]]
"""Reads the lines of a file, from the first one."""


def read_raw(
    source: Source, kind: Format, text_column: str, dialect: Dialect = DEFAULT, tag_names: Sequence[str] = ()
) -> Iterator[Raw | Bad]:
    """The texts of a labelled file, or of several, in their order.

    Raises:
        InputError: a file cannot be read, is of no format that is known, or has numbers without names for tags.
    """

    def read(part: Part) -> Iterator[Raw | Bad]:
        found = format_of(part, dialect) if kind == "auto" else kind
        if found == "records":
            return _records(part, text_column, dialect, tag_names)
        return _TEXT_FORMATS[found](_lines_of(part, dialect))

    return _all_parts(source, read)


def read_unlabelled(source: Source, text_column: str, dialect: Dialect = DEFAULT) -> Iterator[Raw | Bad]:
    """The texts of what is to be predicted: labelled files, tables with a column of texts, or a text a line."""

    def read(part: Part) -> Iterator[Raw | Bad]:
        suffix = _suffix(part)
        if suffix in (*RECORDS, ".csv"):
            return _records(part, text_column, dialect, labelled=False)
        lines = _lines_of(part, dialect)
        if (kind := _told(lines)) is not None:
            return _TEXT_FORMATS[kind](lines)
        if suffix == ".tsv" or text_column in next(lines(), "").split("\t"):
            return _records(part, text_column, dialect, labelled=False)
        return (Raw(number, str(number), line) for number, line in enumerate(lines(), start=1))

    return _all_parts(source, read)


def _all_parts(source: Source, read: Callable[[Part], Iterator[Raw | Bad]]) -> Iterator[Raw | Bad]:
    """What is read of each part; where there are several, lines are named with the file."""
    parts = Source.of(source).parts()
    for part, name in zip(parts, part_names(parts), strict=True):
        for one in read(part):
            if len(parts) == 1:
                yield one
            elif isinstance(one, Raw):
                yield one._replace(line=f"{name}:{one.line}")
            else:
                yield f"{name}:{one[0]}", one[1]


def _suffix(part: Part) -> str:
    """The suffix that tells what a part is; that of records where it is no file of text."""
    if not isinstance(part, LocalPart) or part.within is not None or part.path.is_dir():
        return RECORDS[0]
    return (part.path.with_suffix("") if is_compressed(part.path) else part.path).suffix.lower()


def _lines_of(part: Part, dialect: Dialect) -> Lines:
    assert isinstance(part, LocalPart)
    return partial(_whole_lines, part, dialect)


def _whole_lines(part: LocalPart, dialect: Dialect) -> Iterator[str]:
    return (line.removesuffix("\r") for line in read_lines(part.path, dialect.encoding))


def format_of(part: Part, dialect: Dialect = DEFAULT) -> Format:
    """The format of a labelled file, by its suffix or its first lines.

    Raises:
        InputError: the file cannot be read, or they leave a doubt.
    """
    kind = "records" if _suffix(part) in RECORDS else _told(_lines_of(part, dialect))
    if kind is None:
        raise InputError(
            "its first lines are of no format that is known",
            where=part,
            fix="name it, `data.format: klue`, `conll`, `table` or `records`, and each bad line is told",
        )
    return kind


def _told(lines: Lines) -> Format | None:
    rows = [line for line in itertools.islice(lines(), HEAD) if line.strip() and not line.startswith(COMMENT)]

    def fits(test: Callable[[str], bool], some: list[str]) -> bool:
        return bool(some) and sum(map(test, some)) >= FITS * len(some)

    if fits(_is_character, rows):
        return "klue"
    body = rows if rows and _is_tagged_sentence(rows[0]) else rows[1:]
    if fits(_is_tagged_sentence, body) and any(" " in row.split("\t")[1].strip() for row in body):
        return "table"
    return "conll" if fits(_is_tagged_word, [row for row in rows if not _is_aside(row)]) else None


def _is_character(line: str) -> bool:
    fields = line.split("\t")
    return len(fields) == 2 and len(fields[0]) == 1 and is_tag(fields[1])


def _is_tagged_sentence(line: str) -> bool:
    text, tab, tags = line.partition("\t")
    return bool(tab) and len(text.split()) == len(tags.split()) and all(map(is_tag, tags.split()))


def _is_tagged_word(line: str) -> bool:
    fields = _fields(line)
    return len(fields) > 1 and is_tag(fields[-1])


def _is_aside(line: str) -> bool:
    """Whether a line of columns belongs to no sentence."""
    return line.startswith(("-DOCSTART-", COMMENT)) or (line.startswith("#") and not is_tag(_fields(line)[-1]))


def _fields(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


class _Block(NamedTuple):
    """Lines between empty ones."""

    line: int
    """The number of the first that is no comment."""
    comments: list[str]
    rows: list[str]


def _blocks(lines: Lines, is_comment: Callable[[str], bool]) -> Iterator[_Block]:
    comments, rows, begin = list[str](), list[str](), 0
    for number, line in enumerate(itertools.chain(lines(), [""]), start=1):
        if not line.strip():
            if rows:
                yield _Block(begin, comments, rows)
            comments, rows = [], []
        elif is_comment(line):
            comments.append(line)
        else:
            begin = begin if rows else number
            rows.append(line)


def _klue(lines: Lines) -> Iterator[Raw | Bad]:
    for block in _blocks(lines, lambda line: line.startswith(COMMENT)):
        fields = [row.split("\t") for row in block.rows]
        wrong = next((place for place, row in enumerate(fields) if len(row) != 2 or len(row[0]) != 1), None)
        if wrong is not None:
            yield block.line + wrong, "no character, tab and tag"
            continue
        named = [comment.removeprefix(COMMENT).split("\t")[0].strip() for comment in block.comments if "\t" in comment]
        characters, tags = zip(*fields, strict=True)
        yield Raw(block.line, named[-1] if named else str(block.line), "".join(characters), tags=list(tags))


def _conll(lines: Lines) -> Iterator[Raw | Bad]:
    blocks = list(_blocks(lines, _is_aside))
    word_at = int(all(map(_is_numbered, blocks[:HEAD])))
    for block in blocks:
        fields = [_fields(row) for row in block.rows]
        wrong = next((place for place, row in enumerate(fields) if len(row) < 2 + word_at), None)
        if wrong is not None:
            yield block.line + wrong, "no word and tag"
            continue
        text, words = _joined([row[word_at] for row in fields], " ")
        yield Raw(block.line, str(block.line), text, words, [row[-1] for row in fields])


def _is_numbered(block: _Block) -> bool:
    fields = [_fields(row) for row in block.rows]
    counts = [str(number) for number in range(1, len(fields) + 1)]
    return [row[0] for row in fields] == counts and all(len(row) > 2 for row in fields)


def _table(lines: Lines) -> Iterator[Raw | Bad]:
    for number, line in enumerate(lines(), start=1):
        text, tab, rest = line.partition("\t")
        tags, words = rest.split(), [match.span() for match in re.finditer(r"\S+", text)]
        if number == 1 and not all(map(is_tag, tags)):
            continue  # a header
        if not tab:
            yield number, "no tab between a sentence and its tags" if text.strip() else "empty line"
        elif len(words) != len(tags):
            yield number, f"{len(tags)} tags for {len(words)} words"
        else:
            yield Raw(number, str(number), text, words, tags)


_TEXT_FORMATS: dict[str, Callable[[Lines], Iterator[Raw | Bad]]] = {"klue": _klue, "conll": _conll, "table": _table}


def _joined(tokens: Iterable[str], between: str) -> tuple[str, Words]:
    words, parts, at = Words(), list[str](), 0
    for token in tokens:
        words.append((at, at + len(token)))
        parts.append(token)
        at += len(token) + len(between)
    return between.join(parts), words


def _records(
    part: Part, text_column: str, dialect: Dialect, tag_names: Sequence[str] = (), *, labelled: bool = True
) -> Iterator[Raw | Bad]:
    names, records = read_table(Source((str(part),)), {text_column, TOKENS, *TAGS, *ENTITIES, ID}, dialect)
    tags_at, entities_at = (next((names.index(one) for one in some if one in names), None) for some in (TAGS, ENTITIES))
    id_at = names.index(ID) if ID in names else None
    by_tokens = TOKENS in names and (tags_at is not None or text_column not in names)
    labels_at = tags_at if by_tokens else entities_at
    if not (by_tokens or text_column in names) or (labelled and labels_at is None):
        need = f"{TOKENS!r} and {TAGS[0]!r}, or {text_column!r} and {ENTITIES[0]!r}" if labelled else repr(text_column)
        raise InputError(f"needs the columns {need}; it has {', '.join(map(repr, names[:20]))}", where=part)
    between = " "
    if by_tokens:  # all of them tell what they are
        records = iter(rows := list(records))
        between = "" if _are_characters(rows, names.index(TOKENS)) else " "
        if labelled and tags_at is not None and not tag_names:
            _check_not_numbers(
                part, names[tags_at], [values[tags_at] for _, values in rows if not isinstance(values, str)]
            )
    for number, (line, values) in enumerate(records, start=1):
        if isinstance(values, str):
            yield line, values
            continue
        name = str(number if id_at is None or values[id_at] is None else values[id_at])
        if by_tokens:
            tags = None if tags_at is None else values[tags_at]
            if labelled and tags is None:
                yield line, "no tags"
                continue
            yield _of_tokens(line, name, values[names.index(TOKENS)], tags if labelled else None, between, tag_names)
        else:
            entities = values[entities_at] if entities_at is not None else []
            yield _of_text(line, name, values[names.index(text_column)], entities if labelled else [])


def _are_characters(rows: list[Record], at: int) -> bool:
    """Whether what a file calls tokens are characters, blanks among them."""
    lists = (values[at] for _, values in rows if not isinstance(values, str) and isinstance(values[at], list))
    tokens: Iterator[Any] = itertools.chain.from_iterable(lists)  # type: ignore[arg-type]
    return all(isinstance(token, str) and len(token) == 1 for token in tokens)


def _check_not_numbers(part: Part, column: str, tags: Sequence[object]) -> None:
    """Refuse a file whose tags are all numbers: which tag each stands for is not for us to guess.

    Raises:
        InputError: they are; it lists them.
    """
    if not all(map(_are_numbers, tags)):
        return
    counts = Counter(itertools.chain.from_iterable(cast(Iterable[list[int]], tags)))
    if not counts:
        return
    some = ", ".join(f"{number} ({count:,})" for number, count in sorted(counts.items())[:NUMBERS_SHOWN])
    more = ", …" if len(counts) > NUMBERS_SHOWN else ""
    raise InputError(
        f"{column!r} has numbers in the place of tags: {some}{more}",
        where=part,
        fix=f"name the tags of 0 to {max(counts)} in this order, such as `data.tag_names: [O, B-PS, I-PS]`",
    )


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _of_tokens(
    line: Line, name: str, tokens: object, tags: object, between: str, tag_names: Sequence[str]
) -> Raw | Bad:
    if not _are_strings(tokens) or not tokens:
        return line, "`tokens` is no list of texts"
    text, words = _joined(tokens, between)
    if tags is None:
        return Raw(line, name, text, words if between else None, ["O"] * len(tokens))
    if tag_names and isinstance(tags, list) and _are_numbers(tags):
        if outside := next((number for number in tags if not 0 <= number < len(tag_names)), None):
            return line, f"the tag {outside} is none of 0 to {len(tag_names) - 1}, which `data.tag_names` names"
        tags = [tag_names[number] for number in tags]
    if not _are_strings(tags):
        return line, "the tags are no list of texts, such as B-PS"
    if len(tags) != len(tokens):
        return line, f"{len(tags)} tags for {len(tokens)} tokens"
    return Raw(line, name, text, words if between else None, tags)


def _are_strings(values: object) -> TypeIs[list[str]]:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _of_text(line: Line, name: str, text: object, entities: object) -> Raw | Bad:
    if not isinstance(text, str):
        return line, "no text"
    if not isinstance(entities, list):
        return line, "no list of entities"
    spans = [_span(entity) for entity in entities]
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return line, f"entity {spans.index(None) + 1} has no start, end and label"
    return Raw(line, name, text, spans=known)


def _span(entity: object) -> Span | None:
    """`{"start": 0, "end": 2, "label": "PS"}`, the same with `start_offset` and `end_offset`, or `[0, 2, "PS"]`."""
    if isinstance(entity, dict):
        start, end = (entity.get(side, entity.get(f"{side}_offset")) for side in ("start", "end"))
        entity = [start, end, entity.get("label")]
    if not isinstance(entity, list) or list(map(type, entity)) != [int, int, str]:
        return None
    return Span(*entity)
