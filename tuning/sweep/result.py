"""The result of a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuning.sweep.comparison import Comparison, trial_as_json
from tuning.sweep.extras import DecodingScores, SeedScores
from tuning.sweep.verdict import Verdict
from tuning.sweep_dir.trial_table import TrialRecord


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The result of a sweep."""

    folder: Path
    states: dict[str, int]
    steps: int
    """Of all trials."""
    winner: TrialRecord | None
    verdict: Verdict | None
    """What runs with other seeds say of it, where the study has `confirm`."""
    seeds: SeedScores | None
    """What the models of those runs with its values score, alone and together."""
    decoding: DecodingScores | None
    """What its answers score, read with other settings, where its task has some."""
    test: dict[str, dict[str, float]]
    """Metrics on the test file: of the `winner`, of each baseline, such as `trial_0`, and of each run that the verdict
    rests on, such as `trial_0_seed_7`. Empty without a test file."""
    comparison: Comparison
    """What the winner is compared with."""
    model: Path | None
    """Folder of the exported winner."""
    tracking_uri: str
    seconds: float
    interrupted: bool
    gave_up: str | None
    """Why it stopped early, if neither its budget was spent nor somebody stopped it; it can be resumed."""

    def extras(self) -> Iterator[str]:
        """What else could be exported, in words."""
        if self.seeds:
            yield from self.seeds.lines(self.folder)
        if self.decoding:
            yield from self.decoding.lines(self.folder)

    def as_json(self) -> dict[str, object]:
        """Plain values, for `--json` and `winner.json`."""
        return {
            "sweep": str(self.folder),
            "states": self.states,
            "steps": self.steps,
            "interrupted": self.interrupted,
            "gave_up": self.gave_up,
            "winner": trial_as_json(self.winner) if self.winner else None,
            "verdict": self.verdict.as_json() if self.verdict else None,
            "seeds": self.seeds.as_json() if self.seeds else None,
            "decoding": self.decoding.as_json() if self.decoding else None,
            "test": self.test,
            **self.comparison.as_json(),
            "model": str(self.model) if self.model else None,
            "tracking_uri": self.tracking_uri,
            "seconds": round(self.seconds, 1),
        }
