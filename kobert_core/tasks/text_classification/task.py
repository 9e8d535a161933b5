"""Classification of texts: the sentiment of NAVER movie reviews, or any labelled table with any number of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from kobert_core.data.batching import Batch
from kobert_core.data.cache import cached_arrays, joined
from kobert_core.data.set_aside import PLACES_SHOWN
from kobert_core.data.splits import sample, stratified_split
from kobert_core.data.survey import CutOff, Digests, Survey, same_files, share_of, text_digests, warn_of_same_files
from kobert_core.errors import InputError
from kobert_core.families import family_of, pooling_values
from kobert_core.io.checksums import file_digest
from kobert_core.models.backbone import encoder_config
from kobert_core.tasks.base import Chance, Inputs, Purpose, Task
from kobert_core.tasks.text_classification.config import SPEC, TextClassificationData, TextClassificationModel
from kobert_core.tasks.text_classification.examples import CODE_VERSION, TextExamples, tokenize_parts
from kobert_core.tasks.text_classification.metrics import accuracy, class_report, cross_entropy, macro_f1, probabilities
from kobert_core.tasks.text_classification.model import TextClassifier
from kobert_core.tasks.text_classification.rows import BadRow, Rows, read_rows, row_chunks

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FACTS_VERSION = 2
"""Part of the cache's key: raised when other facts are kept of a file."""

Facts = tuple[np.ndarray, Digests, list[BadRow]]
"""Of a part of a file: the labels and the digests of the texts of its usable rows, and what was set aside."""


