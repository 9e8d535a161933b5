"""Searchers that other packages add, by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kobert_core.plugins import Plugins

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    MakeSampler = Callable[[Any, Any, int], BaseSampler]

SEARCHERS: Plugins[MakeSampler] = Plugins("kobert_tuning.searchers", None, {})
"""Each gives a sampler of Optuna from a `SearchConfig`, the `Space`, and a seed. It is called for each trial, and for
each parameter that is sampled alone: what it gives must depend on these and on Optuna's study alone."""
