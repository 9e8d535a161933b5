"""The orchestration: Ray, Optuna and MLflow around kobert_core.

>>> from tuning import Study, Sweep
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kobert_core.io.remote import fetch_with

if TYPE_CHECKING:
    from tuning.api.study import Study
    from tuning.api.sweep import Sweep
    from tuning.api.trial import Model
    from tuning.tracking import Callback

fetch_with("tuning.storage.fetched")

__all__ = ["Callback", "Model", "Study", "Sweep"]
_PLACES = {"Study": "api.study", "Sweep": "api.sweep", "Model": "api.trial", "Callback": "tracking"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # When it is asked for: the command line imports this package each time.
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
