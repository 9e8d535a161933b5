"""What passes through Ray Tune, which has no types for it."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from tuning.sweep_dir.trial_table import Copied
from tuning.workers.broker import ReportContent


class TrialConfig(TypedDict):
    """What the search, or a population, gives a trial."""

    trial: int
    values: dict[str, object]
    lineage: NotRequired[list[Copied]]


class TrialResult(TypedDict):
    """What a trial says at each evaluation."""

    objective: float
    progress: int
    report: ReportContent
    done: bool


class HoldoutScores(TypedDict):
    """How a checkpoint does on the part of the dev split that no trial was chosen by."""

    metrics: dict[str, float]
    pseudo_values: list[float]
    """Of the objective: see `kobert_core.pseudo_values`."""


class TogetherScores(TypedDict):
    """How the models of several seeds do together on the dev split: all metrics of either way."""

    ensemble: dict[str, float]
    averaged: dict[str, float]


class TunedDecoding(TypedDict):
    """The settings that read a model's answers best on the dev split: see `kobert_core.evaluation.Decoding`."""

    values: dict[str, object]
    metrics: dict[str, float]
    tried: int
