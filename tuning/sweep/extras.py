"""Models that a sweep could export in the place of its winner, and what they score on dev: told, and never exported
unless somebody asks for one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from kobert_core.config import Objective
from kobert_core.tasks import SPECS


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Of the winner, as its card tells of it."""

    title: str
    how: str
    """What was made of the winner's runs."""
    metrics: Mapping[str, float]
    """On dev."""
    instead: tuple[str, float]
    """What the winner scores as it is: of which metric, and the value."""
    values: Mapping[str, object] = field(default_factory=dict)
    """Of the model's config, in the place of the winner's."""


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """The models of the runs that confirm what is exported, on dev: each alone, and together."""

    task: str
    models: int
    metric: str
    """The objective."""
    mode: Literal["max", "min"]
    mean: float
    """Of the objective: each model alone, on average."""
    ensemble: Mapping[str, float]
    """All metrics of the mean of their answers."""
    averaged: Mapping[str, float]
    """All metrics of one model that has the mean of their weights."""

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)

    @property
    def variant(self) -> Variant:
        """The model with the mean of the weights."""
        return Variant(
            title="averaged",
            how=f"the weights are the mean of those of {self.models} runs with its values and other seeds, as in "
            "[model soups](https://arxiv.org/abs/2203.05482)",
            metrics=self.averaged,
            instead=(f"{self.metric}, each run alone, on average", self.mean),
        )

    def lines(self, sweep: Path) -> Iterator[str]:
        """The same in words, and how to get a model of them."""
        objective, where = Objective(metric=self.metric, mode=self.mode), shlex.quote(str(sweep))
        told = [f"the {self.models} confirmed seeds on dev: {self.metric} {self.mean:.4f} on average"]
        for name, metrics in {"their ensemble": self.ensemble, "their averaged weights": self.averaged}.items():
            value = metrics[self.metric]
            told.append(f"{name} {value:.4f}{'' if objective.is_better(value, than=self.mean) else ' (no better)'}")
        yield ", ".join(told)
        yield f"export the averaged weights: kobert-tune export {where} --averaged --output MODEL_DIR"
        if SPECS[self.task].takes_soft_labels:
            yield f"make one model of the ensemble: kobert-tune distill {where} --student STUDY"


@dataclass(frozen=True, kw_only=True)
class DecodingScores:
    """Other settings by which the winner's answers are read from its outputs, on dev."""

    metric: str
    """The objective."""
    before: float
    """Of the objective, with the settings that the winner was trained with."""
    tried: int
    values: Mapping[str, object]
    """The best ones, by their names in the model's config: what is other than before; empty where nothing is better."""
    metrics: Mapping[str, float]
    """All metrics with them."""

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)

    @property
    def in_words(self) -> str:
        """The settings."""
        return ", ".join(f"{name} {str(value).lower()}" for name, value in self.values.items())

    @property
    def variant(self) -> Variant:
        """The winner with these settings."""
        return Variant(
            title="tuned decoding",
            how=f"its answers are read with settings that were chosen afterwards on the dev split ({self.in_words})",
            metrics=self.metrics,
            instead=(f"{self.metric}, with the settings of the sweep", self.before),
            values=self.values,
        )

    def lines(self, sweep: Path) -> Iterator[str]:
        """The same in words, and how to get such a model."""
        if not self.values:
            yield f"decoding on dev: of {self.tried} settings none is better ({self.metric} {self.before:.4f})"
            return
        value = self.metrics[self.metric]
        yield f"decoding on dev: {self.metric} {value:.4f} with {self.in_words}, {self.before:.4f} without"
        yield f"export it so: kobert-tune export {shlex.quote(str(sweep))} --tuned-decoding --output MODEL_DIR"
