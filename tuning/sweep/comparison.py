"""What a sweep's winner is compared with: baselines, ties, and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from kobert_core.tasks.base import Chance
from tuning.study import StudyConfig
from tuning.study.objectives import constraints_in, goals_in
from tuning.sweep_dir.reviews import Review, only_answer
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, standing

SHOWN = ("trial", "state", "progress", "value", "values", "metrics", "best_progress", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """How the trials stand where there are several objectives, or constraints."""

    names: tuple[str, ...]
    """All objectives, the first one first."""
    constraints: tuple[str, ...]
    front: tuple[TrialRecord, ...]
    """The Pareto front, best by the first objective first; empty with one objective."""
    values: Mapping[int, Mapping[str, float]]
    """Of the trials of the front, by metric."""
    breaking: Mapping[int, str]
    """The trials that break a constraint, and which."""
    unmet: str | None
    """That no trial keeps all constraints, and which one comes closest."""

    @classmethod
    def of(cls, table: TrialTable) -> Objectives | None:
        """None with one objective alone."""
        if not table.further:
            return None
        front = table.front()
        first = table.objective
        return cls(
            names=(f"{first.mode} {first.metric}", *(each.name for each in goals_in(table.further))),
            constraints=tuple(each.name for each in constraints_in(table.further)),
            front=tuple(front),
            values={record.trial: table.goals_of(record) for record in front},
            breaking={record.trial: table.breaks(record) for record in table if table.breaks(record)},
            unmet=table.why_no_winner(),
        )

    def as_json(self) -> dict[str, object]:
        """Plain values, for `--json` and `winner.json`."""
        return {
            "objectives": list(self.names),
            "constraints": list(self.constraints),
            "front": [{"trial": record.trial, "values": dict(self.values[record.trial])} for record in self.front],
            "breaking": {str(trial): told for trial, told in self.breaking.items()},
            "unmet": self.unmet,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the winner is compared with, without a judgement."""

    baselines: tuple[TrialRecord, ...] = ()
    """The baselines that have begun, including the winner if it is one."""
    ties: tuple[int, ...] = ()
    """The trials that share the winner's value, including it; empty without a tie."""
    chance: Chance | None = None
    """The value that a model without any knowledge of the text has, where that is defined."""
    notes: tuple[str, ...] = ()
    """Sentences that belong beside the winner's value."""
    objectives: Objectives | None = None
    """Of a study with several objectives, or with constraints."""

    def as_json(self) -> dict[str, object]:
        """Plain values, for `--json` and `winner.json`."""
        return {
            "baselines": [trial_as_json(record) for record in self.baselines],
            "ties": list(self.ties),
            "chance": self.chance._asdict() if self.chance else None,
            "notes": list(self.notes),
            **(self.objectives.as_json() if self.objectives else {}),
        }


def compare(
    table: TrialTable,
    study: StudyConfig,
    winner: TrialRecord | None,
    chance: Chance | None,
    reviews: Sequence[Review] = (),
) -> Comparison:
    """Compare the winner with the others; without a winner, only list the baselines.

    Args:
        table: All trials.
        study: What they are trials of.
        winner: The best of them.
        chance: What a model without any knowledge of the text scores.
        reviews: What the winner answered: of each run that confirms it, or of itself on dev.
    """
    baselines, objectives = baselines_of(table, study), Objectives.of(table)
    if winner is None:
        return Comparison(baselines=baselines, chance=chance, objectives=objectives)
    ties = tuple(record.trial for record in table.ties(winner))
    notes = []
    if len(ties) > 1:
        notes.append(f"{len(ties)} trials have the same best value; the first of them is taken")
    if table.is_out_of_patience(study.budget.patience) and table.trials_left(study) > 0:
        notes.append(
            f"the search has ended before its last trial: the latest {study.budget.patience} were no better than one "
            "before them (`budget.patience`)"
        )
    if chance and winner.value is not None and not study.objective.is_better(winner.value, than=chance.value):
        notes.append(f"{standing(winner)}: no better than {chance.by} ({chance.value:.4f})")
    notes += same_answers(reviews)
    notes += [f"{standing(each)}, breaks {told}" for each in baselines if (told := table.breaks(each))]
    return Comparison(
        baselines=baselines,
        ties=ties if len(ties) > 1 else (),
        chance=chance,
        notes=tuple(notes),
        objectives=objectives,
    )


def same_answers(reviews: Sequence[Review]) -> list[str]:
    """A sentence where the winner tells nothing apart: it, or some of its runs, give every row the same answer."""
    same = [(answer, len(review)) for review in reviews if (answer := only_answer(review)) is not None]
    if not same:
        return []
    who = "the winner" if len(reviews) == 1 else f"{len(same)} of {len(reviews)} seeds of the winner"
    answer, rows = same[0]
    which = "nothing" if answer in ("", []) else f"`{answer}`" if isinstance(answer, str | int | float) else "the same"
    return [f"{who} {'answers' if len(reviews) == 1 else 'answer'} {which} to all {rows:,} rows of dev"]


def baselines_of(table: TrialTable, study: StudyConfig) -> tuple[TrialRecord, ...]:
    """The trials that the study marks as baselines, of those that have begun."""
    return tuple(table[number] for number in sorted(set(study.search.baselines)) if number in table)


def compared(winner: TrialRecord, baselines: tuple[TrialRecord, ...]) -> dict[str, TrialRecord]:
    """The trials that are scored on the test file, by their names in its metrics."""
    return {"winner": winner} | {test_name(record): record for record in baselines}


def test_name(baseline: TrialRecord) -> str:
    """What a baseline is called in a sweep's metrics on the test file."""
    return f"trial_{baseline.trial}"


def trial_as_json(record: TrialRecord) -> dict[str, object]:
    """A trial as the command line and `winner.json` show it."""
    return {name: value for name, value in asdict(record).items() if name in SHOWN}
