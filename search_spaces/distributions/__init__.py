"""What is searched: the values that each parameter may take, and the space that they make."""

from __future__ import annotations

from search_spaces.distributions.kinds import (
    DISTRIBUTIONS,
    Categorical,
    Constant,
    Distribution,
    Int,
    IntLog,
    LogUniform,
    QUniform,
    Trial,
    Uniform,
)
from search_spaces.distributions.space import MAX_GRID, Space

__all__ = [
    "DISTRIBUTIONS",
    "MAX_GRID",
    "Categorical",
    "Constant",
    "Distribution",
    "Int",
    "IntLog",
    "LogUniform",
    "QUniform",
    "Space",
    "Trial",
    "Uniform",
]
