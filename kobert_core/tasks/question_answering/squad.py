"""Files in the format of SQuAD (1.1, 2.0, KorQuAD 1.0) to contexts and questions. What cannot be used is set aside
with its place and its reason, never silently.

What cannot be used depends on what for. Training needs to know where an answer lies. Scores are a mean over the whole
file, as the official script takes it: they need the texts of answers and no offsets, and a question that no model can
be asked, since its context is broken, counts as well, with an empty answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from kobert_core.data.set_aside import check_usable
from kobert_core.data.source import LocalPart, Part, Source, part_names
from kobert_core.data.text_files import open_text
from kobert_core.errors import InputError
from kobert_core.garbage_collection import no_collection
from kobert_core.texts import character_problem

Use = Literal["training", "scoring", "asking"]
"""What a file is read for. Each needs less of a question than the one before it."""

_KNOWN_VERSION = re.compile(r"(?i)(?!korquad_v2)(.*[^\d.])?(1\.[01]|2\.0)([^\d.].*)?")


@dataclass(frozen=True)
class BadQuestion:
    """A question, or a paragraph with all of its questions, that cannot be used."""

    place: str
    """Its path in the JSON file, such as `data[3].paragraphs[0].qas[2]`."""
    reason: str
    spoils: Use = "asking"
    """The last use that it is no good for; nor is it for those before."""
    questions: int = 1
    """So many questions it stands for."""
    counted: bool = False
    """Whether scores count it all the same, as the official script does."""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"

    def is_bad_for(self, use: Use) -> bool:
        """Whether it cannot be used for this."""
        return get_args(Use).index(use) <= get_args(Use).index(self.spoils)


class Question(NamedTuple):
    """A question on a context."""

    id: str
    """Empty where it has none: then there is no prediction for it."""
    text: str
    context: int
    """Number of its context."""
    golds: list[str]
    """The texts of its answers; none when it cannot be answered."""
    answers: list[tuple[int, int]]
    """Each answer as half-open character positions in the context; none unless it can be trained on."""
    trainable: bool
    """Whether nothing is wrong with it."""
    asked: bool
    """Whether a model can be asked. If not, the answer is empty, or that of the first question with the same id."""


@dataclass(frozen=True, kw_only=True)
class Squad:
    """The questions of a file, in its order, and what of it cannot be used."""

    contexts: list[str] = field(default_factory=list)
    """Empty where the file's is broken."""
    articles: list[str] = field(default_factory=list)
    """Of each context its article's title, or place where there is no title."""
    questions: list[Question] = field(default_factory=list)
    bad: list[BadQuestion] = field(default_factory=list)


@no_collection()
def read_squad(
    path: Source | str | Path, *, use: Use = "training", max_bad_fraction: float = 0.01, encoding: str | None = None
) -> Squad:
    """Read a JSON file in the format of SQuAD, or several: their questions one after another.

    Args:
        path: the file.
        use: what it is read for. `asking` does not look at answers and gives the questions that can be asked; the
            others give all that the official script counts.
        max_bad_fraction: a larger share of questions that are bad for this use is an error. An unusable context counts
            as many as it has questions, and as one when these cannot be counted.
        encoding: of the file, as for `encoding_of`.

    Raises:
        InputError: the file cannot be read, is not in this format or of a version that is not known, has no usable
            question, or too many bad ones.
    """
    source, squad = Source.of(path), Squad()
    place_of_id: dict[str, str] = {}
    usable = 0
    for place, title, paragraph in _all_paragraphs(source, encoding, squad):
        context, entries = paragraph.get("context"), paragraph.get("qas")
        if not isinstance(entries, list):
            squad.bad.append(BadQuestion(place, "`qas` is no list"))
            continue
        problem = text_problem(context, "context")
        if problem is not None:
            context = ""
            counted = bool(entries) and use != "asking"
            squad.bad.append(BadQuestion(place, problem, questions=max(1, len(entries)), counted=counted))
        assert isinstance(context, str)
        squad.contexts.append(context)
        squad.articles.append(title)
        for number, raw in enumerate(entries):
            here = f"{place}.qas[{number}]"
            question, bad = _question(raw, here, context, len(squad.contexts) - 1, place_of_id, use)
            if question is not None:
                squad.questions.append(question)
                if question.asked:
                    place_of_id[question.id] = here
            if problem is None and bad is not None and bad.is_bad_for(use):
                squad.bad.append(bad)
            else:
                usable += problem is None
    unusable = sum(one.questions for one in squad.bad)
    check_usable(
        source,
        squad.bad,
        unit="questions",
        usable=usable,
        unusable=unusable,
        max_bad_fraction=max_bad_fraction,
    )
    return squad


def squad_of(asked: Sequence[tuple[str, str]]) -> Squad:
    """Questions in memory, each with its context before it; ids are their numbers."""
    number_of = {context: number for number, context in enumerate(dict.fromkeys(context for context, _ in asked))}
    questions = [
        Question(str(number), text, number_of[context], golds=[], answers=[], trainable=False, asked=True)
        for number, (context, text) in enumerate(asked)
    ]
    contexts = list(number_of)
    return Squad(contexts=contexts, articles=[str(number) for number in number_of.values()], questions=questions)


