"""The sections on what the winner answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple

from tuning.report import figures
from tuning.report.answers import (
    Group,
    Kind,
    Mistake,
    Scores,
    by_answer_length,
    by_question_word,
    confusion_counts,
    in_words,
    kind_of,
    mistakes,
    only_in,
    scores_by_label,
    text_of,
)
from tuning.report.elements import Markup, figure, paragraph, table
from tuning.report.sweep_data import SweepData

MOST_CLASSES = 25
"""More make no matrix that one can read."""


def answers(data: SweepData) -> Iterator[Markup]:
    """What is right and wrong, by kind."""
    if not data.reviews or not data.reviews[0]:
        yield paragraph(_why_none(data))
        return
    count = len(data.reviews[0])
    if data.is_confirmed:
        told = f"{count:,} rows that the search never saw, answered by {len(data.reviews)} seeds of the winner"
    else:
        told = f"{count:,} rows of dev, answered by the winner's best checkpoint, which was chosen on them"
    yield paragraph(f"{told}.")
    kind = kind_of(data.reviews[0])
    if kind == "class":
        yield from _classes(data)
    elif kind == "answer":
        yield from _groups("the word that asks", by_question_word(data.reviews))
        yield from _groups("the characters of the expected answer", by_answer_length(data.reviews))
    elif kind == "number":
        records = [record for review in data.reviews for record in review]
        plot = figures.scatter([r["expected"] for r in records], [r["predicted"] for r in records])
        yield figure(plot, "The predicted number of each row, against the expected one", height=440)
    else:
        yield from _labels(scores_by_label(data.reviews), "kind of entity" if kind == "entities" else "label")


def _why_none(data: SweepData) -> str:
    if data.result:
        return "The winner's answers were not kept: an older version ran this sweep, or they could not be written."
    return "The winner's answers are read when the sweep ends."


def _classes(data: SweepData) -> Iterator[Markup]:
    names, counts = confusion_counts(data.reviews, _names_of(data))
    if len(names) <= MOST_CLASSES:
        caption = "Confusion matrix: a row a class, a column what it was taken for"
        yield figure(figures.confusion(names, counts), caption, height=220 + 32 * len(names))
        rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
        yield table("Confusion matrix, as numbers", ["expected", *names], rows)
    yield from _labels(scores_by_label(data.reviews), "class")


def _names_of(data: SweepData) -> Sequence[str]:
    """The classes in the study's order, where it has one."""
    labels = getattr(data.study.data, "labels", ())
    return [str(name) for name in (labels.values() if isinstance(labels, Mapping) else labels or ())]


def _labels(scores: Sequence[Scores], what: str) -> Iterator[Markup]:
    if not scores:
        yield paragraph("Nothing was expected, and nothing predicted.")
        return
    values = {"precision": [s.precision for s in scores], "recall": [s.recall for s in scores]}
    shown = [s.name for s in scores]
    yield figure(figures.bars(values | {"F1": [s.f1 for s in scores]}, shown, ""), f"Scores by {what}")
    yield table(f"Scores by {what}, as numbers", [what, "precision", "recall", "F1", "expected"], scores)


def _groups(what: str, groups: Sequence[Group]) -> Iterator[Markup]:
    values = {"exact match": [group.exact_match for group in groups], "F1": [group.f1 for group in groups]}
    yield figure(figures.bars(values, [group.name for group in groups], "percent"), f"Exact match and F1 by {what}")
    yield table(
        f"Exact match and F1 by {what}, as numbers", [what, "questions", "exact match", "F1"], map(astuple, groups)
    )


def worth_reading(data: SweepData) -> Iterator[Markup]:
    """The worst mistakes, with their texts."""
    if not data.reviews or not data.reviews[0]:
        return
    found, kind, seeds = mistakes(data.reviews), kind_of(data.reviews[0]), len(data.reviews)
    if not found:
        yield paragraph("Everything is right.")
        return
    if kind == "number":
        yield paragraph("The rows whose number is furthest off.")
    else:
        first = f"what all {seeds} seeds get wrong first, then " if seeds > 1 else ""
        yield paragraph(f"Mistakes: {first}those that the model is most sure of. Some of them will be wrong labels.")
    columns = ["id", "text", *_answer_columns(kind), *(["seeds wrong"] if seeds > 1 and kind != "number" else [])]
    rows = [_row(mistake, kind, seeds) for mistake in found]
    yield table("Answers worth reading", columns, rows)


def _answer_columns(kind: Kind) -> list[str]:
    if kind == "number":
        return ["expected", "predicted", "off by"]
    if kind == "entities":
        return ["missed", "found beside", "F1", "confidence"]
    return ["expected", "predicted", *(["F1"] if kind == "answer" else []), "confidence"]


def _row(mistake: Mistake, kind: Kind, seeds: int) -> list[object]:
    record = mistake.worst
    expected, predicted = record["expected"], record["predicted"]
    shown: list[object] = [record["id"], text_of(record)]
    if kind == "number":
        return [*shown, float(expected), float(predicted), mistake.badness]
    if kind == "entities":
        shown += [in_words(only_in(expected, predicted)), in_words(only_in(predicted, expected))]
    else:
        shown += [in_words(expected), in_words(predicted)]
    if kind in ("entities", "answer"):
        shown.append(float(record["score"]))
    shown.append(record["confidence"])
    return [*shown, f"{mistake.wrong} of {seeds}"] if seeds > 1 else shown