class TextClassification(Task[TextExamples]):
    """Text classification on the data of one config."""

    spec = SPEC

    data: TextClassificationData
    model: TextClassificationModel

    @property
    def longest(self) -> int:
        return self.data.max_length

    def _with_head(self, encoder: PreTrainedModel) -> TextClassifier:
        weights = self._class_weights
        return TextClassifier(
            encoder,
            num_labels=len(self.data.labels),
            dropout=self.model.dropout,
            pooling=self.model.pooling,
            label_smoothing=self.model.label_smoothing,
            class_weights=None if weights is None else torch.tensor(weights),
        )

    def hf_config(self) -> PretrainedConfig:
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

        config = encoder_config(self.model, self.tokenizer, longest=self.data.max_length)
        names = list(self.data.labels.values())
        config.update(
            {
                "architectures": [MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[config.model_type]],
                family_of(config).head_dropout: self.model.dropout,
                "id2label": dict(enumerate(names)),
                "label2id": {name: index for index, name in enumerate(names)},
                "problem_type": "single_label_classification",
            }
            | pooling_values(config, self.model.pooling)
        )
        return config

    def read_inputs(self, path: Path) -> Inputs[TextExamples]:
        """Every usable row of a file, in its order, with its text as it stands there."""
        ids, texts, bad = list[str](), list[str](), list[BadRow]()

        def parts() -> Iterator[Rows]:
            for rows in self._watched(path, labelled=False):
                ids.extend(rows.ids)
                texts.extend(rows.texts)
                bad.extend(rows.bad)
                yield replace(rows, labels=np.zeros(len(rows), dtype=np.int64))

        arrays = joined(tokenize_parts(parts(), self.tokenizer))
        return Inputs(ids, {"text": texts}, self._examples(arrays), bad)

    def answers(
        self, ids: list[str], examples: TextExamples, outputs: dict[str, np.ndarray]
    ) -> list[dict[str, object]]:
        """For each id its label as the training file has it, the name of that class, and all probabilities."""
        labels, names = list(self.data.labels), list(self.data.labels.values())
        return [
            {"id": row_id, "label": labels[row.argmax()], "name": names[row.argmax()]}
            | {f"probability_{name}": round(float(value), 6) for name, value in zip(names, row, strict=True)}
            for row_id, row in zip(ids, probabilities(outputs["logits"]), strict=True)
        ]

    def total_weight(self, examples: TextExamples, indices: np.ndarray) -> float:
        if self._class_weights is None:
            return float(len(indices))
        return float(self._class_weights[examples.labels[indices]].sum(dtype=np.float64))

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return {"logits": model(**batch.inputs).logits.float()}

    def score(self, examples: TextExamples, outputs: dict[str, np.ndarray]) -> dict[str, float]:
        logits, labels = outputs["logits"], examples.labels
        return {
            "eval/accuracy": accuracy(logits, labels),
            "eval/f1": macro_f1(logits, labels),
            "eval/loss": cross_entropy(logits, labels),
            "eval/examples": examples.items,
        }

    def score_in_detail(self, examples: TextExamples, outputs: dict[str, np.ndarray]) -> dict[str, object]:
        """`classes`: precision, recall, F1 and support of each; `confusion_matrix`: how many examples of a class, a
        row each, were taken for which one."""
        return class_report(outputs["logits"], examples.labels, list(self.data.labels.values()))

    def chance(self, examples: TextExamples, metric: str) -> Chance | None:
        """The score of predicting how frequent each class is among the examples, whatever the text."""
        shares = np.bincount(examples.labels, minlength=len(self.data.labels)) / len(examples)
        with np.errstate(divide="ignore"):  # a class without examples has no chance
            logits = np.tile(np.log(shares), (len(examples), 1))
        scores = self.score(examples, {"logits": logits})
        by = "the shares of the classes for every text" if metric == "eval/loss" else "always the largest class"
        return Chance(scores[metric], by) if metric in scores else None

    def read(self, path: Path, purpose: Purpose = "scoring") -> TextExamples:
        key = self._file_key(path) | {"tokenizer": self.tokenizer.fingerprint, "features": CODE_VERSION}

        arrays = cached_arrays(self._cache, key, lambda: tokenize_parts(self._parts(path), self.tokenizer))
        return self._examples(arrays)

    def _examples(self, arrays: dict[str, np.ndarray]) -> TextExamples:
        return TextExamples(**arrays, tokenizer=self.tokenizer, max_length=self.data.max_length)

    def read_rows(self, path: Path) -> Rows:
        """The usable rows of a labelled file, and those that were set aside."""
        data = self.data
        return read_rows(path, columns=data.columns, labels=data.labels, max_bad_fraction=data.max_bad_fraction)

    def _parts(self, path: Path) -> Iterator[Rows]:
        """`read_rows` in parts; its facts are kept on the way, so that a file is read once for both."""
        facts: list[Facts] = []
        for rows in self._watched(path):
            facts.append(_facts_of(rows))
            yield rows
        self._kept_facts(path, lambda: facts)

    def _watched(self, path: Path, *, labelled: bool = True, max_bad_fraction: float | None = None) -> Iterator[Rows]:
        """The parts of a file. A part counts as done when the next one is asked for: by then it is tokenized."""
        work, done = f"reading {path.name}", 0
        self.progress(work, done)
        for rows in self._chunks(path, labelled=labelled, max_bad_fraction=max_bad_fraction):
            yield rows
            done += len(rows) + len(rows.bad)
            self.progress(work, done)
        self.progress(work, done, done)

    def _chunks(self, path: Path, *, labelled: bool = True, max_bad_fraction: float | None = None) -> Iterator[Rows]:
        data = self.data
        share = data.max_bad_fraction if max_bad_fraction is None else max_bad_fraction
        return row_chunks(path, columns=data.columns, labels=data.labels, labelled=labelled, max_bad_fraction=share)

    def bad_rows(self, path: Path, purpose: Purpose = "scoring") -> list[BadRow]:
        """The rows of a labelled file that were set aside, for either purpose the same."""
        facts = self._facts(path)
        return [BadRow(int(line), str(why)) for line, why in zip(facts["bad_lines"], facts["bad_reasons"], strict=True)]

    def _facts(self, path: Path) -> dict[str, np.ndarray]:
        """What is known of a file's rows before they are tokenized."""
        return self._kept_facts(path, lambda: [_facts_of(rows) for rows in self._chunks(path)])

    def _kept_facts(self, path: Path, parts: Callable[[], list[Facts]]) -> dict[str, np.ndarray]:
        def build() -> dict[str, np.ndarray]:
            labels, texts, bad = zip(*parts(), strict=True)
            rows = [row for some in bad for row in some]
            return {
                "labels": np.concatenate(labels),
                "texts": np.concatenate(texts),
                "bad_lines": np.array([row.line for row in rows], dtype=np.int64),
                "bad_reasons": np.array([row.reason for row in rows], dtype=np.str_),
            }

        return cached_arrays(self._cache, self._file_key(path) | {"facts": FACTS_VERSION}, build)

    def describe(self, file: Path) -> dict[str, object]:
        """Examples by class, what is set aside, and how long the texts are in tokens, special ones counted."""
        labels, bad = list[np.ndarray](), list[BadRow]()

        def parts() -> Iterator[Rows]:
            for rows in self._watched(file, max_bad_fraction=1.0):
                labels.append(rows.labels)
                bad.extend(rows.bad)
                yield rows

        starts = joined(tokenize_parts(parts(), self.tokenizer))["starts"]
        lengths = np.diff(starts) + 2
        names = list(self.data.labels.values())
        counts = np.bincount(np.concatenate(labels), minlength=len(names))
        return {
            "examples": len(lengths),
            "classes": dict(zip(names, counts.tolist(), strict=True)),
            "set_aside": len(bad),
            "set_aside_places": [str(row) for row in bad[:PLACES_SHOWN]],
            "tokens": {
                "mean": round(float(lengths.mean()), 1),
                "p99": int(np.quantile(lengths, 0.99)),
                "max": int(lengths.max()),
            },
        }

    def _texts_at(self, items: np.ndarray) -> list[str]:
        return self.read_rows(self.data.train).take(items).texts

    def survey(self, test: Path | None) -> Survey:
        """How many rows of each class, and how many texts that are trained on, are in each split."""
        names, data = list(self.data.labels.values()), self.data
        files = {"train": data.train, "dev": data.dev, "test": test}
        splits = {name: self._rows_of(name, path) for name, path in files.items() if path or name == "dev"}
        facts: list[tuple[str, str]] = []
        warnings = warn_of_same_files(files)
        for split, (labels, _) in splits.items():
            counts = np.bincount(labels, minlength=len(names))
            told = [f"{count:,} {name}" for name, count in zip(names, counts.tolist(), strict=True)]
            facts.append((f"classes in {split}", ", ".join(told)))
            missing = [name for name, count in zip(names, counts, strict=True) if not count]
            if len(missing) == len(names) - 1:
                one = names[int(counts.argmax())]
                warnings.append(
                    f"all {len(labels):,} rows of {split} are of the class `{one}`: nothing tells models apart there"
                )
            elif missing:
                warnings.append(f"{split} has no row of the class {', '.join(f'`{name}`' for name in missing)}")
        _, trained_on = splits.pop("train")
        same = {other for _, other in same_files(files)}
        for split, (_, texts) in splits.items():
            count = int(np.isin(texts, trained_on).sum())
            facts.append((f"{split} texts in train", share_of(count, len(texts))))
            if count and files[split] and split not in same:
                warnings.append(f"{share_of(count, len(texts))} texts of {split} are trained on")
        return Survey(facts, warnings)

    def _rows_of(self, split: str, path: Path | None) -> tuple[np.ndarray, np.ndarray]:
        """Labels and digests of the texts of a split."""
        facts = self._facts(path or self.data.train)
        rows = self._split.get(split, slice(None))
        return facts["labels"][rows], facts["texts"][rows]

    def cut_off(self) -> list[CutOff]:
        return [
            CutOff("texts cut off", "data.max_length", self.data.max_length, self.train.cut / max(1, len(self.train)))
        ]

    def _file_key(self, path: Path) -> dict[str, object]:
        columns = self.data.columns
        return {
            "file": file_digest(path),
            "columns": [columns.text, columns.label, columns.id],
            "labels": list(self.data.labels),
            "reading": CODE_VERSION,
            "max_bad_fraction": self.data.max_bad_fraction,
        }

    @cached_property
    def _split(self) -> dict[str, np.ndarray]:
        """Rows of the train and the dev split: of `train` both, or of `train` and of `dev`."""
        data = self.data
        train_labels = self._facts(data.train)["labels"]
        dev_labels = train_labels if data.dev is None else self._facts(data.dev)["labels"]
        train, dev = self._carve(stratified_split, train_labels, None if data.dev is None else dev_labels)
        seed = data.split_seed
        return {
            "train": sample(train, data.max_train_examples, seed=seed, labels=train_labels[train]),
            "dev": sample(dev, data.max_dev_examples, seed=seed, labels=dev_labels[dev]),
        }

    @cached_property
    def _class_weights(self) -> np.ndarray | None:
        """float32, shape (classes,); None when all weigh the same."""
        weights, classes = self.model.class_weights, len(self.data.labels)
        if weights is None:
            return None
        if weights == "balanced":
            counts = np.bincount(self.train.labels, minlength=classes)
            return (len(self.train) / (classes * np.maximum(counts, 1))).astype(np.float32)
        if len(weights) != classes:
            raise InputError(f"{len(weights)} weights for {classes} classes", where="model.class_weights")
        return np.array(weights, dtype=np.float32)


def _facts_of(rows: Rows) -> Facts:
    return rows.labels, text_digests(rows.texts), rows.bad
