"""What a file of data is probably for: which task, which columns. A guess, with its reasons, for someone to look at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kobert_core.data.dialect import Dialect
from kobert_core.data.formats import read_table
from kobert_core.data.source import LocalPart, Source
from kobert_core.data.text_files import is_compressed, open_text
from kobert_core.errors import InputError
from kobert_core.tasks.labelled_texts.cells import as_string, labels_in
from kobert_core.tasks.labelled_texts.columns import DEFAULT_ID
from kobert_core.tasks.token_classification.formats import ENTITIES, TAGS, TOKENS, format_of
from kobert_core.texts import composed

if TYPE_CHECKING:
    import pandas as pd

TEXTS = (
    *("text", "document", "sentence", "review", "comment", "comments", "content", "body", "utterance", "title"),
    *("텍스트", "문장", "리뷰", "본문", "내용", "댓글", "후기", "발화", "문서", "제목"),
)
PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("text1", "text2"), ("text_a", "text_b")),
    *(("question1", "question2"), ("question", "sentence"), ("질문", "답변"), ("문장1", "문장2"), ("전제", "가설")),
)
LABELS = (
    *("label", "labels", "gold_label", "labels.label", "class", "category", "sentiment", "emotion", "intent", "topic"),
    *("target", "score", "stars", "rating", "라벨", "레이블", "감정", "감성", "분류", "범주", "카테고리", "유형"),
    *("주제", "의도", "정답", "점수", "별점", "평점", "등급"),
)
IDS = ("id", "guid", "uid", "idx", "index", "no", "번호", "순번", "아이디", "일련번호")
"""What columns are called, the likeliest first."""
MAX_ROWS = 20_000
"""Rows that are looked at."""
MAX_CLASSES, FEW = 100, 10
"""Values that a column of labels may have, at most; and those that it may have in a file of few rows."""
MAX_LEVELS = 20
"""Whole numbers of more values than these are amounts, not classes."""
MANY = 0.05
"""Share of the cells that must have a separator in them before they hold several labels."""
SEPARATORS = (",", "|", ";")
LONGEST_NAME = 12
"""A longer name of a column, with a blank in it, is probably a sentence."""
NO_COLUMN = "\0"
"""A column that no file has: all names of all objects are read in search of it."""


@dataclass(frozen=True)
class Guess:
    """What a file is probably for."""

    task: str
    data: dict[str, object]
    """Keys of a study's `data` section, without the files."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why, by the key; `task` is one of them."""
    columns: list[str] = field(default_factory=list)
    """All columns that a table has."""
    labels: list[str] | None = None
    """The labels, where they are classes."""
    rows: int = 0
    """Rows of a table that were looked at."""


def guess(source: Source, *, task: str | None = None, text: str | None = None, label: str | None = None) -> Guess:
    """Look at a file, or at several, and say what they are probably for.

    Args:
        source: The files.
        task: What it is for, where that is known.
        text: The column of the text, where that is known.
        label: The column of the label, where that is known.

    Raises:
        InputError: it cannot be read, or nothing in it looks like texts with labels.
    """
    part = source.parts()[0]
    if isinstance(part, LocalPart) and task in (None, "qa", "korquad") and _is_squad(part):
        return Guess(task or "qa", {}, {"task": "questions on contexts, in the format of SQuAD"})
    if task in ("qa", "korquad"):
        raise InputError("is not in the format of SQuAD", where=source, fix="give a JSON file of questions on contexts")
    if task in (None, "tokens") and text is None and label is None and (found := _entities(source)):
        return found
    if task == "tokens":
        raise InputError("has no entities in a format that is known", where=source, fix="see docs/tokens.md")
    return _of_table(source, task, text, label)


def _is_squad(part: LocalPart) -> bool:
    name = part.path.with_suffix("") if is_compressed(part.path) else part.path
    if name.suffix.lower() != ".json" or not part.path.is_file():
        return False
    try:
        with open_text(part.path) as file:
            content = json.load(file)
    except ValueError:  # who reads it will say so
        return False
    articles = content.get("data") if isinstance(content, dict) else None
    return isinstance(articles, list) and any(isinstance(each, dict) and "paragraphs" in each for each in articles)


def _entities(source: Source) -> Guess | None:
    try:
        kind = format_of(source.parts()[0])
    except InputError:
        return None
    if kind != "records":
        return Guess("tokens", {}, {"task": f"texts with tags such as B-PS, in the format {kind}"})
    names, _ = read_table(source, {NO_COLUMN})
    if TOKENS in names and set(TAGS) & set(names):
        return Guess("tokens", {}, {"task": f"a list of tokens with their tags in `{TOKENS}`"})
    if ENTITIES[0] in names and "text" in names:
        return Guess("tokens", {}, {"task": f"texts with a list of entities in `{ENTITIES[0]}`"})
    return None


