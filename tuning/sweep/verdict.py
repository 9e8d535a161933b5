"""What a sweep may say of its winner: that it is better than the baseline, that it is not, or that nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from kobert_core.tasks import task_class
from tuning.statistics.intervals import Interval, difference
from tuning.study import StudyConfig
from tuning.sweep_dir.confirm_runs import ConfirmRun

Outcome = Literal["better", "worse", "tie", "unconfirmed"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What runs with other seeds, on examples that no trial was chosen by, say of the best trial."""

    winner: int
    """The trial that is exported."""
    candidate: int
    """The best trial, as the search and a few more runs have it."""
    baseline: int
    outcome: Outcome
    """Of the candidate, compared with the baseline."""
    sentence: str
    """The same in words."""
    metric: str
    """What they are compared by."""
    gain: Interval | None = None
    """The candidate's mean minus the baseline's, on the holdout; positive where the candidate is better. None where
    it could not be confirmed."""
    means: Mapping[int, float] | None = None
    """The mean of either trial's runs on the holdout."""
    value: float | None = None
    """The candidate's value in the search."""
    optimism: float | None = None
    """By how much the candidate's value in the search was better than its mean on the holdout."""
    runs: int = 0
    """Runs that the verdict rests on."""
    chosen_by: int = 0
    """Runs that chose the candidate."""

    def __str__(self) -> str:
        return self.sentence

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Verdict:
        """The verdict of what `as_json` gave."""
        given = {name: value for name, value in content.items() if name in cls.__dataclass_fields__}
        gain, means = given.get("gain"), given.get("means")
        given["gain"] = Interval(**gain) if gain else None
        given["means"] = {int(trial): mean for trial, mean in means.items()} if means else None
        return cls(**given)

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "sentence": self.sentence,
            "outcome": self.outcome,
            "winner": self.winner,
            "candidate": self.candidate,
            "baseline": self.baseline,
            "metric": self.metric,
            "gain": self.gain.as_json() if self.gain else None,
            "means": {str(trial): mean for trial, mean in self.means.items()} if self.means else None,
            "value": self.value,
            "optimism": self.optimism,
            "runs": self.runs,
            "chosen_by": self.chosen_by,
        }


def judge(
    study: StudyConfig,
    candidate: int,
    value: float,
    ours: Sequence[ConfirmRun],
    theirs: Sequence[ConfirmRun],
    *,
    baseline_breaks: str = "",
) -> Verdict:
    """Compare the runs of the candidate and of the baseline on the holdout.

    Args:
        study: Gives the objective, and what wins a tie.
        candidate: The best trial.
        value: Its value in the search.
        ours, theirs: The complete runs of the candidate and of the baseline, scored.
        baseline_breaks: The constraints that the baseline breaks, in words: then it cannot win.
    """
    assert study.confirm is not None
    objective, baseline = study.objective, study.search.baselines[0]
    name = name_of(study, baseline)
    if min(len(ours), len(theirs)) < study.confirm.seeds:
        failed = candidate if len(ours) < study.confirm.seeds else baseline
        sentence = f"not confirmed: trial {failed} fails with some seeds"
        may_win = failed != baseline and not baseline_breaks
        return replace(unconfirmed(study, candidate, sentence), winner=baseline if may_win else candidate)
    sign = 1 if objective.mode == "max" else -1
    gain = difference(*(sign * np.array([run.pseudo_values for run in runs]) for runs in (ours, theirs)))
    means = {
        trial: float(np.mean([run.holdout[on_holdout(objective.metric)] for run in runs]))
        for trial, runs in ((candidate, ours), (baseline, theirs))
    }
    outcome: Outcome = "tie" if not gain.excludes_zero else "better" if gain.estimate > 0 else "worse"
    by_cost = {trial: sum(run.seconds for run in runs) for trial, runs in ((candidate, ours), (baseline, theirs))}
    winners = {
        "baseline": baseline,
        "cheapest": min(by_cost, key=lambda trial: by_cost[trial]),
        "best_mean": candidate if gain.estimate > 0 else baseline,
    }
    winner = {"better": candidate, "worse": baseline, "tie": winners[study.confirm.tie]}[outcome]
    why = ""
    if winner == baseline and baseline_breaks:
        winner, why = candidate, f", since {name} breaks {baseline_breaks}"
    runs, whole = len(ours) + len(theirs), task_class(study.task).shares.get(objective.metric)
    interval = interval_in_words(gain, whole, runs=runs)
    exported = name if winner == baseline else f"trial {candidate}"
    return Verdict(
        winner=winner,
        candidate=candidate,
        baseline=baseline,
        outcome=outcome,
        sentence={
            "better": f"trial {candidate} is better than {name} by {in_words(whole, gain.estimate)} ({interval})",
            "worse": f"trial {candidate} is worse than {name} by {in_words(whole, -gain.estimate)} ({interval}): "
            f"{exported} is exported{why}",
            "tie": f"trial {candidate} and {name} are a tie ({interval}, for the gain of trial {candidate}): "
            f"{exported} is exported{why}",
        }[outcome],
        metric=objective.metric,
        gain=gain,
        means=means,
        value=value,
        optimism=sign * (value - means[candidate]),
        runs=runs,
    )


def unconfirmed(study: StudyConfig, candidate: int, sentence: str) -> Verdict:
    """Nothing can be said: the best trial stays the winner."""
    return Verdict(
        winner=candidate,
        candidate=candidate,
        baseline=study.search.baselines[0],
        outcome="unconfirmed",
        sentence=sentence,
        metric=study.objective.metric,
    )


def name_of(study: StudyConfig, baseline: int) -> str:
    """What the baseline is called: a recipe when somebody gave its values, else just a trial."""
    return f"the recipe (trial {baseline})" if baseline < len(study.search.points) else f"trial {baseline}"


def on_holdout(metric: str) -> str:
    """The name of a metric on the holdout."""
    return metric.replace("eval/", "holdout/")


def in_words(whole: float | None, *differences: float) -> str:
    """Differences of the objective; of a share in points, hundredths of the whole."""
    if whole is None:
        return " to ".join(f"{each:.4g}" for each in differences)
    return " to ".join(f"{100 * each / whole:.1f}" for each in differences) + " points"


def interval_in_words(gain: Interval, whole: float | None, *, runs: int) -> str:
    """An interval in words: `95% interval 0.3 to 1.3 points, 6 runs`."""
    if gain.low == gain.high == 0:
        return f"no difference on any row, {runs} runs"
    return f"{gain.level:.0%} interval {in_words(whole, gain.low, gain.high)}, {runs} runs"
