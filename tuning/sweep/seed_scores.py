"""What the models of the confirmed seeds score on dev: each alone, and together. It is told, and never exported unless
somebody asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from kobert_core.config import Objective


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """The models of the runs that confirm what is exported, on the dev split."""

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
    def sentence(self) -> str:
        """The same in words."""
        objective = Objective(metric=self.metric, mode=self.mode)
        told = [f"the {self.models} confirmed seeds on dev: {self.metric} {self.mean:.4f} on average"]
        for name, metrics in {"their ensemble": self.ensemble, "their averaged weights": self.averaged}.items():
            value = metrics[self.metric]
            told.append(f"{name} {value:.4f}{'' if objective.is_better(value, than=self.mean) else ' (no better)'}")
        return ", ".join(told)
