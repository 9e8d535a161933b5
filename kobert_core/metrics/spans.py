"""Scores of decoded answers, and the loss of the logits that they come from."""

from __future__ import annotations

import numpy as np

from kobert_core.data.windows import WindowExamples
from kobert_core.decoding import Answers, Outputs, texts
from kobert_core.metrics.korquad import best_threshold, score_answer, squad2_totals, total


def score_answers(examples: WindowExamples, answers: Answers, null_threshold: float | None) -> dict[str, float]:
    """`exact_match` and `f1` in percent over the questions.

    Where some have no answer, an empty text is right for these, and the totals of SQuAD 2.0 are there too; without
    a threshold the one with the best F1 here is taken, and is `null_threshold`.
    """
    given = texts(examples, answers)
    golds = gold_texts(examples)
    answerable = np.array([bool(gold) for gold in golds])
    each = [score_answer(text, gold) for text, gold in zip(given, golds, strict=True)]
    if answerable.all() and null_threshold is None:
        return total(each)
    chosen: dict[str, float] = {}
    if null_threshold is None:
        f1 = np.array([one_f1 for _, one_f1 in each])
        null_threshold, _ = best_threshold(f1, answers.null_scores, answerable)
        chosen = {"null_threshold": null_threshold}
    given = texts(examples, answers, null_threshold=null_threshold)
    each = [score_answer(text, gold) for text, gold in zip(given, golds, strict=True)]
    return total(each) | squad2_totals(each, answerable) | chosen


def gold_texts(examples: WindowExamples) -> list[list[str]]:
    """The gold answers of each question; none where it cannot be answered."""
    file = examples.texts
    codes, bounds, spans = file["codes"], file["answer_starts"], file["answers"]
    return [
        [codes[start:end].tobytes().decode("utf-32-le") for start, end in spans[bounds[number] : bounds[number + 1]]]
        for number in examples.questions
    ]


def span_loss(examples: WindowExamples, outputs: Outputs) -> float:
    """Mean over the windows of the cross-entropies of start and end, halved, in nats."""
    loss = 0.0
    rows = np.arange(len(examples))
    for name, positions in zip(("start_logits", "end_logits"), examples.positions.T, strict=True):
        logits = outputs[name].astype(np.float64)
        highest = logits.max(axis=1, keepdims=True)
        normalizer = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
        loss += float((normalizer - logits[rows, positions]).mean())
    return loss / 2
