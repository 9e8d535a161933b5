"""What belongs to one command from its start to its end, though processes die and others take their place."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field

from tuning.results import UNFINISHED, TrialTable

MAX_LOSSES = 3
"""So often in a row may processes be lost without a trial's report between; then somebody has to look."""
VARIABLE = "KOBERT_TUNE_SITTING"


@dataclass
class Sitting:
    """What a process hands to the one that takes its place."""

    begin: float = field(default_factory=time.monotonic)
    failures: list[str] = field(default_factory=list)
    """Why trials have failed."""
    losses: int = 0
    """Of processes, in a row."""
    reports: int = -1
    """Of all trials, when the latest process was lost."""

    @classmethod
    def of_this_process(cls) -> Sitting:
        """A new one, or the one that this process was handed."""
        handed = os.environ.pop(VARIABLE, None)  # not for Ray's processes
        return cls(**json.loads(handed)) if handed else cls()

    def as_variable(self) -> dict[str, str]:
        """What hands it on in the environment."""
        return {VARIABLE: json.dumps(asdict(self))}

    def goes_on(self, table: TrialTable) -> bool:
        """Count a loss of processes: whether another try is worth it."""
        reports = sum(len(record.curve) + (record.state not in UNFINISHED) for record in table)
        self.losses = self.losses + 1 if reports == self.reports else 1
        self.reports = reports
        return self.losses <= MAX_LOSSES
