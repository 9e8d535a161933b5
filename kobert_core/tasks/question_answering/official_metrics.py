"""Exact match and F1 of the official KorQuAD 1.0 script, and the totals of SQuAD 2.0 over them."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np

# The script puts a blank for these signs, and then drops ASCII punctuation.
_NORMALISATION = str.maketrans({sign: "" for sign in string.punctuation} | dict.fromkeys("'\"《》<>〈〉()‘’", " "))


class Answer(TypedDict):
    """A gold answer."""

    text: str


class Question(TypedDict):
    """A question of a file in the format of SQuAD."""

    id: str
    answers: NotRequired[list[Answer]]


class Paragraph(TypedDict):
    """The questions on one context."""

    qas: list[Question]


class Article(TypedDict):
    """Its paragraphs."""

    paragraphs: list[Paragraph]


class Dataset(TypedDict):
    """The parsed JSON file."""

    data: list[Article]


Scores = dict[str, tuple[float, float]]
"""Exact match (0.0 or 1.0) and F1 (0 to 1) of each question, by its id."""


def score(dataset: Dataset, predictions: Mapping[str, str]) -> dict[str, float]:
    """Exact match and F1 over all questions of a file, in percent; a question without a prediction counts 0.

    Args:
        dataset: the parsed JSON file, in the format of SQuAD.
        predictions: question id to text.

    Source: `evaluate-v1.0.py` of KorQuAD 1.0 (korquad.github.io), whose figures these equal to the last bit.
    """
    return total(_score_all(dataset, predictions))


def score_each(dataset: Dataset, predictions: Mapping[str, str]) -> Scores:
    """Exact match and F1 of each question, (0.0, 0.0) without a prediction.

    A question without answers (SQuAD 2.0) is right when its prediction normalises to nothing.
    """
    ids = (question["id"] for question in _questions(dataset))
    return dict(zip(ids, _score_all(dataset, predictions), strict=True))


def _score_all(dataset: Dataset, predictions: Mapping[str, str]) -> list[tuple[float, float]]:
    """Exact match and F1 of each question in its order; an id that occurs twice counts twice."""
    return [
        score_answer(predictions[question["id"]], _golds(question)) if question["id"] in predictions else (0.0, 0.0)
        for question in _questions(dataset)
    ]


def score_answer(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of one prediction, each the best over the gold answers; without these, nothing is right."""
    words = normalize(prediction)
    if not golds:
        return float(not words), float(not words)
    normalized = [normalize(gold) for gold in golds]
    return max(float(words == gold) for gold in normalized), max(_f1(words, gold) for gold in normalized)


def total(scores: Iterable[tuple[float, float]]) -> dict[str, float]:
    """`exact_match` and `f1` in percent, from those of each question."""
    exact = f1 = 0.0
    count = 0
    for one_exact, one_f1 in scores:  # one by one, as the script adds them: the last bit depends on it
        exact, f1, count = exact + one_exact, f1 + one_f1, count + 1
    return {"exact_match": 100.0 * exact / max(count, 1), "f1": 100.0 * f1 / max(count, 1)}


def squad2_totals(scores: Sequence[tuple[float, float]], answerable: np.ndarray) -> dict[str, float]:
    """Exact match and F1 of the questions that have an answer and of those that have none, in percent.

    Args:
        scores: as `score_answer` gives them.
        answerable: bool, shape (questions,).

    Returns:
        `HasAns_exact`, `HasAns_f1`, `NoAns_exact`, `NoAns_f1`, as the official SQuAD 2.0 script names them;
        those of a kind that does not occur are left out. Normalisation and F1 are KorQuAD's.
    """
    totals: dict[str, float] = {}
    for name, rows in (("HasAns", np.flatnonzero(answerable)), ("NoAns", np.flatnonzero(~answerable))):
        if len(rows):
            part = total(scores[row] for row in rows.tolist())
            totals |= {f"{name}_exact": part["exact_match"], f"{name}_f1": part["f1"]}
    return totals


def best_totals(
    scores: Sequence[tuple[float, float]], null_scores: np.ndarray, answerable: np.ndarray
) -> dict[str, float]:
    """`best_exact`, `best_exact_thresh`, `best_f1` and `best_f1_thresh`, as the official SQuAD 2.0 script names them:
    what a null threshold gives that was chosen on the very questions that it is scored on.

    Args:
        scores: of the best answers, whether or not they should be given, as `score_answer` gives them.
        null_scores, answerable: as `best_threshold` takes them.
    """
    totals: dict[str, float] = {}
    for name, column in zip(("exact", "f1"), np.array(scores).T, strict=True):
        threshold, best = best_threshold(column, null_scores, answerable)
        totals |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
    return totals


def best_threshold(scores: np.ndarray, null_scores: np.ndarray, answerable: np.ndarray) -> tuple[float, float]:
    """The null threshold with the best mean score, and that score in percent.

    A question is answered unless its null score is greater than the threshold. As in the official SQuAD 2.0
    script the threshold is one of the null scores; below all of them nothing is answered.

    Args:
        scores: exact match or F1 of each question if it is answered, shape (questions,).
        null_scores: score of "no answer" less that of the best answer, shape (questions,).
        answerable: bool, shape (questions,).
    """
    order = np.argsort(null_scores, kind="stable")
    unanswered = np.count_nonzero(~answerable)
    gains = np.where(answerable, scores, -1.0)[order]
    right = unanswered + np.concatenate(([0.0], np.cumsum(gains)))
    thresholds = np.concatenate(([np.nextafter(null_scores.min(), -np.inf)], null_scores[order]))
    # Of questions with one null score all are answered or none.
    last = np.append(thresholds[1:] != thresholds[:-1], True)
    best = int(np.argmax(np.where(last, right, -np.inf)))
    return float(thresholds[best]), float(100.0 * right[best] / len(scores))


def normalize(text: str) -> str:
    """The text as the script compares it: lower case, without punctuation, single blanks."""
    # The script lowers between its two replacements; no letter becomes one of their signs by it.
    return " ".join(text.lower().translate(_NORMALISATION).split())


def _f1(prediction: str, gold: str) -> float:
    """F1 by characters of normalised texts, blanks not counted; 0 where both have none, as in the script."""
    predicted, wanted = Counter(prediction.replace(" ", "")), Counter(gold.replace(" ", ""))
    same = (predicted & wanted).total()
    if same == 0:
        return 0.0
    precision, recall = same / predicted.total(), same / wanted.total()
    return (2 * precision * recall) / (precision + recall)


def _questions(dataset: Dataset) -> Iterator[Question]:
    for article in dataset["data"]:
        for paragraph in article["paragraphs"]:
            yield from paragraph["qas"]


def _golds(question: Question) -> list[str]:
    return [answer["text"] for answer in question.get("answers", [])]
