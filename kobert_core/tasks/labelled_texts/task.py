"""What tasks on a table of texts or pairs share. Each of them says what its labels are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from kobert_core.data.batching import Batch
from kobert_core.data.cache import cached_arrays, joined
from kobert_core.data.description import PAIR_ENDS
from kobert_core.data.set_aside import PLACES_SHOWN, BadRow
from kobert_core.data.source import Source
from kobert_core.data.survey import CutOff, Digests, Survey, share_of, text_digests
from kobert_core.families import family_of, pooling_values, takes_plain_head
from kobert_core.models.backbone import encoder_config
from kobert_core.tasks.base import Outcome, Purpose, Task, TextsByKind
from kobert_core.tasks.examples import Inputs
from kobert_core.tasks.labelled_texts.config import (
    NO_CLASS_OF_TRANSFORMERS,
    PLAIN_HEAD,
    LabelledTextsData,
    TextModel,
)
from kobert_core.tasks.labelled_texts.examples import (
    CODE_VERSION,
    TextExamples,
    end_to_end,
    tokenize,
    tokenize_parts,
)
from kobert_core.tasks.labelled_texts.model import LossSettings, ProblemType, TextClassifier
from kobert_core.tasks.labelled_texts.rows import Rows, read_rows, row_chunks, texts_problem
from kobert_core.tasks.labelled_texts.soft_labels import SoftTargets, looked_up, no_labels, read_soft_labels
from kobert_core.tasks.labelled_texts.targets import Targets
from kobert_core.texts import folded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FACTS_VERSION = 2
"""Part of the cache's key: raised when other facts are kept of a file."""

LOOKS_VERSION = 1
"""The same, when texts that look alike are told in another way."""

Facts = tuple[np.ndarray, Digests, list[BadRow]]
"""Of a part of a file: the labels and the digests of the texts of its usable rows, and what was set aside."""


