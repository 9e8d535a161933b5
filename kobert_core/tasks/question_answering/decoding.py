"""From the logits of windows to the text of answers, cut from the context as the user gave it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kobert_core.tasks.question_answering.graphemes import trim_end, trim_start
from kobert_core.tasks.question_answering.windows import WindowExamples

Outputs = dict[str, np.ndarray]
"""`start_logits` and `end_logits`, float, shape (windows, width), -inf on padding; with a boundary head also
`trim_start` and `trim_end`, integers of the same shape: graphemes to trim if the answer begins or ends there."""

SURE = float(np.finfo(np.float32).max)  # finite, since it may become a threshold in a JSON file
ROWS_AT_ONCE = 256  # so that what is in work stays in the processor's cache


@dataclass(frozen=True, eq=False)
class Answers:
    """The best answer of each question, whether or not it should be given."""

    spans: NDArray[np.int64]
    """Half-open, in the examples' `codes`, shape (questions, 2); empty where no window has an allowed answer, or the
    question cannot be asked. Questions of one id have one answer."""
    scores: NDArray[np.float64]
    """Sum of its two logits, shape (questions,); -inf where there is none."""
    null_scores: NDArray[np.float64]
    """That of `[CLS]`, the least over the windows, less `scores`: the higher, the less is there an answer."""
    windows: NDArray[np.int64]
    """The row in the outputs of the window with the answer, shape (questions,)."""


def decode(
    examples: WindowExamples, outputs: Outputs, *, n_best: int = 20, max_answer_length: int = 30, trim: bool = True
) -> Answers:
    """The best span of each question over all of its windows.

    Args:
        examples: the windows, all of each question.
        outputs: what the model says of them, in their order.
        n_best: so many starts and so many ends of a window are combined.
        max_answer_length: longest answer in pieces.
        trim: whether the boundary head's trims are made.
    """
    scores, first, last, null = _best_spans(examples, outputs, n_best, max_answer_length)
    rows = _best_rows(scores, examples.window_starts)
    best = scores[rows].astype(np.float64)
    found = np.isfinite(best) & examples.asked
    best[~found] = -np.inf
    spans = np.zeros((len(rows), 2), dtype=np.int64)
    chosen = rows[found]
    spans[found] = _cut(examples, outputs if trim else {}, chosen, first[chosen], last[chosen])
    null_scores = np.minimum.reduceat(null, examples.window_starts[:-1]) if len(rows) else null
    null_scores = np.where(found, null_scores - np.where(found, best, 0.0), SURE)
    one_an_id = examples.namesakes
    return Answers(spans[one_an_id], best[one_an_id], null_scores[one_an_id], rows[one_an_id])


def texts(examples: WindowExamples, answers: Answers, *, null_threshold: float | None = None) -> list[str]:
    """The answers of all questions; nothing where the null score is above the threshold, if there is one."""
    return strings_at(examples, given_spans(answers, null_threshold))


def given_spans(answers: Answers, null_threshold: float | None = None) -> NDArray[np.int64]:
    """`Answers.spans`, empty where the null score is above the threshold, if there is one."""
    if null_threshold is None:
        return answers.spans
    return np.where((answers.null_scores > null_threshold)[:, None], 0, answers.spans)


def strings_at(examples: WindowExamples, spans: NDArray[np.int64]) -> list[str]:
    """What stands in the examples' `codes` at these half-open spans, shape (texts, 2)."""
    codes = examples.texts["codes"]
    return [codes[start:end].tobytes().decode("utf-32-le") for start, end in spans.tolist()]


