"""Numbers for texts or pairs of texts: how alike two sentences are, how many stars a review gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from kobert_core.data.survey import Survey
from kobert_core.tasks.base import Chance, Outcome
from kobert_core.tasks.labelled_texts.examples import TextExamples
from kobert_core.tasks.labelled_texts.model import ProblemType
from kobert_core.tasks.labelled_texts.task import LabelledTexts
from kobert_core.tasks.regression.config import SPEC, RegressionData, RegressionModel
from kobert_core.tasks.regression.metrics import METRICS
from kobert_core.tasks.regression.targets import Numbers

STRATA, ROWS_A_STRATUM = 10, 10
"""Ranges of numbers, at most, and rows in each, at least, whose proportions the splits keep."""


class Regression(LabelledTexts):
    """Regression on the data of one config."""

    spec = SPEC
    problem_type: ClassVar[ProblemType] = "regression"

    data: RegressionData
    model: RegressionModel

    def _targets(self) -> Numbers:
        return Numbers(self.data.label_column)

    @property
    def _label_names(self) -> list[str]:
        return [self.data.label_column]

    def _label_key(self) -> str:
        return "numbers"

    def _strata(self, labels: np.ndarray) -> np.ndarray:
        strata = min(STRATA, max(1, len(labels) // ROWS_A_STRATUM))
        bounds = np.quantile(labels, np.arange(1, strata) / strata)
        return np.searchsorted(bounds, labels, side="right")

    def answers(
        self, ids: list[str], examples: TextExamples, outputs: dict[str, np.ndarray]
    ) -> list[dict[str, object]]:
        """For each id its number."""
        numbers = outputs["logits"][:, 0].tolist()
        return [{"id": row_id, "score": round(number, 6)} for row_id, number in zip(ids, numbers, strict=True)]

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"score": float}

    def _outcomes(self, labels: np.ndarray, logits: np.ndarray) -> Iterator[Outcome]:
        """The score is the distance between the numbers, below 0."""
        for wanted, given in zip(labels.astype(np.float64).tolist(), logits[:, 0].tolist(), strict=True):
            yield Outcome(round(wanted, 6), round(given, 6), None, -round(abs(given - wanted), 6))

    def score(self, examples: TextExamples, outputs: dict[str, np.ndarray]) -> dict[str, float]:
        predicted, labels = outputs["logits"][:, 0].astype(np.float64), examples.labels.astype(np.float64)
        scores = {name: metric(predicted, labels) for name, metric in METRICS.items()}
        return scores | {"eval/examples": examples.items}

    def chance(self, examples: TextExamples, metric: str) -> Chance | None:
        """The score of the mean, or for the absolute error of the median, whatever the text."""
        by_median = metric == "eval/mae"
        number = np.median(examples.labels) if by_median else np.mean(examples.labels, dtype=np.float64)
        scores = self.score(examples, {"logits": np.full((len(examples), 1), number)})
        return Chance(scores[metric], f"always the {'median' if by_median else 'mean'}") if metric in METRICS else None

    def _tell_labels(self, split: str, labels: np.ndarray) -> Survey:
        told = ", ".join(f"{name} {value:g}" for name, value in self._count_labels(labels)["labels"].items())
        same = [f"all {len(labels):,} rows of {split} have the same number: nothing tells models apart there"]
        return Survey([(f"labels in {split}", told)], [] if np.ptp(labels) else same)

    def _count_labels(self, labels: np.ndarray) -> dict[str, dict[str, float]]:
        numbers = labels.astype(np.float64)
        values = {"min": numbers.min(), "mean": numbers.mean(), "max": numbers.max(), "std": numbers.std()}
        return {"labels": {name: round(float(value), 4) for name, value in values.items()}}

    def _label_ranges(self, labels: np.ndarray) -> dict[str, dict[str, int]]:
        counts, bounds = np.histogram(labels.astype(np.float64), bins=STRATA)
        names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(bounds.tolist())]
        return {"label_ranges": dict(zip(names, counts.tolist(), strict=True))}
