"""A model becomes a version of a registered model in MLflow, and gets an alias there, if it is better than the version
that has it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.pretrained import TRAIN_CONFIG, read_train_config
from kobert_core.progress import Progress, unseen
from tuning.study import StudyConfig
from tuning.sweep.compare_models import compare_models, model_of, test_file_of
from tuning.sweep.export import CARD
from tuning.sweep.sync import sync_sweep
from tuning.sweep_dir.layout import SPOOL, TEST_SET_LOG, WINNER
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.test_set_log import read_log
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, is_as_it_won, read_winner
from tuning.tracking import (
    TASK_TAG,
    RegisteredVersion,
    Registry,
    check_alias,
    logged_model,
    resolve_tracking_uri,
)

CHAMPION = "champion"
"""The alias of the version in use, if a user names no other."""
VERDICT_TAG = "kobert_tune.verdict"
ALREADY = "it was before"


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What came of it."""

    name: str
    """Of the registered model."""
    version: int | None
    """Of the model in question; None if it is not registered."""
    alias: str | None
    """That it was to get."""
    promoted: bool
    """Whether it has that, or is registered where it was to get none."""
    reason: str
    """Why, in words."""

    @property
    def sentence(self) -> str:
        """The same in a line."""
        who = f"{self.name}: " + (f"version {self.version}" if self.version else "the model")
        done = f"is `{self.alias}`" if self.alias else "is registered"
        undone = f"does not become `{self.alias}`" if self.alias else "is not registered"
        return f"{who} {done if self.promoted else undone}: {self.reason}"

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that is to be promoted."""

    folder: Path
    """Of the exported model."""
    name: str
    """What it is called in what is said."""
    task: str
    sweep: Path | None = None
    """Whose test file is what it is compared on, where no other is given."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """How a model is held against the version in use."""

    alias: str | None = CHAMPION
    """That the model is to get; None: it is only to be registered."""
    data: Source | None = None
    """What both are scored on; None: the test file of the candidate's sweep."""
    force: bool = False
    """Whether the candidate wins in any case."""
    say: Callable[[str], object]
    """Gets a line for each reading that could not be recorded."""
    progress: Progress = field(default=unseen)
    """Hears how far it has come."""

    def __post_init__(self) -> None:
        check_alias(self.against)

    @property
    def against(self) -> str:
        """The alias of the version in use."""
        return self.alias or CHAMPION

    def decide(self, registry: Registry, champion: RegisteredVersion | None, candidate: Candidate) -> tuple[bool, str]:
        """Whether the candidate wins, and why: it must be better by all tests of `compare`.

        Raises:
            InputError: the two cannot be compared.
        """
        if champion is None:
            return True, f"no version was `{self.against}` before"
        theirs = f"{registry.name} version {champion.number}"
        if champion.task not in (None, candidate.task):
            what = f"a model of the task `{candidate.task}`, while {theirs} is of `{champion.task}`"
            raise InputError(what, where=candidate.name, fix="register it under another name")
        if self.force:
            return True, f"by --force, in the place of version {champion.number}"
        data = self.data or (test_file_of([candidate.sweep]) if candidate.sweep else None)
        if data is None:
            raise InputError("nothing says what to compare on", where=registry.name, fix="give --data FILE")
        with downloaded(registry, champion) as model:
            names = {model: theirs, candidate.folder: candidate.name}
            found = compare_models([*names], data, names=names, say=self.say, progress=self.progress)
        (pair,) = found.pairs
        return pair.outcome == "better", pair.sentence