class LabelledTexts(Task[TextExamples]):
    """Labelled texts of one config."""

    problem_type: ClassVar[ProblemType]
    """What the model learns, by transformers' names."""
    head = TextClassifier
    weight_files: ClassVar[Mapping[str, str]] = {PLAIN_HEAD: "pooled_head."}
    caveats: ClassVar[Mapping[str, str]] = {PLAIN_HEAD: NO_CLASS_OF_TRANSFORMERS}

    data: LabelledTextsData
    model: TextModel

    @abstractmethod
    def _targets(self) -> Targets:
        """What reads the labels of one file."""

    @property
    @abstractmethod
    def _label_names(self) -> list[str]:
        """Names of what the model has a logit for, in their order."""

    @abstractmethod
    def _label_key(self) -> object:
        """All that targets depend on, beside the file and its columns: JSON values."""

    @abstractmethod
    def _strata(self, labels: np.ndarray) -> np.ndarray:
        """What the splits keep the proportions of: a number a row, shape (rows,)."""

    @abstractmethod
    def _tell_labels(self, split: str, labels: np.ndarray) -> Survey:
        """What labels a split has, and what of that is probably a mistake."""

    @abstractmethod
    def _count_labels(self, labels: np.ndarray) -> Mapping[str, object]:
        """The same of a file, as JSON values."""

    def _label_ranges(self, labels: np.ndarray) -> Mapping[str, object]:
        """How many rows of a file there are in each range of labels, where these are numbers: JSON values."""
        return {}

    @property
    def segments(self) -> int:  # type: ignore[override]
        return 1 if self.data.pair_column is None else 2

    @property
    def pooler(self) -> bool:  # type: ignore[override]
        return self.model.pooling in ("auto", "pooler")

    @property
    def longest(self) -> int:
        return self.data.max_length

    def _with_head(self, encoder: PreTrainedModel) -> TextClassifier:
        return TextClassifier(
            encoder,
            num_labels=len(self._label_names),
            problem_type=self.problem_type,
            dropout=self.model.dropout,
            pooling=self.model.pooling,
            distill=self.config.distill,
            **self._loss_settings(),
        )

    def _loss_settings(self) -> LossSettings:
        """What the model's section says of the loss."""
        return {}

    def hf_config(self) -> PretrainedConfig:
        from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

        config = encoder_config(self.model, self.tokenizer, longest=self.data.max_length)
        names = self._label_names
        plain = takes_plain_head(config, self.model.pooling)
        classes: Any = MODEL_MAPPING if plain else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        config.update(
            {
                "architectures": [classes[type(config)].__name__],
                family_of(config).head_dropout: self.model.dropout,
                "id2label": dict(enumerate(names)),
                "label2id": {name: index for index, name in enumerate(names)},
                "problem_type": self.problem_type,
            }
            | pooling_values(config, self.model.pooling)
        )
        return config

    def input_parts(self, path: Source, *, keep_columns: bool = False) -> Iterator[Inputs[TextExamples]]:
        for rows in self._chunks(path, labelled=False, keep_columns=keep_columns):
            texts = {"text": rows.texts} if rows.pairs is None else {"text": rows.texts, "pair": rows.pairs}
            yield replace(self._inputs(rows.ids, texts), bad=rows.bad, kept=rows.kept)

    @property
    def input_columns(self) -> tuple[str, ...]:
        return ("text",) if self.data.pair_column is None else ("text", "pair")

    def input_problem(self, row: Mapping[str, object]) -> str | None:
        return texts_problem([row.get(name) for name in self.input_columns])

    def inputs(self, rows: Sequence[Mapping[str, object]]) -> Inputs[TextExamples]:
        texts = {name: [str(row[name]) for row in rows] for name in self.input_columns}
        return self._inputs([str(number) for number in range(len(rows))], texts)

    def _inputs(self, ids: list[str], texts: dict[str, list[str]]) -> Inputs[TextExamples]:
        def examples() -> TextExamples:
            unlabelled = np.zeros(len(ids), dtype=np.int64)
            return self._examples(tokenize(texts["text"], unlabelled, self.tokenizer, texts.get("pair")))

        return Inputs(ids=ids, texts=texts, tokenize=examples)

    def review(
        self, examples: TextExamples, outputs: dict[str, np.ndarray], file: Source | None = None
    ) -> list[dict[str, object]]:
        rows = self.read_rows(file or self.data.dev or self.data.train).take(examples.rows)
        texts = {"text": rows.texts} if rows.pairs is None else {"text": rows.texts, "pair": rows.pairs}
        outcomes = self._outcomes(examples.labels, outputs["logits"])
        return [
            {"id": row_id} | dict(zip(texts, of_row, strict=True)) | outcome._asdict()
            for row_id, of_row, outcome in zip(rows.ids, zip(*texts.values(), strict=True), outcomes, strict=True)
        ]

    def labelled_rows(
        self, file: Source, purpose: Purpose = "scoring", items: np.ndarray | None = None
    ) -> list[dict[str, object]]:
        rows = self.read_rows(file) if items is None else self.read_rows(file).take(items)
        texts = {"text": rows.texts} if rows.pairs is None else {"text": rows.texts, "pair": rows.pairs}
        nothing = np.zeros((len(rows), len(self._label_names)))  # what a model says of them is not asked for
        expected = [outcome.expected for outcome in self._outcomes(rows.labels, nothing)]
        name = "labels" if isinstance(expected[0], list) else "label"
        return [
            {"id": row_id} | dict(zip(texts, of_row, strict=True)) | {name: said}
            for row_id, of_row, said in zip(rows.ids, zip(*texts.values(), strict=True), expected, strict=True)
        ]

    @abstractmethod
    def _outcomes(self, labels: np.ndarray, logits: np.ndarray) -> Iterator[Outcome]:
        """What came of each row."""

    def total_weight(self, examples: TextExamples, indices: np.ndarray) -> float:
        return float(len(indices))

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return {"logits": model(**batch.inputs).logits.float()}

    def read(self, path: Source, purpose: Purpose = "scoring") -> TextExamples:
        return self._examples(self._arrays(path))

    def _arrays(self, path: Source) -> Mapping[str, np.ndarray]:
        """What `TextExamples` views of a labelled file."""
        return cached_arrays(
            self._cache, self._features_key(path), lambda: tokenize_parts(self._parts(path), self.tokenizer)
        )

    def _features_key(self, path: Source) -> dict[str, object]:
        return self._file_key(path) | {"tokenizer": self.tokenizer.fingerprint, "features": CODE_VERSION}

    def _examples(self, arrays: Mapping[str, np.ndarray]) -> TextExamples:
        return TextExamples(
            **arrays, tokenizer=self.tokenizer, max_length=self.data.max_length, truncate=self.data.truncate
        )

    @property
    def soft_targets(self) -> SoftTargets:
        """How a teacher's predictions are read."""
        return SoftTargets(self._label_names, self.problem_type)

    def _learned(self) -> TextExamples:
        """With a teacher: the training split, and behind it the teacher's other texts, which have no label."""
        if self.config.distill is None:
            return super()._learned()
        arrays = {name: array for name, array in self._taught.items() if name not in ("digests", "looks")}
        behind = len(self._taught["digests"])
        return self._examples(arrays | {"rows": np.concatenate([behind + self._split["train"], self._others])})

    @cached_property
    def _taught(self) -> Mapping[str, np.ndarray]:
        """What `TextExamples` views of the teacher's texts and, behind them, of the training file.

        And digests of the teacher's texts: `digests` of the texts as they are, `looks` of what a reader sees of them.
        Programs that write files fold blanks and decompose Hangul, so a text is found again by its looks.
        """
        distill = self.config.distill
        assert distill is not None
        file, train = distill.soft_labels, self.data.train
        targets = self.soft_targets

        def parts() -> Iterator[dict[str, np.ndarray]]:
            labelled, looks, said = dict(self._arrays(train)), list[Digests](), list[np.ndarray]()
            of_pairs, most_bad = self.data.pair_column is not None, self.data.max_bad_fraction
            with self._reading(file):
                for rows in read_soft_labels(file, targets, of_pairs=of_pairs, max_bad_fraction=most_bad):
                    said.append(rows.labels)
                    looks.append(_looks_of(rows))
                    nothing = no_labels(len(rows), labelled["labels"])
                    arrays = tokenize(rows.texts, nothing, self.tokenizer, rows.pairs)
                    digests = _facts_of(rows)[1]
                    yield arrays | {"soft_labels": rows.labels, "digests": digests, "looks": looks[-1]}
            known = looked_up(self._looks(train), np.concatenate(looks), np.concatenate(said))
            yield labelled | {"soft_labels": known, "digests": looks[0][:0], "looks": looks[0][:0]}

        key = self._features_key(train) | {"taught": [CODE_VERSION, LOOKS_VERSION, file.digest(), *targets.columns]}
        return cached_arrays(self._cache, key, lambda: end_to_end(parts()))

    @cached_property
    def _others(self) -> np.ndarray:
        """The teacher's texts, each once, that stand neither in the training split nor in what runs are judged by."""
        split, dev = self._split, self._looks(self.data.dev or self.data.train)
        judged = [dev[rows] for name, rows in split.items() if name != "train"]
        looks, first = np.unique(self._taught["looks"], return_index=True)
        known = np.concatenate([self._looks(self.data.train)[split["train"]], *judged])
        others: np.ndarray = np.sort(first[~np.isin(looks, known)])
        return others

    def read_rows(self, path: Source) -> Rows:
        """The usable rows of a labelled file, and those that were set aside."""
        data = self.data
        return read_rows(
            path,
            columns=data.columns,
            targets=self._targets(),
            max_bad_fraction=data.max_bad_fraction,
            dialect=data.dialect,
        )

    def _parts(self, path: Source) -> Iterator[Rows]:
        """`read_rows` in parts. The facts of the file are found meanwhile, so that it is read once."""
        facts: list[Facts] = []
        for rows in self._watched(path):
            facts.append(_facts_of(rows))
            yield rows
        self._kept_facts(path, lambda: facts)

    def _watched(self, path: Source, *, max_bad_fraction: float | None = None) -> Iterator[Rows]:
        """The parts of a file. A part counts as done when the next one is asked for: by then it is tokenized."""
        work, done = f"reading {path.name}", 0
        self.progress(work, done)
        for rows in self._chunks(path, max_bad_fraction=max_bad_fraction):
            yield rows
            done += len(rows) + len(rows.bad)
            self.progress(work, done)
        self.progress(work, done, done)

    def _chunks(
        self,
        path: Source,
        *,
        labelled: bool = True,
        max_bad_fraction: float | None = None,
        keep_columns: bool = False,
    ) -> Iterator[Rows]:
        data = self.data
        return row_chunks(
            path,
            columns=data.columns,
            targets=self._targets() if labelled else None,
            max_bad_fraction=data.max_bad_fraction if max_bad_fraction is None else max_bad_fraction,
            dialect=data.dialect,
            keep_columns=keep_columns,
        )

    def bad_rows(self, path: Source, purpose: Purpose = "scoring") -> list[BadRow]:
        """The rows of a labelled file that were set aside, for either purpose the same."""
        facts = self._facts(path)
        rows = zip(facts["bad_lines"].tolist(), facts["bad_reasons"].tolist(), strict=True)
        return [BadRow(line, reason) for line, reason in rows]

    def _facts(self, path: Source) -> dict[str, np.ndarray]:
        """What is known of a file's rows before they are tokenized."""
        return self._kept_facts(path, lambda: [_facts_of(rows) for rows in self._chunks(path)])

    def _kept_facts(self, path: Source, parts: Callable[[], list[Facts]]) -> dict[str, np.ndarray]:
        def build() -> dict[str, np.ndarray]:
            labels, texts, bad = zip(*parts(), strict=True)
            rows = [row for some in bad for row in some]
            return {
                "labels": np.concatenate(labels),
                "texts": np.concatenate(texts),
                "bad_lines": np.array([row.line for row in rows]) if rows else np.zeros(0, dtype=np.int64),
                "bad_reasons": np.array([row.reason for row in rows], dtype=np.str_),
            }

        return cached_arrays(self._cache, self._file_key(path) | {"facts": FACTS_VERSION}, build)

    def describe(self, file: Source) -> dict[str, object]:
        """Examples and their labels, what is set aside, and how long examples are in tokens, special ones counted."""
        labels, bad = list[np.ndarray](), list[BadRow]()

        def parts() -> Iterator[Rows]:
            for rows in self._watched(file, max_bad_fraction=1.0):
                labels.append(rows.labels)
                bad.extend(rows.bad)
                yield rows

        lengths = self._examples(joined(tokenize_parts(parts(), self.tokenizer))).whole_lengths
        return {
            "examples": len(lengths),
            **self._count_labels(np.concatenate(labels)),
            **self._label_ranges(np.concatenate(labels)),
            "set_aside": len(bad),
            "set_aside_places": [str(row) for row in bad[:PLACES_SHOWN]],
            "tokens": {
                "mean": round(float(lengths.mean()), 1),
                "p99": int(np.quantile(lengths, 0.99)),
                "max": int(lengths.max()),
            },
        }

    def _tell_split(self, split: str, path: Source | None) -> Survey:
        told = self._tell_labels(split, self._rows_of(split, path)[0])
        if split == "train" and self.config.distill is not None:
            self._tell_teacher(told)
        return told

    def _looks(self, path: Source) -> Digests:
        """Digests of the texts of a labelled file as they look, which only students ask for."""
        key = self._file_key(path) | {"looks": LOOKS_VERSION}

        def build() -> dict[str, np.ndarray]:
            return {"looks": np.concatenate([_looks_of(rows) for rows in self._chunks(path)])}

        return cached_arrays(self._cache, key, build)["looks"]

    def _tell_teacher(self, told: Survey) -> None:
        """How much of what is trained on the teacher says something of."""
        train = self._split["train"]
        said = self._taught["soft_labels"][len(self._taught["digests"]) :][train]
        taught = int((~np.isnan(said[:, 0])).sum())
        told.facts.append(
            ("soft labels", f"of {share_of(taught, len(train))} training texts, and of {len(self._others):,} others")
        )
        if not taught:
            told.warnings.append("the soft labels have none of the texts of the training split")

    def _digests_of(self, split: str, path: Source | None) -> Digests:
        digests = self._rows_of(split, path)[1]
        if split == "train" and self.config.distill is not None:
            return np.concatenate([digests, self._taught["digests"][self._others]])
        return digests

    def few_labels(self) -> dict[str, int]:
        files = {"train": self.data.train, "dev": self.data.dev}
        counts = {split: len(np.unique(self._rows_of(split, path)[0], axis=0)) for split, path in files.items()}
        return {split: count for split, count in counts.items() if count < self.data.limits.labels}

    def texts(self, file: Source, purpose: Purpose = "scoring", items: np.ndarray | None = None) -> TextsByKind:
        rows = self.read_rows(file) if items is None else self.read_rows(file).take(items)
        if rows.pairs is None:
            return {"text": [(text,) for text in rows.texts]}
        return {"pair": list(zip(rows.texts, rows.pairs, strict=True))}

    def _rows_of(self, split: str, path: Source | None) -> tuple[np.ndarray, np.ndarray]:
        """Labels and digests of the texts of a split."""
        facts = self._facts(path or self.data.train)
        rows = self._split.get(split, slice(None))
        return facts["labels"][rows], facts["texts"][rows]

    def cut_off(self) -> list[CutOff]:
        return [
            CutOff("texts cut off", "data.max_length", self.data.max_length, self.train.cut / max(1, len(self.train)))
        ]

    def _file_key(self, path: Source) -> dict[str, object]:
        columns = self.data.columns
        return {
            "file": Source.of(path).digest(),
            "columns": [*columns.texts, *columns.labels, columns.id],
            "labels": self._label_key(),
            "reading": CODE_VERSION,
            "max_bad_fraction": self.data.max_bad_fraction,
            **self.data.dialect.key(),
        }

    @cached_property
    def _split(self) -> dict[str, np.ndarray]:
        """Rows of the train and the dev split: of `train` both, or of `train` and of `dev`."""
        data = self.data
        train_strata = self._strata(self._facts(data.train)["labels"])
        dev_strata = None if data.dev is None else self._strata(self._facts(data.dev)["labels"])
        return self._split_by_class(train_strata, dev_strata)


def _facts_of(rows: Rows) -> Facts:
    return rows.labels, text_digests(map(PAIR_ENDS.join, zip(*_texts_of(rows), strict=True))), rows.bad


def _looks_of(rows: Rows) -> Digests:
    """Digests of the texts as they look."""
    return text_digests(map(PAIR_ENDS.join, zip(*(map(folded, each) for each in _texts_of(rows)), strict=True)))


def _texts_of(rows: Rows) -> list[list[str]]:
    return [rows.texts] if rows.pairs is None else [rows.texts, rows.pairs]
