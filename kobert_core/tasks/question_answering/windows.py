"""Questions on contexts as arrays, and windows over them.

Every context is tokenized once, however many questions and windows it has: a window is a row of a table that
points into the context's pieces, and its tokens are put together when it goes into a batch. Contexts are
tokenized whole, not word by word as the original did: that is one call, and what SentencePiece itself gives. Of
the 964 contexts of KorQuAD's dev set, 7 differ, all in ties of equal score (`000` is `0` + `00` or `00` + `0`).
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kobert_core.code_points import code_points, strings
from kobert_core.data.batching import IGNORED, Batch, places_in, runs
from kobert_core.tasks.question_answering.config import Lengths
from kobert_core.tasks.question_answering.graphemes import grapheme_starts, trims_needed
from kobert_core.tasks.question_answering.squad import Question, Squad
from kobert_core.tokenization import Tokenizer

Arrays = dict[str, np.ndarray]

CODE_VERSION = 2
"""Part of the cache's keys: raised when any of the arrays would come out differently."""

MAX_TRIM_START, MAX_TRIM_END = 1, 3
"""Graphemes that an answer may be shorter than its pieces: all that is seen in KorQuAD but for 1 of 5,774."""


def text_arrays(squad: Squad) -> Arrays:
    """All that is needed of a file, and of no tokenizer.

    Returns:
        `codes`, uint32: all contexts as code points, end to end; context i is `codes[starts[i]:starts[i + 1]]`;
        `graphemes`, int64: from `grapheme_starts` over `codes`;
        `question_codes`, `question_starts`: the same for the questions; `ids`, str, shape (questions,);
        `context`, `article`, int64, shape (questions,): numbers of each question's context and article;
        `gold_codes`, `gold_starts`: the same for the texts of all answers; those of question i are the texts from
        `answer_starts[i]` up to `answer_starts[i + 1]`;
        `targets`, int64, shape (questions, 2): what the model is to find of each question, its first answer
        without blanks around it; (-1, -1) when it has none, or cannot be trained on;
        `trainable`, `asked`, bool, shape (questions,): as `Question` has them;
        `bad_places`, `bad_reasons`, str, and `bad_counted`, bool, shape (bad,).
    """
    numbers = {title: number for number, title in enumerate(dict.fromkeys(squad.articles))}
    codes, starts = code_points(squad.contexts)
    question_codes, question_starts = code_points([question.text for question in squad.questions])
    context = np.array([question.context for question in squad.questions], dtype=np.int64)
    begins = starts.tolist()
    gold_codes, gold_starts = code_points([gold for question in squad.questions for gold in question.golds])
    return {
        "codes": codes,
        "starts": starts,
        "graphemes": grapheme_starts(squad.contexts),
        "question_codes": question_codes,
        "question_starts": question_starts,
        "ids": np.array([question.id for question in squad.questions], dtype=np.str_),
        "context": context,
        "article": np.array([numbers[title] for title in squad.articles], dtype=np.int64)[context],
        "gold_codes": gold_codes,
        "gold_starts": gold_starts,
        "answer_starts": _bounds([len(question.golds) for question in squad.questions]),
        "targets": np.array([_target(question, squad, begins) for question in squad.questions], dtype=np.int64),
        "trainable": np.array([question.trainable for question in squad.questions], dtype=bool),
        "asked": np.array([question.asked for question in squad.questions], dtype=bool),
        "bad_places": np.array([bad.place for bad in squad.bad], dtype=np.str_),
        "bad_reasons": np.array([bad.reason for bad in squad.bad], dtype=np.str_),
        "bad_counted": np.array([bad.counted for bad in squad.bad], dtype=bool),
    }


def _target(question: Question, squad: Squad, begins: list[int]) -> tuple[int, int]:
    if not question.answers:
        return -1, -1
    start, end = question.answers[0]
    text = squad.contexts[question.context][start:end]
    begin = begins[question.context] + start + len(text) - len(text.lstrip())
    return begin, begin + len(text.strip())


