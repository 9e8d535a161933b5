"""What the winner answered: kinds of right and wrong, and the answers that are most worth reading.

What the answers are like is seen by the records themselves, as `Task.review` gives them: no task is named here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from tuning.sweep_dir.reviews import Review

Record = Mapping[str, Any]
Kind = Literal["class", "labels", "number", "entities", "answer"]
MOST_ERRORS = 30
LONGEST_TEXT = 400
AROUND_ANSWER = 90
"""Characters of a context that are shown on either side of an answer."""
OTHER = "another"
QUESTION_WORDS = {
    "누구 (who)": r"누구|누가|누굴",
    "언제 (when)": r"언제|몇\s?년|몇\s?월|며칠|몇\s?일|몇\s?시|연도",
    "어디 (where)": r"어디|어느\s?(?:나라|곳|지역|도시)",
    "왜 (why)": r"왜|이유",
    "어떻게 (how)": r"어떻게|어떠",
    "몇, 얼마 (how many)": r"몇|얼마",
    "어떤, 어느 (which)": r"어떤|어느",
    "무엇 (what)": r"무엇|무슨|뭐|뭘|무얼",
}
"""The first that is found in a question is its kind."""
LENGTHS = ((1, 2), (3, 5), (6, 10), (11, 20), (21, 10**9))
"""Characters of an expected answer."""


def kind_of(review: Review) -> Kind:
    """What an answer is, in these records."""
    if "question" in review[0]:
        return "answer"
    wanted = review[0]["expected"]
    if isinstance(wanted, str):
        return "class"
    if isinstance(wanted, int | float):
        return "number"
    entries = (entry for record in review for side in ("expected", "predicted") for entry in record[side])
    return "entities" if isinstance(next(entries, ""), dict) else "labels"


class Scores(NamedTuple):
    """Of one class, label or kind of entity, in all reviews together."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    """How often it was expected."""


def confusion_counts(reviews: Sequence[Review], names: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """The classes, and how many rows of each were taken for which; `names` says their order."""
    pairs = Counter((record["expected"], record["predicted"]) for review in reviews for record in review)
    there = {name for pair in pairs for name in pair}
    order = [*(name for name in names if name in there), *sorted(there - set(names))]
    return order, [[pairs[wanted, given] for given in order] for wanted in order]


def scores_by_label(reviews: Sequence[Review]) -> list[Scores]:
    """Precision, recall and F1 of what a record may have several of, or one; the most frequent first."""
    gold, given, right = Counter[str](), Counter[str](), Counter[str]()
    for record in (record for review in reviews for record in review):
        wanted, found = _entries(record["expected"]), _entries(record["predicted"])
        gold.update(map(_label, wanted))
        given.update(map(_label, found))
        right.update(_label(entry) for entry in found if entry in wanted)
    scores = []
    for name, support in (gold + Counter(dict.fromkeys(given.keys() - gold.keys(), 0))).most_common():
        scores.append(_score(name, support, given[name], right[name]))
    scores += [_score(name, 0, given[name], 0) for name in sorted(given.keys() - gold.keys())]
    return scores


def _score(name: str, gold: int, given: int, right: int) -> Scores:
    return Scores(
        name, right / given if given else 0.0, right / gold if gold else 0.0, 2 * right / (gold + given), gold
    )


def _entries(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _label(entry: Any) -> str:
    return str(entry["label"] if isinstance(entry, dict) else entry)


@dataclass(frozen=True)
class Group:
    """Questions of one kind."""

    name: str
    questions: int
    exact_match: float
    """Percent, as F1."""
    f1: float


def by_question_word(reviews: Sequence[Review]) -> list[Group]:
    """EM and F1 by what is asked for."""
    return _grouped(reviews, lambda record: question_word(record["question"]), [*QUESTION_WORDS, OTHER])


def question_word(question: str) -> str:
    """The kind of a question, by the word that asks."""
    return next((kind for kind, words in QUESTION_WORDS.items() if re.search(words, question)), OTHER)


def by_answer_length(reviews: Sequence[Review]) -> list[Group]:
    """EM and F1 by the characters of the first expected answer."""
    names = [_length_name(*bounds) for bounds in LENGTHS]
    return _grouped(reviews, lambda record: _length_of(record["expected"]), ["no answer", *names])


def _length_of(expected: Sequence[str]) -> str:
    if not expected:
        return "no answer"
    size = max(1, len(expected[0]))
    return next(_length_name(low, high) for low, high in LENGTHS if low <= size <= high)


def _length_name(low: int, high: int) -> str:
    return f"{low} to {high}" if high < 10**9 else f"{low} or more"


def _grouped(reviews: Sequence[Review], group: Any, order: Sequence[str]) -> list[Group]:
    found: dict[str, list[tuple[float, float]]] = {}
    for record in (record for review in reviews for record in review):
        found.setdefault(group(record), []).append((record["exact_match"], record["score"]))
    return [
        Group(name, len(found[name]), *(100 * np.mean(found[name], axis=0)).tolist()) for name in order if name in found
    ]


@dataclass(frozen=True)
class Mistake:
    """A row or question that was answered wrongly, by one seed or several."""

    records: tuple[Record, ...]
    """One a seed."""

    @property
    def wrong(self) -> int:
        """Seeds that did not get it right."""
        return sum(record["score"] < 1 for record in self.records)

    @property
    def badness(self) -> float:
        """How far from right, and how sure of it: the mean over the seeds."""
        return float(np.mean([badness(record) for record in self.records]))

    @property
    def worst(self) -> Record:
        """The answer that is furthest off."""
        return max(self.records, key=badness)


def badness(record: Record) -> float:
    """0 for what is right; a distance of numbers; else the confidence in what is wrong."""
    sure = record["confidence"]
    if isinstance(record["expected"], int | float):
        return float(-record["score"])
    return float((1.0 if sure is None else sure) * (1 - record["score"]))


def mistakes(reviews: Sequence[Review], most: int = MOST_ERRORS) -> list[Mistake]:
    """Those that are most worth reading: first what all seeds get wrong, then what they are most sure of."""
    found = [Mistake(records) for records in _aligned(reviews)]
    found = [mistake for mistake in found if mistake.badness > 0]
    found.sort(key=lambda mistake: (-mistake.wrong, -mistake.badness))
    return found[:most]


def _aligned(reviews: Sequence[Review]) -> Iterator[tuple[Record, ...]]:
    """The records of each row or question that all reviews have, one a review."""
    if len({len(review) for review in reviews}) == 1:
        yield from zip(*reviews, strict=True)
        return
    by_id = [{record["id"]: record for record in review} for review in reviews]
    for row in by_id[0]:
        if all(row in each for each in by_id):
            yield tuple(each[row] for each in by_id)


def text_of(record: Record) -> str:
    """The text of a record, with the second one of a pair; of a question itself, and of a context the part around the
    answer that was expected."""
    if "question" in record:
        return f"{record['question']} ▸ {around_answer(record)}"
    parts = [record["text"], *([record["pair"]] if "pair" in record else [])]
    return " ▸ ".join(shortened(part) for part in parts)


def around_answer(record: Record) -> str:
    """The part of a context that has an expected answer, or the predicted one."""
    context = record["context"]
    for answer in (*record["expected"], record["predicted"]):
        place = context.find(answer) if answer else -1
        if place >= 0:
            begin, end = max(0, place - AROUND_ANSWER), place + len(answer) + AROUND_ANSWER
            return f"{'…' if begin else ''}{context[begin:end]}{'…' if end < len(context) else ''}"
    return shortened(context)


def shortened(text: str) -> str:
    """A text, cut off where it is very long."""
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def in_words(value: Any) -> str:
    """An answer as people read it."""
    if isinstance(value, str):
        return value or "(none)"
    if isinstance(value, int | float):
        return f"{value:.4g}"
    return ", ".join(_entry_in_words(entry) for entry in value) or "(none)"


def _entry_in_words(entry: Any) -> str:
    return f"{entry['text']} [{entry['label']}]" if isinstance(entry, dict) else str(entry)


def only_in(entries: Iterable[Any], others: Sequence[Any]) -> list[Any]:
    """Those that are not among the others."""
    return [entry for entry in entries if entry not in others]
