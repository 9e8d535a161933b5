"""Settings of Python itself that a sweep and its libraries cannot run with."""

from __future__ import annotations

import os
import sys
import warnings

from kobert_core.errors import InputError


def settle_interpreter() -> None:
    """Restore the default warnings if Python was told to raise them, also for child processes.

    Raises:
        InputError: Python dropped the docstrings, of which libraries make their own.
    """
    if sys.flags.optimize > 1:
        raise InputError(
            "Python drops the docstrings that libraries below need",
            where="PYTHONOPTIMIZE" if os.environ.get("PYTHONOPTIMIZE") else "python -OO",
            fix="unset it, or set 1",
        )
    if not any(option.partition(":")[0] in ("error", "e", "err") for option in sys.warnoptions):
        return
    os.environ.pop("PYTHONWARNINGS", None)
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