def piece_arrays(texts: Arrays, tokenizer: Tokenizer) -> Arrays:
    """The pieces of every context and question, and where each target lies in them.

    Returns:
        `pieces`, int32: ids of all contexts, end to end; those of context i are
        `pieces[piece_starts[i]:piece_starts[i + 1]]`;
        `offsets`, int32, shape (pieces, 2): half-open spans in `codes`, never descending;
        `question_pieces`, `question_piece_starts`: ids of the questions;
        `spans`, int32, shape (questions, 2): first and last piece of the target, counted in its context;
        (-1, -1) without a target, or without a piece in the context;
        `trims`, int8, shape (questions, 2): graphemes by which the target is shorter than its pieces, -1 where no
        trim in range leads to it.
    """
    pieces, piece_starts, offsets = tokenizer.encode_batch_with_offsets(strings(texts["codes"], texts["starts"]))
    questions, question_starts = tokenizer.encode_batch_flat(strings(texts["question_codes"], texts["question_starts"]))
    offsets = offsets + np.repeat(texts["starts"][:-1], np.diff(piece_starts))[:, None].astype(np.int32)
    has_pieces = np.diff(piece_starts)[texts["context"]] > 0
    answerable = np.flatnonzero(has_pieces & (texts["targets"][:, 0] >= 0))
    answers = texts["targets"][answerable]
    spans, trims = np.full((2, len(texts["ids"]), 2), -1, dtype=np.int64)
    if len(answerable):
        context = texts["context"][answerable]
        bounds = np.stack([piece_starts[context], piece_starts[context + 1]], axis=1)
        covering = _covering(offsets, answers, bounds)
        spans[answerable] = covering - bounds[:, :1]
        outer = np.stack([offsets[covering[:, 0], 0], offsets[covering[:, 1], 1]], axis=1)
        needed = np.stack(trims_needed(texts["graphemes"], outer, answers), axis=1)
        trims[answerable] = np.where(needed <= (MAX_TRIM_START, MAX_TRIM_END), needed, -1)
    return {
        "pieces": pieces,
        "piece_starts": piece_starts,
        "offsets": offsets,
        "question_pieces": questions,
        "question_piece_starts": question_starts,
        "spans": spans.astype(np.int32),
        "trims": trims.astype(np.int8),
    }


def _covering(offsets: np.ndarray, answers: np.ndarray, bounds: np.ndarray) -> NDArray[np.int64]:
    """First and last piece of each answer: all that share a character with it, shape (answers, 2).

    An answer of characters that are in no piece gets the piece before it.
    """
    first = np.searchsorted(offsets[:, 1], answers[:, 0], side="right")
    last = np.searchsorted(offsets[:, 0], answers[:, 1], side="left") - 1
    last = np.clip(last, bounds[:, 0], bounds[:, 1] - 1)
    return np.stack([np.clip(first, bounds[:, 0], last), last], axis=1)


