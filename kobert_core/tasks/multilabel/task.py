"""Any number of labels for texts or pairs of texts: the kinds of abuse in a comment, the topics of an article."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from kobert_core.data.survey import Survey
from kobert_core.errors import InputError
from kobert_core.tasks.base import Chance, Outcome
from kobert_core.tasks.labelled_texts.answers import likeliest_of, probabilities_of, probability_columns
from kobert_core.tasks.labelled_texts.examples import TextExamples
from kobert_core.tasks.labelled_texts.model import LossSettings, ProblemType
from kobert_core.tasks.labelled_texts.targets import Targets
from kobert_core.tasks.labelled_texts.task import LabelledTexts
from kobert_core.tasks.multilabel.config import SPEC, MultilabelData, MultilabelModel
from kobert_core.tasks.multilabel.metrics import METRICS, label_report, probabilities
from kobert_core.tasks.multilabel.targets import LabelColumns, LabelSets

CERTAIN = 20.0
"""A logit that rounds to the probability 1."""


class Multilabel(LabelledTexts):
    """Classification with any number of labels, on the data of one config."""

    spec = SPEC
    problem_type: ClassVar[ProblemType] = "multi_label_classification"
    shares: ClassVar[Mapping[str, float]] = {"eval/exact_match": 1.0}

    data: MultilabelData
    model: MultilabelModel

    def _targets(self) -> Targets:
        data = self.data
        if data.label_columns is not None:
            return LabelColumns(data.label_columns)
        return LabelSets(list(data.labels), data.label_columns_read, data.label_separator, data.no_label)

    @property
    def _label_names(self) -> list[str]:
        return list(self.data.labels.values())

    def _label_key(self) -> list[object]:
        data = self.data
        return [list(data.labels), data.label_separator, *([] if data.no_label is None else [data.no_label])]

    def _strata(self, labels: np.ndarray) -> np.ndarray:
        """The rarest label of each row, or one more than there are where it has none."""
        rarest_first = np.argsort(labels.sum(axis=0), kind="stable")
        by_rarity = labels[:, rarest_first]
        strata: np.ndarray = np.where(by_rarity.any(axis=1), by_rarity.argmax(axis=1), labels.shape[1])
        return strata

    def _loss_settings(self) -> LossSettings:
        weights = self._class_weights
        return {"class_weights": None if weights is None else torch.tensor(weights)}

    def answers(
        self, ids: list[str], examples: TextExamples, outputs: dict[str, np.ndarray]
    ) -> list[dict[str, object]]:
        """For each id its labels as the training file has them, and the probability of each that there is."""
        labels, names = np.array(list(self.data.labels)), self._label_names
        return [
            {"id": row_id, "labels": labels[row > 0.5].tolist()} | probability_columns(names, row)
            for row_id, row in zip(ids, probabilities(outputs["logits"]), strict=True)
        ]

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"labels": list[str]} | {f"probability_{name}": float for name in self._label_names}

    def select(
        self, answers: list[dict[str, object]], *, top_k: int | None = None, threshold: float | None = None
    ) -> list[dict[str, object]]:
        """The labels are those that are at least as probable as the threshold."""
        labels, names = list(self.data.labels), self._label_names
        if threshold is not None:
            answers = [
                one
                | {
                    "labels": [
                        label
                        for label, value in zip(labels, probabilities_of(one, names), strict=True)
                        if value >= threshold
                    ]
                }
                for one in answers
            ]
        return answers if top_k is None else [likeliest_of(one, labels, names, top_k) for one in answers]

    def _outcomes(self, labels: np.ndarray, logits: np.ndarray) -> Iterator[Outcome]:
        """Right is a row with all its labels and no other; confidence is how probable exactly this set is."""
        names = np.array(self._label_names, dtype=object)
        for wanted, row in zip(labels > 0, probabilities(logits), strict=True):
            given = row > 0.5
            sure = float(np.where(given, row, 1 - row).prod())
            right = float((given == wanted).all())
            yield Outcome(names[wanted].tolist(), names[given].tolist(), round(sure, 6), right)

    def score(self, examples: TextExamples, outputs: dict[str, np.ndarray]) -> dict[str, float]:
        scores = {name: metric(outputs["logits"], examples.labels) for name, metric in METRICS.items()}
        return scores | {"eval/examples": examples.items}

    def score_in_detail(self, examples: TextExamples, outputs: dict[str, np.ndarray]) -> dict[str, object]:
        """`labels`: precision, recall, F1 and support of each."""
        return label_report(outputs["logits"], examples.labels, self._label_names)

    def chance(self, examples: TextExamples, metric: str) -> Chance | None:
        """The score of the same labels, or the same probabilities, for every text: those that score best."""
        labels = examples.labels
        if metric == "eval/exact_match":
            sets, counts = np.unique(labels, axis=0, return_counts=True)
            logits, by = CERTAIN * (2 * sets[counts.argmax()] - 1), "always the most frequent set of labels"
        elif metric.startswith("eval/f1"):
            logits, by = np.full(labels.shape[1], CERTAIN), "always all labels"
        else:
            shares = labels.mean(axis=0, dtype=np.float64).clip(1e-9, 1 - 1e-9)
            logits, by = np.log(shares / (1 - shares)), "the shares of the labels for every text"
        scores = self.score(examples, {"logits": np.tile(logits, (len(examples), 1))})
        return Chance(scores[metric], by) if metric in METRICS else None

    def _tell_labels(self, split: str, labels: np.ndarray) -> Survey:
        counts = self._count_labels(labels)
        told = [f"{count:,} {name}" for name, count in counts["labels"].items()]
        missing = [name for name, count in counts["labels"].items() if not count]
        warning = f"{split} has no row with the label {', '.join(f'`{name}`' for name in missing)}"
        facts = [
            (f"labels in {split}", ", ".join(told)),
            (f"{split} rows without a label", f"{counts['none']['rows']:,}"),
        ]
        return Survey(facts, [warning] if missing else [])

    def _count_labels(self, labels: np.ndarray) -> dict[str, dict[str, int]]:
        counts = labels.sum(axis=0).astype(int).tolist()
        without = int((~labels.any(axis=1)).sum())
        return {"labels": dict(zip(self._label_names, counts, strict=True)), "none": {"rows": without}}

    @cached_property
    def _class_weights(self) -> np.ndarray | None:
        """float32, shape (labels,); None when all weigh the same."""
        weights, count = self.model.class_weights, len(self.data.labels)
        if weights is None:
            return None
        if weights == "balanced":
            with_label = self.train.labels.sum(axis=0).clip(1)
            balanced: np.ndarray = ((len(self.train) - with_label) / with_label).clip(1 / len(self.train))
            return balanced.astype(np.float32)
        if len(weights) != count:
            raise InputError(f"{len(weights)} weights for {count} labels", where="model.class_weights")
        return np.array(weights, dtype=np.float32)