def _of_table(source: Source, task: str | None, text: str | None, label: str | None) -> Guess:
    table, data, reasons = _read(source)
    if not len(table):
        raise InputError("has no rows", where=source)
    columns = list(table.columns)
    texts = {name for name in columns if _is_text(table[name])}
    text = _given(source, columns, text, "text")
    label = _given(source, columns, label, "label")
    chosen, why = (text, "given") if text else _text_of(table, [name for name in columns if name in texts - {label}])
    if chosen is None:
        what = f"no column looks like texts; the columns are {_listed(columns)}"
        raise InputError(what, where=source, fix="name it: --text-column")
    data["text_column"], reasons["text_column"] = chosen, why
    pair = _pair_of(columns, chosen, texts)
    if pair and not text:
        first, second = pair
        data["text_column"], data["pair_column"] = first, second
        reasons |= {"text_column": f"the first of a pair, with {second}", "pair_column": f"the second, with {first}"}
    used = {str(data["text_column"]), str(data.get("pair_column"))}
    id_column = _id_of(table, [name for name in columns if name not in used and name != label])
    if id_column:
        used.add(id_column)
    if id_column and composed(id_column) != DEFAULT_ID:
        data["id_column"], reasons["id_column"] = id_column, "no value is there twice"
    elif not id_column and DEFAULT_ID in map(composed, columns):
        data["id_column"], reasons["id_column"] = None, f"the values of `{DEFAULT_ID}` repeat: they name no rows"
    labels = [name for name in columns if name not in used]
    switches = [name for name in labels if _is_switch(table[name])]
    named = next((name for name in LABELS for each in labels if composed(each).lower() == name), None)
    if task in (None, "multilabel") and not label and not named and len(switches) > 1:
        data["label_columns"] = switches
        reasons["label_columns"] = "each is yes or no"
        return Guess("multilabel", data, reasons | {"task": "several columns of yes and no"}, columns, rows=len(table))
    label, why = (label, "given") if label else _label_of(table, labels, task)
    if label is None:
        what = f"no column looks like labels; the columns are {_listed(columns)}"
        raise InputError(what, where=source, fix="name it: --label-column")
    found, because, more, classes = _kind_of(table[label], task)
    data |= {"label_column": label} | more
    reasons |= {"label_column": why, "task": because}
    return Guess(found, data, reasons, columns, classes, len(table))


def _read(source: Source) -> tuple[pd.DataFrame, dict[str, object], dict[str, str]]:
    """The first rows as a table of texts, numbers and lists; and how files of text are to be read."""
    import pandas as pd

    def rows(dialect: Dialect) -> tuple[list[str], list[Sequence[object]]]:
        names, _ = read_table(source, {NO_COLUMN}, dialect)
        names, records = read_table(source, set(map(composed, names)), dialect)
        kept: list[Sequence[object]] = []
        for _, values in records:
            if not isinstance(values, str):
                kept.append(values)
            if len(kept) == MAX_ROWS:
                break
        return names, kept

    said: dict[str, object] = {}
    reasons: dict[str, str] = {}
    dialect = Dialect()
    names, found = rows(dialect)
    if len(names) == 1:
        for delimiter in "\t,;|":
            if delimiter not in names[0]:
                continue
            other = Dialect(delimiter=delimiter)
            split, kept = rows(other)
            if len(split) > 1 and 2 * len(kept) > len(found):
                dialect, names, found = other, split, kept
                said["delimiter"], reasons["delimiter"] = delimiter, "what stands between the names of the columns"
                break
    if found and _is_row(names, found):
        dialect = Dialect(delimiter=dialect.delimiter, header=False)
        names, found = rows(dialect)
        said["header"], reasons["header"] = False, "the first line is a row like the others"
    table = pd.DataFrame(found, columns=names, dtype=object)
    return table.loc[:, ~table.columns.duplicated()], said, reasons


def _is_row(names: Sequence[str], rows: Sequence[Sequence[object]]) -> bool:
    """Whether what should be names of columns are values: a number over numbers, or a sentence beside a class."""
    sentence = any(len(name) > LONGEST_NAME and " " in name for name in names)
    for at, name in enumerate(names):
        values = [as_string(row[at]) for row in rows if at < len(row)]
        if _is_number(name) and values and all(map(_is_number, filter(None, values))):
            return True
        if sentence and name and values.count(name) > 1 and len(set(values)) <= MAX_CLASSES:
            return True
    return False


def _given(source: Source, columns: Sequence[str], name: str | None, role: str) -> str | None:
    """A column that was named, as the file has it."""
    if name is None:
        return None
    for column in columns:
        if composed(column) == composed(name):
            return column
    what = f"no {role} column {name!r}; the columns are {_listed(columns)}"
    raise InputError(what, where=source, fix=f"give one of them: --{role}-column")


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(repr, columns))


def _strings(values: pd.Series) -> pd.Series:
    return values.map(as_string).map(str.strip)