def _all_paragraphs(source: Source, encoding: str | None, squad: Squad) -> Iterator[tuple[str, str, dict[str, object]]]:
    """`_paragraphs` of all files; where there are several, places begin with the name of the file."""
    parts = source.parts()
    for part, name in zip(parts, part_names(parts), strict=True):
        content = _parse(part, encoding)
        _check_version(content, part)
        yield from _paragraphs(content["data"], squad, f"{name}: " if len(parts) > 1 else "")


def _parse(part: Part, encoding: str | None) -> dict[str, Any]:
    if not isinstance(part, LocalPart):
        raise InputError("questions are read from JSON files in the format of SQuAD", where=part, fix="give a file")
    try:
        with open_text(part.path, encoding, strict=True) as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is not JSON ({error})", where=part) from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise InputError("is not in the format of SQuAD: it has no list `data`", where=part)
    return content


def _check_version(content: dict[str, object], part: Part) -> None:
    version = content.get("version")
    if isinstance(version, (str, float)) and _KNOWN_VERSION.fullmatch(str(version)):
        return
    raise InputError(
        "has no `version`" if version is None else f"its version {version!r} is not known",
        where=part,
        fix="KorQuAD 1.0, SQuAD 1.1 and SQuAD 2.0 are read; `version` must say 1.0, 1.1 or 2.0",
    )


def _paragraphs(articles: list[object], squad: Squad, file: str) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Place, article and content of each paragraph that is one."""
    for number, article in enumerate(articles):
        place = f"{file}data[{number}]"
        entry: dict[str, object] = article if isinstance(article, dict) else {}
        paragraphs, title = entry.get("paragraphs"), entry.get("title")
        if not isinstance(paragraphs, list):
            squad.bad.append(BadQuestion(place, "`paragraphs` is no list"))
            continue
        for position, paragraph in enumerate(paragraphs):
            here = f"{place}.paragraphs[{position}]"
            if isinstance(paragraph, dict):
                yield here, title if isinstance(title, str) and title else place, paragraph
            else:
                squad.bad.append(BadQuestion(here, "is no object"))


def _question(
    raw: object, place: str, context: str, number: int, place_of_id: dict[str, str], use: Use
) -> tuple[Question | None, BadQuestion | None]:
    """A question of the file, unless nobody can say how it is to be answered, and what is wrong with it."""
    entry: dict[str, object] = raw if isinstance(raw, dict) else {}
    question_id, text = entry.get("id"), entry.get("question")
    no_id, no_text = text_problem(question_id, "id"), text_problem(text, "question")
    unasked = "is no object" if entry is not raw else no_id or no_text
    if unasked is None and question_id in place_of_id:
        unasked = f"id {question_id!r} is already at {place_of_id[question_id]}"
    golds, unscored = _golds(entry) if use != "asking" else ([], None)
    answers = _answers(entry, golds, context) if golds else []
    untrained = answers if isinstance(answers, str) else None
    reason = unasked or unscored or untrained
    asked = unasked is None and bool(context)
    question = None
    if asked if use == "asking" else golds is not None:
        question = Question(
            id="" if no_id else str(question_id),
            text="" if no_text else str(text),
            context=number,
            golds=golds or [],
            answers=answers if isinstance(answers, list) and reason is None else [],
            trainable=reason is None and bool(context),
            asked=asked,
        )
    if reason is None:
        return question, None
    spoils: Use = "asking" if unasked else "scoring" if unscored else "training"
    return question, BadQuestion(place, reason, spoils=spoils, counted=question is not None)


def _golds(entry: dict[str, object]) -> tuple[list[str] | None, str | None]:
    """The texts of a question's answers, None if they are not known; and what is wrong with them."""
    answers = entry.get("answers")
    if not answers:
        if entry.get("is_impossible", False) is True:
            return [], None
        return ([] if answers == [] else None), "no answers"
    if not isinstance(answers, list):
        return None, "`answers` is no list"
    texts = [answer.get("text") if isinstance(answer, dict) else None for answer in answers]
    golds = [text for text in texts if isinstance(text, str)]
    if len(golds) < len(texts):
        return None, next(text_problem(text, "answer") for text in texts if not isinstance(text, str))
    return golds, None


def _answers(entry: dict[str, object], golds: list[str], context: str) -> list[tuple[int, int]] | str:
    """Where the answers of a question lie, or what is wrong with them."""
    if entry.get("is_impossible", False) is True:
        return "is_impossible, but it has answers"
    found, answers = [], entry["answers"]
    assert isinstance(answers, list)
    for answer, text in zip(answers, golds, strict=True):
        problem, start = text_problem(text, "answer"), answer.get("answer_start")
        if problem is not None:
            return problem
        if type(start) is not int or start < 0 or not context.startswith(text, start):
            return f"answer_start {start!r} does not fit the text {text[:40]!r}"
        found.append((start, start + len(text)))
    return found


def text_problem(text: object, name: str) -> str | None:
    """Why a text cannot be used, if so; `name` is what it is called."""
    if not isinstance(text, str):
        return f"{name} is missing" if text is None else f"{name} is not a string but {type(text).__name__}"
    return character_problem(text) if text.strip() else f"{name} is empty"
