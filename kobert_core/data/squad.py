"""Files in the format of SQuAD (1.1, 2.0, KorQuAD 1.0) to contexts and questions. What cannot be used is set aside
with its place and its reason, never silently."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kobert_core.data.formats import BOM, character_problem
from kobert_core.errors import InputError
from kobert_core.garbage import no_collection

PLACES_SHOWN = 5

_KNOWN_VERSION = re.compile(r"(?i)(?!korquad_v2)(.*[^\d.])?(1\.[01]|2\.0)([^\d.].*)?")


@dataclass(frozen=True)
class BadQuestion:
    """A question, or a paragraph with all of its questions, that was set aside."""

    place: str
    """Its path in the JSON file, such as `data[3].paragraphs[0].qas[2]`."""
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Question(NamedTuple):
    """A question on a context."""

    id: str
    text: str
    context: int
    """Number of its context."""
    answers: list[tuple[int, int]]
    """Each answer as half-open character positions in the context; empty when it cannot be answered."""


@dataclass(frozen=True, kw_only=True)
class Squad:
    """The usable questions of a file, in its order, and what was set aside."""

    path: Path
    version: str
    contexts: list[str] = field(default_factory=list)
    articles: list[str] = field(default_factory=list)
    """Of each context its article's title, or place where there is no title."""
    questions: list[Question] = field(default_factory=list)
    bad: list[BadQuestion] = field(default_factory=list)


@no_collection()
def read_squad(path: str | Path, *, labelled: bool = True, max_bad_fraction: float = 0.01) -> Squad:
    """Read a JSON file in the format of SQuAD.

    Args:
        path: the file.
        labelled: False reads questions to answer: answers are not looked at.
        max_bad_fraction: a larger share of bad questions is an error. An unusable context counts as many as it has
            questions, and as one when these cannot be counted.

    Raises:
        InputError: the file cannot be read, is not in this format or of a version that is not known, has no usable
            question, or too many bad ones.
    """
    path = Path(path)
    content = _parse(path)
    squad = Squad(path=path, version=_version(content, path))
    place_of_id: dict[str, str] = {}
    bad = 0
    for place, title, paragraph in _paragraphs(content["data"], squad):
        context, questions = paragraph.get("context"), paragraph.get("qas")
        problem = "`qas` is no list" if not isinstance(questions, list) else _text_problem(context, "context")
        if problem is not None:
            squad.bad.append(BadQuestion(place, problem))
            bad += len(questions) - 1 if isinstance(questions, list) and questions else 0
            continue
        assert isinstance(context, str) and isinstance(questions, list)
        squad.contexts.append(context)
        squad.articles.append(title)
        for number, raw in enumerate(questions):
            here = f"{place}.qas[{number}]"
            question = _question(raw, context, len(squad.contexts) - 1, place_of_id, labelled)
            if isinstance(question, str):
                squad.bad.append(BadQuestion(here, question))
            else:
                place_of_id[question.id] = here
                squad.questions.append(question)
    _check_bad(squad, bad + len(squad.bad), max_bad_fraction)
    return squad


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes().removeprefix(BOM).decode())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON ({error})", where=path) from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise InputError("is not in the format of SQuAD: it has no list `data`", where=path)
    return content


def _version(content: dict[str, Any], path: Path) -> str:
    version = content.get("version")
    if isinstance(version, (str, float)) and _KNOWN_VERSION.fullmatch(str(version)):
        return str(version)
    raise InputError(
        "has no `version`" if version is None else f"its version {version!r} is not known",
        where=path,
        fix="KorQuAD 1.0, SQuAD 1.1 and SQuAD 2.0 are read; `version` must say 1.0, 1.1 or 2.0",
    )


def _paragraphs(articles: list[Any], squad: Squad) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place, article and content of each paragraph that is one."""
    for number, article in enumerate(articles):
        place = f"data[{number}]"
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            squad.bad.append(BadQuestion(place, "`paragraphs` is no list"))
            continue
        title = article.get("title")
        for position, paragraph in enumerate(paragraphs):
            here = f"{place}.paragraphs[{position}]"
            if isinstance(paragraph, dict):
                yield here, title if isinstance(title, str) and title else place, paragraph
            else:
                squad.bad.append(BadQuestion(here, "is no object"))


def _question(raw: Any, context: str, number: int, place_of_id: dict[str, str], labelled: bool) -> Question | str:
    """A question of the file, or why it is none."""
    if not isinstance(raw, dict):
        return "is no object"
    question_id = raw.get("id")
    problem = _text_problem(question_id, "id") or _text_problem(raw.get("question"), "question")
    if problem is not None:
        return problem
    assert isinstance(question_id, str)
    if question_id in place_of_id:
        return f"id {question_id!r} is already at {place_of_id[question_id]}"
    answers = _answers(raw, context) if labelled else []
    if isinstance(answers, str):
        return answers
    return Question(id=question_id, text=raw["question"], context=number, answers=answers)


def _answers(raw: dict[str, Any], context: str) -> list[tuple[int, int]] | str:
    """Where the answers of a question lie, or what is wrong with them."""
    answers, is_impossible = raw.get("answers"), raw.get("is_impossible", False) is True
    if not answers:
        return [] if is_impossible else "no answers"
    if is_impossible:
        return "is_impossible, but it has answers"
    if not isinstance(answers, list):
        return "`answers` is no list"
    found = []
    for answer in answers:
        text = answer.get("text") if isinstance(answer, dict) else None
        start = answer.get("answer_start") if isinstance(answer, dict) else None
        problem = _text_problem(text, "answer")
        if problem is not None:
            return problem
        assert isinstance(text, str)
        if type(start) is not int or start < 0 or not context.startswith(text, start):
            return f"answer_start {start!r} does not fit the text {text[:40]!r}"
        found.append((start, start + len(text)))
    return found


def _text_problem(text: Any, name: str) -> str | None:
    if not isinstance(text, str):
        return f"{name} is missing" if text is None else f"{name} is not a string but {type(text).__name__}"
    return character_problem(text) if text.strip() else f"{name} is empty"


def _check_bad(squad: Squad, bad: int, max_bad_fraction: float) -> None:
    total = bad + len(squad.questions)
    if total == 0:
        raise InputError("has no questions", where=squad.path)
    if squad.questions and bad / total <= max_bad_fraction:
        return
    places = "; ".join(map(str, squad.bad[:PLACES_SHOWN])) + ("; …" if len(squad.bad) > PLACES_SHOWN else "")
    shares = f"{bad / total:.2%}, at most {max_bad_fraction:.2%} may be"
    count = (
        f"{bad:,} of {total:,} questions are bad ({shares})"
        if squad.questions
        else f"none of its {total:,} questions can be used"
    )
    raise InputError(f"{count}: {places}", where=squad.path)