def register_model(
    sweep: Path, name: str, contest: Contest, *, trial: int | None = None, exported: Path | None = None
) -> Promotion:
    """Make the winner of a sweep, or another trial, a version of a registered model, and give it the alias.

    Neither is done if a version is in use and this is not better. What is so already stays as it is.

    Args:
        sweep: Folder of the sweep, all of which is sent to MLflow first.
        name: Of the registered model.
        contest: With the version in use.
        trial: Instead of the winner.
        exported: Where that trial was exported to.

    Raises:
        InputError: MLflow does not take the model, or it cannot be compared.
    """
    study = load_sweep_study(sweep)
    uri = resolve_tracking_uri(study.tracking.uri, sweep.resolve().parent)
    record, model, metrics = model_to_register(sweep, study, trial, exported)
    registry = Registry(name, uri=uri)
    sent = sync_sweep(sweep)
    if sent.left:
        what = f"{sent.left:,} of its records did not reach MLflow ({sent.reason})"
        raise InputError(what, where=sweep, fix="send them with `kobert-tune sync`")
    model_id = logged_model(
        sweep / SPOOL,
        uri=uri,
        model_dir=model,
        trial=str(record.trial),
        params={name: str(value) for name, value in record.values.items()},
        metrics=metrics,
        tags={TASK_TAG: study.task},
    )
    versions = registry.versions()
    champion = next((version for version in versions if contest.against in version.aliases), None)
    known = next((version for version in versions if version.model_id == model_id), None)
    done = Promotion(
        name=name, version=known.number if known else None, alias=contest.alias, promoted=True, reason=ALREADY
    )
    if known is not None and (contest.alias is None or known == champion):
        return done
    name_of_it = str(sweep) if exported != model else f"trial {record.trial} of {sweep}"
    candidate = Candidate(folder=model, name=name_of_it, task=study.task, sweep=sweep)
    promoted, reason = contest.decide(registry, champion, candidate)
    if not promoted:
        return replace(done, promoted=False, reason=reason)
    card = (model / CARD).read_text(encoding="utf-8")
    number = registry.register(model_id, card=card, tags={TASK_TAG: study.task, VERDICT_TAG: reason})
    if contest.alias:
        registry.give(contest.alias, number, instead_of=champion)
    return replace(done, version=number, reason=reason)


def model_to_register(
    sweep: Path, study: StudyConfig, trial: int | None, exported: Path | None
) -> tuple[TrialRecord, Path, dict[str, float]]:
    """The winner, or another trial, with the folder that it was exported to and, of the winner, its metrics."""
    table = TrialTable.of(sweep.resolve(), study)
    result = read_winner(sweep) if trial is None or (sweep / WINNER).is_file() else None
    if result is not None and trial in (None, result["winner"]["trial"]):
        record = table[result["winner"]["trial"]]
        if trial is None or is_as_it_won(record, result):
            metrics = result["winner"].get("metrics", record.metrics)  # of what is exported: it may have gone on since
            return record, model_of(sweep), metrics | result["test"].get("winner", {})
    assert trial is not None
    if exported is None:
        raise InputError(f"trial {trial} did not win: it is not exported yet", where=sweep, fix="give --output DIR")
    return table[trial], exported, {}


def promote_version(name: str, number: int | None, contest: Contest, *, uri: str) -> Promotion:
    """Give the alias to a version of a registered model, if it is better than the one that has it.

    Args:
        name: Of the registered model.
        number: Of the version; None: the newest.
        contest: With the version in use.
        uri: MLflow's store.

    Raises:
        InputError: there is no such version, MLflow does not answer, or the two cannot be compared.
    """
    assert contest.alias
    registry = Registry(name, uri=uri)
    versions = registry.versions()
    version = next((each for each in versions if number in (None, each.number)), None)
    if version is None:
        what = f"no version {number} is registered" if versions else "nothing is registered under this name"
        raise InputError(what, where=name, fix="register one with `kobert-tune export SWEEP_DIR --register NAME`")
    done = Promotion(name=name, version=version.number, alias=contest.alias, promoted=True, reason=ALREADY)
    if contest.alias in version.aliases:
        return done
    champion = next((each for each in versions if contest.alias in each.aliases), None)
    with downloaded(registry, version) as model:
        ours = f"{name} version {version.number}"
        candidate = Candidate(folder=model, name=ours, task=version.task or read_train_config(model).task)
        promoted, reason = contest.decide(registry, champion, candidate)
    registry.tag(version.number, {VERDICT_TAG: reason})
    if promoted:
        registry.give(contest.alias, version.number, instead_of=champion)
    return replace(done, promoted=promoted, reason=reason)


@contextmanager
def downloaded(registry: Registry, version: RegisteredVersion) -> Iterator[Path]:
    """The folder of a version while it is read; what was read for scores is then recorded where it came from.

    Raises:
        InputError: this is no model of kobert-tune.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = registry.download(version.number, Path(folder))
        if not (model / TRAIN_CONFIG).is_file():
            where = f"{registry.name} version {version.number}"
            raise InputError("is no model of kobert-tune", where=where, fix="--force takes its place")
        readings = read_log(model)
        yield model
        if read_log(model) != readings:
            registry.put(version, model / TEST_SET_LOG)
