"""Classification of texts or pairs of texts, with any number of classes: reviews by sentiment, pairs by entailment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from kobert_core.data.class_weights import balanced_weights
from kobert_core.data.survey import Survey
from kobert_core.errors import InputError
from kobert_core.tasks.base import Chance, Outcome
from kobert_core.tasks.labelled_texts.answers import likeliest_of, probabilities_of, probability_columns
from kobert_core.tasks.labelled_texts.examples import TextExamples
from kobert_core.tasks.labelled_texts.model import LossSettings, ProblemType
from kobert_core.tasks.labelled_texts.task import LabelledTexts
from kobert_core.tasks.text_classification.config import (
    CLASSIFICATION,
    NSMC,
    TextClassificationData,
    TextClassificationModel,
)
from kobert_core.tasks.text_classification.metrics import METRICS, class_report, probabilities
from kobert_core.tasks.text_classification.targets import ClassIndices


class TextClassification(LabelledTexts):
    """Text classification on the data of one config."""

    spec = CLASSIFICATION
    problem_type: ClassVar[ProblemType] = "single_label_classification"
    shares: ClassVar[Mapping[str, float]] = {"eval/accuracy": 1.0}

    data: TextClassificationData
    model: TextClassificationModel

    def _targets(self) -> ClassIndices:
        return ClassIndices(self.data.labels, self.data.label_column)

    @property
    def _label_names(self) -> list[str]:
        return list(self.data.labels.values())

    def _label_key(self) -> list[str]:
        return list(self.data.labels)

    def _strata(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def _loss_settings(self) -> LossSettings:
        weights = self._class_weights
        return {
            "label_smoothing": self.model.label_smoothing,
            "class_weights": None if weights is None else torch.tensor(weights),
        }

    def answers(
        self, ids: list[str], examples: TextExamples, outputs: dict[str, np.ndarray]
    ) -> list[dict[str, object]]:
        """For each id its label as the training file has it, the name of that class, and all probabilities."""
        labels, names = list(self.data.labels), list(self.data.labels.values())
        return [
            {"id": row_id, "label": labels[row.argmax()], "name": names[row.argmax()]} | probability_columns(names, row)
            for row_id, row in zip(ids, probabilities(outputs["logits"]), strict=True)
        ]

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"label": str, "name": str} | {f"probability_{name}": float for name in self._label_names}

    def select(
        self, answers: list[dict[str, object]], *, top_k: int | None = None, threshold: float | None = None
    ) -> list[dict[str, object]]:
        """A label that is less probable than the threshold becomes None."""
        labels, names = list(self.data.labels), self._label_names
        unsure = {"label": None, "name": None}
        if threshold is not None:
            answers = [one if max(probabilities_of(one, names)) >= threshold else one | unsure for one in answers]
        return answers if top_k is None else [likeliest_of(one, labels, names, top_k) for one in answers]

    def _outcomes(self, labels: np.ndarray, logits: np.ndarray) -> Iterator[Outcome]:
        names, probable = self._label_names, probabilities(logits)
        for label, row in zip(labels.tolist(), probable, strict=True):
            likeliest = int(row.argmax())
            yield Outcome(names[label], names[likeliest], round(float(row[likeliest]), 6), float(likeliest == label))

    def total_weight(self, examples: TextExamples, indices: np.ndarray) -> float:
        if self._class_weights is None:
            return float(len(indices))
        return float(self._class_weights[examples.labels[indices]].sum(dtype=np.float64))

    def score(self, examples: TextExamples, outputs: dict[str, np.ndarray]) -> dict[str, float]:
        logits, labels = outputs["logits"], examples.labels
        scores = {name: METRICS[name](logits, labels) for name in self.spec.metrics if name in METRICS}
        return scores | {"eval/examples": examples.items}

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

    def _tell_labels(self, split: str, labels: np.ndarray) -> Survey:
        names, facts, warnings = self._label_names, list[tuple[str, str]](), list[str]()
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
        return Survey(facts, warnings)

    def _count_labels(self, labels: np.ndarray) -> dict[str, dict[str, int]]:
        names = self._label_names
        return {"classes": dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))}

    @cached_property
    def _class_weights(self) -> np.ndarray | None:
        """float32, shape (classes,); None when all weigh the same."""
        weights, classes = self.model.class_weights, len(self.data.labels)
        if weights is None:
            return None
        if weights == "balanced":
            return balanced_weights(np.bincount(self.train.labels, minlength=classes))
        if len(weights) != classes:
            raise InputError(f"{len(weights)} weights for {classes} classes", where="model.class_weights")
        return np.array(weights, dtype=np.float32)


class Nsmc(TextClassification):
    """The same with the columns and labels of NAVER movie reviews."""

    spec = NSMC
