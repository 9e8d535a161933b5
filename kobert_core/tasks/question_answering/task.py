"""Extractive question answering: KorQuAD 1.0, and any file in the format of SQuAD 1.1 or 2.0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import nn

from kobert_core.code_points import strings
from kobert_core.data.batching import Batch
from kobert_core.data.cache import cached_arrays
from kobert_core.data.set_aside import PLACES_SHOWN
from kobert_core.data.source import Source
from kobert_core.data.splits import grouped_split, sample
from kobert_core.data.survey import ContextLeak, CutOff, Digests, Leak, Survey, text_digests
from kobert_core.errors import InputError
from kobert_core.families import family_of
from kobert_core.models.backbone import encoder_config
from kobert_core.tasks.base import Chance, Purpose, Task, TextsByKind
from kobert_core.tasks.examples import Inputs
from kobert_core.tasks.question_answering.config import KORQUAD, QA, QuestionAnsweringData, QuestionAnsweringModel
from kobert_core.tasks.question_answering.decoding import (
    Answers,
    Outputs,
    decode,
    given_spans,
    perfect_outputs,
    probabilities,
    strings_at,
    texts,
)
from kobert_core.tasks.question_answering.metrics import (
    chosen_threshold,
    gold_texts,
    score_answers,
    score_each,
    span_loss,
)
from kobert_core.tasks.question_answering.model import QuestionAnswerer
from kobert_core.tasks.question_answering.squad import (
    BadQuestion,
    Squad,
    Use,
    read_squad,
    squad_of,
    text_problem,
)
from kobert_core.tasks.question_answering.windows import (
    CODE_VERSION,
    Arrays,
    WindowExamples,
    piece_arrays,
    text_arrays,
    window_arrays,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

QUESTIONS_AT_ONCE = 5_000
"""Questions that are predicted together."""


class QuestionAnswering(Task[WindowExamples]):
    """Question answering on the data of one config. An example is a window; a question has one or more."""

    spec = QA
    head = QuestionAnswerer
    decoding: ClassVar[Mapping[str, Sequence[object]]] = {
        "max_answer_length": (10, 20, 30, 40, 60),
        "n_best": (5, 20),
        "trim": (True, False),
    }
    leak: ClassVar[type[Leak]] = ContextLeak
    weight_files: ClassVar[Mapping[str, str]] = {"boundary_head.safetensors": "boundary."}
    chosen_on_dev: ClassVar[Mapping[str, str]] = {"eval/null_threshold": "null_threshold"}
    shares: ClassVar[Mapping[str, float]] = {"eval/exact_match": 100.0}
    segments: ClassVar[int] = 2
    pooler: ClassVar[bool] = False

    data: QuestionAnsweringData
    model: QuestionAnsweringModel

    @property
    def longest(self) -> int:
        return self.data.max_seq_length

    def _with_head(self, encoder: PreTrainedModel) -> QuestionAnswerer:
        return QuestionAnswerer(
            encoder,
            dropout=self.model.dropout,
            boundary_head=self.model.boundary_head,
            boundary_weight=self.model.boundary_weight,
        )

    def hf_config(self) -> PretrainedConfig:
        from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES

        config = encoder_config(self.model, self.tokenizer, longest=self.longest, segments=self.segments)
        config.update({"architectures": [MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES[config.model_type]]})
        if (name := family_of(config).question_dropout) is not None:
            config.update({name: self.model.dropout})
        if config.num_labels != 2:  # a backbone may have been a classifier
            config.num_labels = 2
        return config

    def read(self, path: Source, purpose: Purpose = "scoring") -> WindowExamples:
        key = self._file_key(path) | {"purpose": purpose, "tokenizer": self.tokenizer.fingerprint}
        file = self._texts(path, purpose)
        lengths = self.data.lengths
        with self._reading(path):
            pieces = cached_arrays(self._cache, key, lambda: piece_arrays(file, self.tokenizer))
            windows = cached_arrays(self._cache, key | lengths._asdict(), lambda: self._windows(file, pieces))
        return self._examples(file, pieces, windows)

    def bad_rows(self, path: Source, purpose: Purpose = "scoring") -> list[BadQuestion]:
        file = self._texts(path, purpose)
        rows = zip(*(file[f"bad_{name}"].tolist() for name in ("places", "reasons", "counted")), strict=True)
        return [BadQuestion(place, reason, counted=counted) for place, reason, counted in rows]

    def set_aside(self, path: Source) -> int:
        """What even the official script leaves out: a question that cannot be asked counts, with an empty answer."""
        return sum(not bad.counted for bad in self.bad_rows(path))

    def input_parts(self, path: Source, *, keep_columns: bool = False) -> Iterator[Inputs[WindowExamples]]:
        """The file itself is in memory, as JSON is; what the model says of it, a part at a time."""
        if keep_columns:
            raise InputError("a file of questions has no columns to keep", where="--keep-columns", fix="leave it out")
        with self._reading(path):
            squad = self._squad(path, use="asking")
            whole = self._asked(squad)
        questions, bad = [question.text for question in squad.questions], squad.bad
        for begin in range(0, whole.items, QUESTIONS_AT_ONCE):
            part = slice(begin, begin + QUESTIONS_AT_ONCE)
            take = partial(whole.take, np.arange(whole.items)[part])
            yield Inputs(
                ids=whole.ids[part], texts={"question": questions[part]}, tokenize=take, bad=[] if begin else bad
            )

    @property
    def input_columns(self) -> tuple[str, ...]:
        return "context", "question"

    def input_problem(self, row: Mapping[str, object]) -> str | None:
        return text_problem(row.get("context"), "context") or text_problem(row.get("question"), "question")

    def inputs(self, rows: Sequence[Mapping[str, object]]) -> Inputs[WindowExamples]:
        """A context that several rows have is tokenized once."""
        asked = [(str(row["context"]), str(row["question"])) for row in rows]
        contexts, questions = map(list, zip(*asked, strict=True))
        return Inputs(
            ids=[str(number) for number in range(len(asked))],
            texts={"context": contexts, "question": questions},
            tokenize=lambda: self._asked(squad_of(asked)),
        )

    def _asked(self, squad: Squad) -> WindowExamples:
        file = text_arrays(squad)
        pieces = piece_arrays(file, self.tokenizer)
        return self._examples(file, pieces, self._windows(file, pieces))

    def answers(self, ids: list[str], examples: WindowExamples, outputs: Outputs) -> list[dict[str, object]]:
        """For each question its answer, cut from the context; empty where the model says that there is none. `score`
        is how probable the model finds that, `start` and `end` are where it stands in the context, in characters."""
        found = self._decode(examples, outputs)
        spans = given_spans(found, self.model.null_threshold)
        given = strings_at(examples, spans)
        answer, no_answer = probabilities(found, outputs)
        scores = np.where([bool(text) for text in given], answer, no_answer).round(6).tolist()
        places = np.where([[bool(text)] for text in given], spans - examples.context_begins[:, None], 0).tolist()
        return [
            {"id": one, "prediction_text": text, "score": score, "start": start, "end": end}
            for one, text, score, (start, end) in zip(ids, given, scores, places, strict=True)
        ]

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"prediction_text": str, "score": float, "start": int, "end": int}

    def select(
        self, answers: list[dict[str, object]], *, top_k: int | None = None, threshold: float | None = None
    ) -> list[dict[str, object]]:
        """What is less probable than the threshold becomes no answer."""
        if threshold is None:
            return super().select(answers, top_k=top_k)
        none = {"prediction_text": "", "start": 0, "end": 0}
        return [
            one if cast(float, one["score"]) >= threshold else one | none for one in self.select(answers, top_k=top_k)
        ]

    def review(self, examples: WindowExamples, outputs: Outputs, file: Source | None = None) -> list[dict[str, object]]:
        """The score is F1 from 0 to 1; `exact_match` is beside it, and an article is a group."""
        arrays, ids = examples.texts, examples.ids
        found, golds = self._decode(examples, outputs), gold_texts(examples)
        given = texts(examples, found, null_threshold=self.model.null_threshold)
        answer, no_answer = probabilities(found, outputs)
        confidence = np.where([bool(text) for text in given], answer, no_answer).round(6).tolist()
        questions = strings(arrays["question_codes"], arrays["question_starts"])
        contexts = strings(arrays["codes"], arrays["starts"])
        return [
            {
                "id": ids[place],
                "question": questions[number],
                "context": contexts[arrays["context"][number]],
                "expected": list(dict.fromkeys(golds[place])),
                "predicted": given[place],
                "confidence": confidence[place] if examples.asked[place] else None,
                "score": f1,
                "exact_match": exact,
                "group": int(arrays["article"][number]),
            }
            for place, (number, (exact, f1)) in enumerate(
                zip(examples.questions.tolist(), score_each(examples, given, golds), strict=True)
            )
        ]

    def labelled_rows(
        self, file: Source, purpose: Purpose = "scoring", items: np.ndarray | None = None
    ) -> list[dict[str, object]]:
        arrays = self._texts(file, purpose)
        questions = strings(arrays["question_codes"], arrays["question_starts"])
        contexts = strings(arrays["codes"], arrays["starts"])
        golds, bounds = strings(arrays["gold_codes"], arrays["gold_starts"]), arrays["answer_starts"].tolist()
        return [
            {
                "id": str(arrays["ids"][number]),
                "question": questions[number],
                "context": contexts[arrays["context"][number]],
                "answers": list(dict.fromkeys(golds[bounds[number] : bounds[number + 1]])),
            }
            for number in (range(len(questions)) if items is None else items.tolist())
        ]

    def total_weight(self, examples: WindowExamples, indices: np.ndarray) -> float:
        return float(len(indices))

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """What `decode` takes: the logits, and the trims that the boundary head finds the likeliest."""
        output = model(**batch.inputs)
        outputs = {"start_logits": output.start_logits.float(), "end_logits": output.end_logits.float()}
        if output.trim_start_logits is not None:
            outputs["trim_start"] = output.trim_start_logits.argmax(-1).to(torch.uint8)
            outputs["trim_end"] = output.trim_end_logits.argmax(-1).to(torch.uint8)
        return outputs

    def score(self, examples: WindowExamples, outputs: Outputs) -> dict[str, float]:
        """Exact match and F1 in percent over the questions, of the texts that `answers` gives; the mean loss of pieces
        over the windows, where one is known; and how many questions there are.

        With questions that have no answer, also the totals of SQuAD 2.0. `eval/not_asked`, if there are any, are the
        questions that a model cannot be asked: they count with an empty answer.
        """
        scores = score_answers(examples, self._decode(examples, outputs), self.model.null_threshold)
        loss = span_loss(examples, outputs)
        scores |= {} if loss is None else {"loss": loss}
        scores |= {} if examples.asked.all() else {"not_asked": int((~examples.asked).sum())}
        return {f"eval/{name}": value for name, value in (scores | {"questions": examples.items}).items()}

    def item_scores(self, examples: WindowExamples, outputs: Outputs, metric: str) -> np.ndarray | None:
        """Exact match or F1 of each question, in percent."""
        place = {"eval/exact_match": 0, "eval/f1": 1}.get(metric)
        if place is None:
            return None
        given = texts(examples, self._decode(examples, outputs), null_threshold=self.model.null_threshold)
        scores = score_each(examples, given, gold_texts(examples))
        return 100 * np.array(scores)[:, place]

    def choose(self, examples: WindowExamples, outputs: Outputs) -> dict[str, float]:
        if self.model.null_threshold is not None:
            return {}
        threshold = chosen_threshold(examples, self._decode(examples, outputs))
        return {} if threshold is None else {"eval/null_threshold": threshold}

    def chance(self, examples: WindowExamples, metric: str) -> Chance | None:
        """The score of giving no answer at all: it is right where there is none."""
        if metric not in ("eval/f1", "eval/exact_match"):
            return None
        return Chance(100 * float(np.mean([not gold for gold in gold_texts(examples)])), "no answer at all")

    def describe(self, file: Source) -> dict[str, object]:
        """What is in a labelled file, and the best scores that a model with this tokenizer can reach on it.

        Returns:
            Counts, of the questions that can be trained on; how many others are `set_aside`, and their first places;
            `trims`: how many targets need so many graphemes trimmed, and how many no trim in range leads to; `ceiling`:
            `exact_match` and `f1` in percent when every piece and trim is right.
        """
        with self._reading(file):
            squad = read_squad(file, max_bad_fraction=1.0, encoding=self.data.dialect.encoding)
            arrays = text_arrays(squad)
            pieces = piece_arrays(arrays, self.tokenizer)
            whole = self._examples(arrays, pieces, self._windows(arrays, pieces))
        examples = whole.take(np.flatnonzero(arrays["trainable"]))
        answerable = examples.answerable
        reached = np.logical_or.reduceat(examples.positions[:, 0] > 0, examples.window_starts[:-1])
        trims = pieces["trims"][examples.questions[answerable]]
        found = decode(examples, perfect_outputs(examples))
        ceiling = score_answers(examples, found, None if answerable.all() else 0.0)
        contexts = np.diff(arrays["starts"]) > 0
        return {
            "articles": len(np.unique(arrays["article"][examples.questions])),
            "contexts": int(contexts.sum()),
            "questions": examples.items,
            "questions_without_answer": int((~answerable).sum()),
            "set_aside": sum(bad.questions for bad in squad.bad),
            "set_aside_places": [str(bad) for bad in squad.bad[:PLACES_SHOWN]],
            "windows": len(examples),
            "pieces_per_context": float(np.diff(pieces["piece_starts"])[contexts].mean()),
            "answers_in_no_window": int((answerable & ~reached).sum()),
            "trims": {
                "start": {str(n): int((trims[:, 0] == n).sum()) for n in np.unique(trims[:, 0]) if n >= 0},
                "end": {str(n): int((trims[:, 1] == n).sum()) for n in np.unique(trims[:, 1]) if n >= 0},
                "out_of_range": int((trims < 0).any(axis=1).sum()),
            },
            "ceiling": {"exact_match": ceiling["exact_match"], "f1": ceiling["f1"]},
        }

    def _decode(self, examples: WindowExamples, outputs: Outputs) -> Answers:
        model = self.model
        return decode(
            examples, outputs, n_best=model.n_best, max_answer_length=model.max_answer_length, trim=model.trim
        )

    def _examples(self, file: Arrays, pieces: Arrays, windows: Arrays) -> WindowExamples:
        return WindowExamples(file, pieces, windows, self.tokenizer, max_query_length=self.data.max_query_length)

    def _windows(self, file: Arrays, pieces: Arrays) -> Arrays:
        lengths, separators = self.data.lengths, self.tokenizer.pair_separators
        room = lengths.max_seq_length - lengths.max_query_length - separators - 2
        if lengths.doc_stride > room:
            raise InputError(
                f"windows would lose tokens: beside the longest question there is room for {room} of a context",
                where="data.doc_stride",
                fix=f"make it {room} or less",
            )
        return window_arrays(file, pieces, lengths, separators=separators)

    def _squad(self, path: Source, use: Use) -> Squad:
        data = self.data
        return read_squad(path, use=use, max_bad_fraction=data.max_bad_fraction, encoding=data.dialect.encoding)

    def _texts(self, path: Source, purpose: Purpose) -> Arrays:
        """What is known of a file before it is tokenized."""

        def build() -> Arrays:
            with self._reading(path):
                return text_arrays(self._squad(path, use=purpose))

        return cached_arrays(self._cache, self._file_key(path) | {"purpose": purpose}, build)

    def _tell_split(self, split: str, path: Source | None) -> Survey:
        contexts, answerable = self._contexts_of(split, path)
        told = f"{len(contexts):,} questions on {len(np.unique(contexts)):,} contexts"
        without = int((~answerable).sum())
        facts = [(f"questions in {split}", f"{told}, {without:,} without an answer" if without else told)]
        return Survey(facts, [f"no question of {split} has an answer"] if without == len(contexts) else [])

    def _digests_of(self, split: str, path: Source | None) -> Digests:
        return self._contexts_of(split, path)[0]

    def texts(self, file: Source, purpose: Purpose = "scoring", items: np.ndarray | None = None) -> TextsByKind:
        """The questions, and each of their contexts once."""
        arrays = self._texts(file, purpose)
        chosen = np.arange(len(arrays["context"])) if items is None else items
        contexts = strings(arrays["codes"], arrays["starts"])
        questions = strings(arrays["question_codes"], arrays["question_starts"])
        return {
            "context": [(contexts[number],) for number in np.unique(arrays["context"][chosen])],
            "question": [(questions[number],) for number in chosen],
        }

    def _contexts_of(self, split: str, path: Source | None) -> tuple[np.ndarray, np.ndarray]:
        """Of each question of a split the digest of its context, and whether it has an answer."""
        file = self._texts(path, "scoring") if path and split != "train" else self._texts(self.data.train, "training")
        questions = self._split.get(split, slice(None))
        digests = text_digests(strings(file["codes"], file["starts"]))
        return digests[file["context"][questions]], np.diff(file["answer_starts"])[questions] > 0

    def cut_off(self) -> list[CutOff]:
        train, data, query = self.train, self.data, self.data.max_query_length
        asked = np.diff(train.pieces["question_piece_starts"])[train.questions]
        answerable = train.answerable
        found = np.add.reduceat(train.positions[:, 0] > 0, train.window_starts[:-1]) > 0
        lost = (answerable & ~found).sum() / max(1, answerable.sum())
        return [
            CutOff("questions cut off", "data.max_query_length", query, float((asked > query).mean())),
            CutOff("answers in no window", "data.max_seq_length", data.max_seq_length, float(lost), bearable=0.01),
        ]

    def _file_key(self, path: Source) -> dict[str, object]:
        return {
            "file": Source.of(path).digest(),
            "squad": CODE_VERSION,
            "max_bad_fraction": self.data.max_bad_fraction,
            **self.data.dialect.key(),
        }

    @cached_property
    def _split(self) -> dict[str, np.ndarray]:
        """Questions of the train and the dev split: of `train` both, or of `train` and of `dev`."""
        data = self.data
        file = self._texts(data.train, "training")
        dev_file = file if data.dev is None else self._texts(data.dev, "scoring")
        dev_articles = None if data.dev is None else dev_file["article"]
        train, dev = self._carve(grouped_split, file["article"].tolist(), dev_articles)
        train = sample(train[file["trainable"][train]], data.max_train_examples, seed=data.split_seed)
        dev = sample(dev, data.max_dev_examples, seed=data.split_seed)
        objective = self.config.objective or self.objective
        if objective.metric == "eval/loss" and not dev_file["trainable"][dev].any():
            raise InputError(
                "no question has an `answer_start` that fits: there is no `eval/loss` to compare by",
                where=data.dev or data.train,
                fix="take `objective.metric: eval/f1`",
            )
        return {"train": train, **self._hold_out(grouped_split, dev, dev_file["article"][dev].tolist())}


class Korquad(QuestionAnswering):
    """The same by the name of KorQuAD, whose files and settings are the defaults."""

    spec = KORQUAD