def window_arrays(texts: Arrays, pieces: Arrays, lengths: Lengths, *, separators: int = 1) -> Arrays:
    """The windows of every question, in the order of the questions: as transformers' SQuAD processor cuts them.

    `separators` is how many tokens lie between a question and its context.

    Returns:
        `question`, `first`, `count`, int32, shape (windows,): whose it is, the first piece of the context in it,
        and how many; `positions`, int32, shape (windows, 2): first and last token of the answer, (0, 0) for
        `[CLS]` where the window does not hold all of it; `windows`, int64, shape (questions + 1,): those of
        question i are `windows[i]` up to `windows[i + 1]`.
    """
    context = texts["context"]
    sizes = np.diff(pieces["piece_starts"])[context]
    query = np.minimum(np.diff(pieces["question_piece_starts"]), lengths.max_query_length)
    room = lengths.max_seq_length - query - separators - 2
    windows = 1 + -(-np.maximum(sizes - room, 0) // lengths.doc_stride)
    bounds = _bounds(windows)
    question = np.repeat(np.arange(len(context)), windows)
    first = (np.arange(len(question)) - bounds[:-1][question]) * lengths.doc_stride
    count = np.minimum(room[question], sizes[question] - first)
    spans = pieces["spans"][question]
    inside = (spans[:, 0] >= first) & (spans[:, 1] < first + count) & (spans[:, 0] >= 0)
    positions = np.where(inside[:, None], spans - first[:, None] + query[question][:, None] + 1 + separators, 0)
    arrays = {"question": question, "first": first, "count": count, "positions": positions}
    return {name: array.astype(np.int32) for name, array in arrays.items()} | {"windows": bounds}


def _bounds(sizes: list[int] | np.ndarray) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


class Tokens(NamedTuple):
    """All tokens of some windows, end to end: arrays of shape (tokens,)."""

    ids: np.ndarray
    rows: np.ndarray
    """The number of each one's window."""
    places: np.ndarray
    """Where it is in its window."""
    in_context: np.ndarray
    """Whether it is a piece of the context."""


class WindowExamples:
    """Windows over the arrays of one file; an example is a window, and a question has all of its windows here."""

    unit: ClassVar[str] = "windows"

    def __init__(
        self,
        texts: Arrays,
        pieces: Arrays,
        windows: Arrays,
        tokenizer: Tokenizer,
        *,
        max_query_length: int,
        questions: np.ndarray | None = None,
    ) -> None:
        """Views over the arrays of `text_arrays`, `piece_arrays` and `window_arrays`.

        Args:
            texts, pieces, windows: their arrays.
            tokenizer: Gives the special ids.
            max_query_length: As the windows were made with.
            questions: Which questions are seen, in this order; all when not given.
        """
        self.texts, self.pieces, self._windows, self._tokenizer = texts, pieces, windows, tokenizer
        self._max_query_length = max_query_length
        self.questions = np.arange(len(texts["ids"])) if questions is None else np.asarray(questions)
        bounds = windows["windows"]
        sizes = bounds[self.questions + 1] - bounds[self.questions]
        self.window_starts = _bounds(sizes)
        """Windows of question i of these: from `window_starts[i]` up to `window_starts[i + 1]`."""
        shifts = bounds[self.questions] - self.window_starts[:-1]
        self.rows = np.arange(self.window_starts[-1]) + np.repeat(shifts, sizes)
        self.question = windows["question"][self.rows].astype(np.int64)
        """Of each window its question, as a number in the file."""
        self.asked = texts["asked"][self.questions]
        """Of each question whether a model can be asked it."""
        self.answerable = (np.diff(texts["answer_starts"]) > 0)[self.questions]
        """Of each question whether it has an answer."""
        starts = pieces["question_piece_starts"]
        self.query = np.minimum(starts[self.question + 1] - starts[self.question], max_query_length)
        """Of each window the pieces of its question."""
        self.first = windows["first"][self.rows].astype(np.int64)
        self.context_place = self.query + 1 + tokenizer.pair_separators
        """Of each window where its part of the context begins."""
        self.count = windows["count"][self.rows].astype(np.int64)
        self.positions = windows["positions"][self.rows].astype(np.int64)
        self.lengths = self.context_place + self.count + 1

    def __str__(self) -> str:
        return f"{len(self.questions):,} questions in {len(self):,} windows"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def items(self) -> int:
        """The number of questions."""
        return len(self.questions)

    @cached_property
    def namesakes(self) -> NDArray[np.int64]:
        """Of each question the first one here with its id that can be asked: they have one prediction."""
        order = np.argsort(~self.asked, kind="stable")
        _, first, number = np.unique(self.texts["ids"][self.questions][order], return_index=True, return_inverse=True)
        namesakes = np.empty(len(order), dtype=np.int64)
        namesakes[order] = order[first[number]]
        return namesakes

    @property
    def ids(self) -> list[str]:
        """The id of each question, empty where it has none."""
        ids: list[str] = self.texts["ids"][self.questions].tolist()
        return ids

    @property
    def context_begins(self) -> NDArray[np.int64]:
        """Of each question where its context begins in `codes`."""
        begins: NDArray[np.int64] = self.texts["starts"][self.texts["context"][self.questions]]
        return begins

    @property
    def clusters(self) -> np.ndarray:
        """The article of each question."""
        articles: np.ndarray = self.texts["article"][self.questions]
        return articles

    def rows_of(self, questions: np.ndarray) -> np.ndarray:
        """The windows of the questions at these positions."""
        starts = self.window_starts
        return runs(starts[questions], starts[questions + 1] - starts[questions])

    def take(self, questions: np.ndarray) -> WindowExamples:
        """The questions at these positions, with their windows, over the same memory."""
        return WindowExamples(
            self.texts,
            self.pieces,
            self._windows,
            self._tokenizer,
            max_query_length=self._max_query_length,
            questions=self.questions[questions],
        )

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows at `indices`, as the model takes them.

        The targets are `start_positions`, `end_positions`, `trim_start` and `trim_end`, `IGNORED` where nothing is
        known.
        """
        return self._batch(indices, self._tokens(indices))

    def _batch(self, indices: np.ndarray, tokens: Tokens) -> Batch:
        positions = self.positions[indices]
        trims = self.pieces["trims"][self.question[indices]].astype(np.int64)
        trims[(positions[:, :1] == 0).repeat(2, axis=1) | (trims < 0)] = IGNORED
        targets = {
            "start_positions": positions[:, 0],
            "end_positions": positions[:, 1],
            "trim_start": trims[:, 0],
            "trim_end": trims[:, 1],
        }
        types = (tokens.places >= self.context_place[indices][tokens.rows]) * self._tokenizer.pair_type
        arrays = {"input_ids": tokens.ids, "token_type_ids": types, "position_ids": tokens.places}
        return Batch.of(self.lengths[indices], arrays, targets)

    def features(self, indices: np.ndarray) -> Arrays:
        """What `squad_convert_examples_to_features` gave for each window, padded to the longest of them.

        The tensors of `batch` as padded arrays, and `cls_index`, `p_mask` (1 where no answer can begin or end: as in
        the original also on `[UNK]`, which decoding does not heed), `is_impossible` (the window does not hold the
        answer), and `offsets` of shape (batch, width, 2): the characters of each token in its context, (-1, -1) for
        tokens of no context.
        """
        tokens = self._tokens(indices)
        batch = self._batch(indices, tokens)
        padded = {name: tensor.numpy() for name, tensor in batch.padded(self._tokenizer.pad_id).items()}
        real = padded["attention_mask"].astype(bool)
        p_mask = np.ones(real.shape, dtype=np.int64)
        p_mask[real] = ~tokens.in_context | (tokens.ids == self._tokenizer.unk_id)
        p_mask[:, 0] = 0
        rows, places = tokens.rows[tokens.in_context], tokens.places[tokens.in_context]
        offsets = np.full((*real.shape, 2), -1, dtype=np.int64)
        begins = self.texts["starts"][self.texts["context"][self.question[indices]]]
        pieces = self.piece_of(indices, 0)[rows] + places
        offsets[rows, places] = self.pieces["offsets"].take(pieces, axis=0) - begins[rows, None]
        return padded | {
            "cls_index": np.zeros(len(indices), dtype=np.int64),
            "p_mask": p_mask,
            "is_impossible": self.positions[indices, 0] == 0,
            "offsets": offsets,
        }

    def piece_of(self, indices: np.ndarray, token: np.ndarray | int) -> NDArray[np.int64]:
        """The place in `pieces` of a token of each window, which must be the context's; shape (batch,)."""
        context = self.texts["context"][self.question[indices]]
        start: NDArray[np.int64] = self.pieces["piece_starts"][context] + self.first[indices]
        places: NDArray[np.int64] = start - self.context_place[indices] + token
        return places

    def _tokens(self, indices: np.ndarray) -> Tokens:
        lengths, query = self.lengths[indices], self.query[indices]
        rows, places = np.repeat(np.arange(len(indices)), lengths), places_in(lengths)
        in_query = (places > 0) & (places <= query[rows])
        in_context = (places >= self.context_place[indices][rows]) & (places < lengths[rows] - 1)
        ids = np.full(len(rows), self._tokenizer.sep_id, dtype=np.int64)
        ids[places == 0] = self._tokenizer.cls_id
        starts = self.pieces["question_piece_starts"][self.question[indices]]
        ids[in_query] = self.pieces["question_pieces"][(starts[rows] + places - 1)[in_query]]
        ids[in_context] = self.pieces["pieces"][(self.piece_of(indices, 0)[rows] + places)[in_context]]
        return Tokens(ids, rows, places, in_context)
