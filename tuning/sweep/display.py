"""What a sweep needs of whoever shows it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from kobert_core.progress import Progress
from tuning.study import StudyConfig
from tuning.sweep_dir.trial_table import TrialTable

if TYPE_CHECKING:
    from tuning.sweep.budget import Budget


class SweepDisplay(Protocol):
    """Shows a sweep while it runs."""

    def say(self, text: str) -> None:
        """One line for the reader."""
        ...

    def watching(self) -> AbstractContextManager[Progress]:
        """Show how far the work of the block has come."""
        ...

    def showing(self, table: TrialTable, study: StudyConfig, budget: Budget) -> AbstractContextManager[None]:
        """Show the trials for as long as the block runs."""
        ...
