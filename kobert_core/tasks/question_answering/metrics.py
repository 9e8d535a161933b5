"""Scores of decoded answers, and the loss of the logits that they come from."""

from __future__ import annotations

import numpy as np

from kobert_core.code_points import strings
from kobert_core.tasks.question_answering.decoding import Answers, Outputs, texts
from kobert_core.tasks.question_answering.official_metrics import (
    best_threshold,
    best_totals,
    score_answer,
    squad2_totals,
    total,
)
from kobert_core.tasks.question_answering.windows import WindowExamples


def score_answers(examples: WindowExamples, answers: Answers, null_threshold: float | None) -> dict[str, float]:
    """`exact_match` and `f1` in percent over all questions: the official ones of the texts that these answers give.

    Where some have no answer, an empty text is right for these. The totals of SQuAD 2.0 are then there too, and beside
    them what the best threshold for these very questions would give, `best_…`: nothing that a model is compared by.
    """
    golds = gold_texts(examples)
    answerable = examples.answerable
    scores = score_each(examples, texts(examples, answers, null_threshold=null_threshold), golds)
    result = total(scores)
    if null_threshold is not None or not answerable.all():
        result |= squad2_totals(scores, answerable)
    if not answerable.all():
        result |= best_totals(score_each(examples, texts(examples, answers), golds), answers.null_scores, answerable)
    return result


def chosen_threshold(examples: WindowExamples, answers: Answers) -> float | None:
    """The null threshold with the best F1 on these questions; None where all have an answer: then all are given one."""
    if examples.answerable.all():
        return None
    scores = score_each(examples, texts(examples, answers), gold_texts(examples))
    threshold, _ = best_threshold(np.array(scores)[:, 1], answers.null_scores, examples.answerable)
    return threshold


def score_each(examples: WindowExamples, given: list[str], golds: list[list[str]]) -> list[tuple[float, float]]:
    """Exact match and F1 of each question; nothing without an id, as for any question that has no prediction."""
    rows = zip(examples.ids, given, golds, strict=True)
    return [score_answer(text, gold) if one else (0.0, 0.0) for one, text, gold in rows]


def gold_texts(examples: WindowExamples) -> list[list[str]]:
    """The gold answers of each question; none where it cannot be answered."""
    file = examples.texts
    golds, bounds = strings(file["gold_codes"], file["gold_starts"]), file["answer_starts"].tolist()
    return [golds[bounds[number] : bounds[number + 1]] for number in examples.questions.tolist()]


def span_loss(examples: WindowExamples, outputs: Outputs) -> float | None:
    """Mean of the cross-entropies of start and end, halved, in nats, over the windows of questions of which it is known
    where their answer lies; None where there are none."""
    from scipy.special import log_softmax

    rows = np.flatnonzero(examples.texts["trainable"][examples.question])
    if len(rows) == 0:
        return None
    sides = zip(("start_logits", "end_logits"), examples.positions[rows].T, strict=True)
    chosen = [
        log_softmax(outputs[name][rows].astype(np.float64), axis=1)[np.arange(len(rows)), positions]
        for name, positions in sides
    ]
    return float(np.mean(np.abs(chosen)))  # not -0.0