def _filled(values: pd.Series) -> pd.Series:
    texts = _strings(values)
    return texts[texts != ""]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+([.]\d+)?([eE][-+]?\d+)?", text.strip()) is not None


def _is_text(values: pd.Series) -> bool:
    """Whether a column may hold what people wrote."""
    found = _filled(values)
    if not len(found) or values.map(lambda each: isinstance(each, list | dict)).any():
        return False
    letters = ~found.map(_is_number)
    distinct, length = found.nunique() / len(found), found.str.len().mean()
    return bool(letters.mean() > 0.5 and ((distinct > 0.3 and length >= 4) or (distinct > 0.1 and length >= 10)))


def _text_of(table: pd.DataFrame, names: Sequence[str]) -> tuple[str | None, str]:
    for known in TEXTS:
        for name in names:
            if composed(name).lower() == known:
                return name, "by its name"
    if not names:
        return None, ""
    lengths = {name: float(_filled(table[name]).str.len().mean()) for name in names}
    longest = max(names, key=lengths.__getitem__)
    return longest, f"it has the longest texts, {lengths[longest]:.0f} characters on average"


def _pair_of(columns: Sequence[str], text: str, texts: set[str]) -> tuple[str, str] | None:
    """Two columns that belong together by their names, of which one was taken for the text."""
    by_name = {composed(name).lower(): name for name in columns if name in texts}
    own = composed(text).lower()
    for first, second in PAIRS:
        if first in by_name and second in by_name and own in (first, second):
            return by_name[first], by_name[second]
    for one, two in (("1", "2"), ("a", "b")):
        if own.endswith((one, two)):
            first, second = own[:-1] + one, own[:-1] + two
            if first in by_name and second in by_name:
                return by_name[first], by_name[second]
    return None


def _id_of(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """A column that names rows: by its name, and without a value twice."""
    for name in names:
        looks = composed(name).lower()
        if looks in IDS or looks.endswith(("_id", "번호")):
            values = _filled(table[name])
            if len(values) == len(table) and values.is_unique:
                return name
    return None


def _is_switch(values: pd.Series) -> bool:
    found = set(_filled(values).str.lower())
    return bool(found) and (found <= {"0", "1"} or found <= {"true", "false"})


def _label_of(table: pd.DataFrame, names: Sequence[str], task: str | None) -> tuple[str | None, str]:
    able = [name for name in names if _may_be_label(table[name], task)]
    for known in LABELS:
        for name in able:
            if composed(name).lower() == known:
                return name, "by its name"
    if not able:
        return None, ""
    others = f"; others could be: {', '.join(able[:-1])}" if able[:-1] else ""
    return able[-1], f"the last column with few values{others}"


def _may_be_label(values: pd.Series, task: str | None) -> bool:
    if values.map(lambda each: isinstance(each, list)).any():
        return task in (None, "multilabel")
    if values.map(lambda each: isinstance(each, dict)).any():
        return False
    found = _filled(values)
    numbers = len(found) > 0 and found.map(_is_number).all()
    if task == "regression":
        return bool(numbers) and found.nunique() > 1
    few = 1 < found.nunique() <= min(MAX_CLASSES, max(FEW, len(found) // 2))
    return few or bool(numbers and found.nunique() > 1) or _separator_of(found) is not None


def _separator_of(found: pd.Series) -> str | None:
    """What stands between the labels of a cell, where several labels are in one."""
    for separator in SEPARATORS:
        several = found.str.contains(separator, regex=False)
        single = set(found[~several])
        if several.mean() < MANY or not single:
            continue
        labels = {label for cell in found[several] for label in labels_in(cell, separator)}
        if len(labels | single) <= min(MAX_CLASSES, found.nunique()):
            return separator
    return None


def _kind_of(values: pd.Series, task: str | None) -> tuple[str, str, dict[str, object], list[str] | None]:
    """The task of a label column, why, what else the study has to say of it, and the classes."""
    if values.map(lambda each: isinstance(each, list)).any():
        return task or "multilabel", "each row has a list of labels", {}, None
    found = _filled(values)
    separator = None if task not in (None, "multilabel") else _separator_of(found)
    if separator or task == "multilabel":
        more: dict[str, object] = {} if separator in (None, ",") else {"label_separator": separator}
        return "multilabel", f"some rows have several labels, with {separator!r} between them", more, None
    distinct = found.nunique()
    if found.map(_is_number).all():
        numbers = found.astype(float)
        whole = bool((numbers == numbers.round()).all())
        if task == "regression" or (task is None and (not whole or distinct > MAX_LEVELS)):
            return "regression", f"each row has a number, from {numbers.min():g} to {numbers.max():g}", {}, None
    classes = sorted({_plain(label) for label in found}, key=lambda label: (len(label), label))
    return task or "classification", f"each row has one label of {len(classes)}", {}, classes


def _plain(label: str) -> str:
    """`2.0` as `2`: so pandas writes a column that had a gap."""
    return composed(label.removesuffix(".0") if _is_number(label) else label)