def probabilities(answers: Answers, outputs: Outputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How probable the model finds each answer within its window, and how probable that there is none; 0 for an answer
    that is not there. Both of shape (questions,)."""
    from scipy.special import logsumexp

    rows = answers.windows
    logits = [outputs[name][rows].astype(np.float64) for name in ("start_logits", "end_logits")]
    whole = sum(logsumexp(side, axis=1) for side in logits)
    return np.exp(answers.scores - whole), np.exp(sum(side[:, 0] for side in logits) - whole)


def _best_spans(
    examples: WindowExamples, outputs: Outputs, n_best: int, max_answer_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each window the score, first and last token of its best span, and the score of `[CLS]`."""
    size, width = outputs["start_logits"].shape
    scores = np.full(size, -np.inf, dtype=np.float32)
    first, last = np.zeros((2, size), dtype=np.int64)
    k = min(n_best, width)
    place = np.arange(width)
    for begin in range(0, size, ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        context_place, lengths = examples.context_place[rows, None], examples.lengths[rows, None]
        outside = (place < context_place) | (place >= lengths - 1)
        starts, start_logits = _top(outputs["start_logits"][rows], outside, k)
        ends, end_logits = _top(outputs["end_logits"][rows], outside, k)
        sums = start_logits[:, :, None] + end_logits[:, None, :]
        pieces = ends[:, None, :] - starts[:, :, None]
        sums[(pieces < 0) | (pieces >= max_answer_length)] = -np.inf
        flat = sums.reshape(len(sums), -1)
        best = flat.argmax(axis=1)
        here = np.arange(len(best))
        scores[rows] = flat[here, best]
        first[rows], last[rows] = starts[here, best // k], ends[here, best % k]
    return scores, first, last, outputs["start_logits"][:, 0] + outputs["end_logits"][:, 0]


def _top(logits: np.ndarray, outside: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the `k` highest logits of each row that are not outside, and these, both of shape (rows, k)."""
    masked = np.where(outside, np.float32(-np.inf), logits)
    places = np.argpartition(masked, -k, axis=1)[:, -k:].astype(np.int32)
    return places, np.take_along_axis(masked, places, axis=1)


def _best_rows(scores: np.ndarray, window_starts: np.ndarray) -> NDArray[np.int64]:
    """Of each question the window with the highest score, the first one of equals."""
    if len(window_starts) == 1:
        return np.zeros(0, dtype=np.int64)
    best = np.maximum.reduceat(scores, window_starts[:-1])
    is_best = scores == np.repeat(best, np.diff(window_starts))
    return np.minimum.reduceat(np.where(is_best, np.arange(len(scores)), len(scores)), window_starts[:-1])


def _cut(
    examples: WindowExamples, outputs: Outputs, rows: np.ndarray, first: np.ndarray, last: np.ndarray
) -> NDArray[np.int64]:
    """The characters of these pieces, trimmed unless nothing would be left."""
    offsets, graphemes = examples.pieces["offsets"], examples.texts["graphemes"]
    begin = examples.piece_of(rows, 0)
    starts, ends = (offsets[begin + token, side].astype(np.int64) for side, token in enumerate((first, last)))
    if "trim_start" not in outputs:
        return np.stack([starts, ends], axis=1)
    trimmed_starts = trim_start(graphemes, starts, outputs["trim_start"][rows, first].astype(np.int64))
    trimmed_ends = trim_end(graphemes, ends, outputs["trim_end"][rows, last].astype(np.int64))
    fits = trimmed_starts < trimmed_ends
    return np.stack([np.where(fits, trimmed_starts, starts), np.where(fits, trimmed_ends, ends)], axis=1)


def perfect_outputs(examples: WindowExamples) -> Outputs:
    """What a model without error would say: the target's pieces and trims, or `[CLS]` where there is none.

    Trims that are out of range are not made.
    """
    start_logits, end_logits = np.zeros((2, len(examples), int(examples.lengths.max(initial=1))), dtype=np.float32)
    rows = np.arange(len(examples))
    first, last = examples.positions.T
    start_logits[rows, first] = end_logits[rows, last] = 10
    trims = np.maximum(examples.pieces["trims"][examples.question], 0)
    trim_starts, trim_ends = np.zeros((2, *start_logits.shape), dtype=np.uint8)
    trim_starts[rows, first], trim_ends[rows, last] = trims.T
    return {
        "start_logits": start_logits,
        "end_logits": end_logits,
        "trim_start": trim_starts,
        "trim_end": trim_ends,
    }
