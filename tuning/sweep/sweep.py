"""A sweep from its study file to its winner."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json, atomic_write_text, is_disk_full
from kobert_core.io.checksums import sealed
from tuning.cluster.group_count import groups_that_fit
from tuning.cluster.head import starts_here
from tuning.cluster.ray_cluster import on_every_node, ray_cluster, set_environment
from tuning.cluster.shared_storage import check_shared
from tuning.search.optuna_study import refuse_other_search
from tuning.search.warm_start import in_words, take_earlier
from tuning.storage.node import StoredSweep
from tuning.storage.store import Store
from tuning.study import StudyConfig
from tuning.sweep.background import in_background
from tuning.sweep.checkpoints import Checkpoints, LocalCheckpoints, StoredCheckpoints, forget_given_up, kept_of
from tuning.sweep.comparison import Comparison, compare
from tuning.sweep.disk import DiskNeeds
from tuning.sweep.display import SweepDisplay
from tuning.sweep.export import export_model
from tuning.sweep.extras import DecodingScores, SeedScores
from tuning.sweep.node_disk import DiskWatch, check_nodes
from tuning.sweep.preflight import CheckedStudy, files_of, prepare, spoilers_of, survey, this_machine, tracking_warnings
from tuning.sweep.result import SweepResult
from tuning.sweep.session import Session
from tuning.sweep.stored_inputs import INPUTS, put_in_store
from tuning.sweep.tracking import callbacks_of, end_tracking, listen, log_results, log_winner, start_tracking
from tuning.sweep.verdict import Verdict
from tuning.sweep_dir.confirm_runs import ConfirmRuns
from tuning.sweep_dir.disk_full import DiskFull
from tuning.sweep_dir.home import Commits, OnDisk, stored_sweep
from tuning.sweep_dir.layout import (
    CACHE,
    ENVIRONMENT,
    MODEL,
    MODEL_FILES,
    SCRATCH,
    STUDY,
    WINNER,
    checkpoint_of,
    trial_folder,
)
from tuning.sweep_dir.opening import open_sweep_dir
from tuning.sweep_dir.plans import take_plan
from tuning.sweep_dir.provenance import write_provenance
from tuning.sweep_dir.reviews import Review, read_review, reviews_of_winner
from tuning.sweep_dir.trial_status import TrialState, last_line
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.tracking import Status, Tracker, resolve_tracking_uri, shown_uri
from tuning.workers.failures import was_infrastructure

if TYPE_CHECKING:
    from tuning.sweep.elastic_groups import ElasticGroups
    from tuning.workers.worker_pool import WorkerPool


def run_sweep(
    study: StudyConfig,
    folder: Path,
    *,
    address: str | None = None,
    resume: bool = False,
    display: SweepDisplay,
    session: Session | None = None,
) -> SweepResult:
    """Run a sweep to its end, or until it is interrupted or its budget is spent.

    Args:
        study: What to search.
        folder: Of the sweep; its parent holds the MLflow store and the feature cache.
        address: A Ray cluster to join; by default one is started here.
        resume: Continue an earlier sweep in the folder; one that was killed continues in any case.
        display: Shows the trials.
        session: The session to continue, if this process replaces one that has died.

    Raises:
        InputError: something that a user gave cannot be used.
    """
    set_environment(address)
    session = session or Session()
    if starts_here(address):
        groups_that_fit([this_machine()], study.resources)
    with ExitStack() as opened:
        commits: Commits = OnDisk()
        if study.home is not None:
            uri = resolve_tracking_uri(study.tracking.uri, folder.parent)
            commits = opened.enter_context(
                stored_sweep(study.home, folder, resume=resume, tracking_uri=uri, say=display.say)
            )
        used = opened.enter_context(open_sweep_dir(study, folder, resume=resume, say=display.say))
        commits.finish(False)
        if used and not resume and not session.losses:
            display.say("the sweep was cut off: going on where it was")
        if not used:
            take_plan(folder, study)
        try:
            result = Sweep(study, folder, display, resume=used, session=session, commits=commits).run(address)
            commits.finish(not (result.interrupted or result.gave_up))
            return result
        except (DiskFull, Exception) as error:
            if not is_disk_full(error):
                raise
            raise InputError("no space is left", where=folder, fix="free some, and go on with `--resume`") from error


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of the search."""

    winner: TrialRecord | None
    verdict: Verdict | None
    """What runs with other seeds say of it, where the study has `confirm`."""
    seeds: SeedScores | None
    """What the models of those runs with its values score, alone and together."""
    decoding: DecodingScores | None
    """What its answers score, read with other settings, where its task has some."""
    test: dict[str, dict[str, float]]
    """Metrics on the test file, as in `SweepResult`."""
    ended: int
    """Trials that have ended, of those in the study's budget."""
    interrupted: bool
    gave_up: str | None

    @property
    def status(self) -> Status:
        """MLflow's status of the sweep's run."""
        return "KILLED" if self.interrupted else "FINISHED" if self.winner else "FAILED"


class Sweep:
    """One run of the driver in the folder of a sweep. What imports Ray is imported after `set_environment`."""

    def __init__(
        self,
        study: StudyConfig,
        folder: Path,
        display: SweepDisplay,
        *,
        resume: bool,
        session: Session | None = None,
        commits: Commits | None = None,
    ) -> None:
        self.commits = commits or OnDisk()
        self.study, self.folder, self.display, self.resume = study, folder, display, resume
        self.session = session or Session()
        self.table = TrialTable.of(folder, study)
        resume_lost_trials(self.table)
        self.uri = resolve_tracking_uri(study.tracking.uri, folder.parent)
        self.checkpoints: Checkpoints = LocalCheckpoints()
        self.stored: StoredSweep | None = None
        self.home = Store.at(study.home) if study.home else None

    def run(self, address: str | None) -> SweepResult:
        """Search, judge, export. Once the data is read and Ray is up, MLflow hears how it ended, whatever happens."""
        study, folder, say = self.study, self.folder, self.display.say
        if study.scheduler.name != "pbt":  # before Ray starts, and MLflow hears of the sweep
            ledger = list(self.table)
            refuse_other_search(folder, name=folder.name, search=study.search, resume=self.resume, ledger=ledger)
            for line in in_words(take_earlier(folder, study, has_trials=bool(ledger))):
                say(line)
        callbacks = callbacks_of(study, folder)
        say("reading the data, starting Ray and its worker groups …")
        reading = in_background(self._read)
        in_background(
            lambda: self._warn(tracking_warnings(self.uri))
        )  # a server may take its time: nothing waits for it
        with ExitStack() as ray_is_up:
            groups, elastic = ray_is_up.enter_context(self._worker_groups(address, reading))
            checked = reading.result()
            groups.stored = self.stored
            may_join = 0 if starts_here(address) else study.resources.most_at_once or 0
            running = max(groups.count, may_join)
            task, disk = checked.task, checked.disk_needs(running=running)
            disk.check(folder)
            elastic.on_join = DiskWatch(study, checked.checkpoint, folder, running=running, say=say)
            if self.stored is not None:
                self._warn(check_nodes(study, checked.checkpoint))
            write_environment(folder / ENVIRONMENT)
            write_provenance(folder, study)
            tracker = start_tracking(study, self.table, task, uri=self.uri, limit=self.commits.limit)
            self.commits.commit()
            listener = listen(callbacks, folder, say=say)
            status: Status = "FAILED"
            try:
                outcome = self._search_and_judge(groups, checked, disk, tracker)
                if self.stored is not None and not outcome.interrupted:
                    on_every_node(StoredSweep.forget_here, self.stored)
                ray_is_up.close()
                self.checkpoints.tidy(kept_of(self.table))
                chance = task.chance(task.dev, study.objective.metric)
                comparison = compare(self.table, study, outcome.winner, chance, self._reviews(outcome.winner))
                result = self._conclude(outcome, comparison, tracker)
                status = outcome.status
                self._report(outcome)
            finally:
                if self.commits.is_lost:  # another process tells MLflow now
                    tracker.close(timeout=0.0)
                else:
                    end_tracking(tracker, study, self.table, status=status, say=say)
                listener.close()
        return result

    def _read(self) -> CheckedStudy:
        """The data, read and looked at. What would spoil a new sweep does not stop one that has trials."""
        with self.display.watching() as progress:
            checked = prepare(self.study, self.folder, progress=progress)
        for problem in spoilers_of(checked):
            if not self.resume:
                raise problem
            self._warn([str(problem)])
        self._warn(survey(checked, self.folder.parent / CACHE).warnings)
        if self.home is not None:
            self.stored = put_in_store(self.study, self.folder, self.home / self.folder.name, self.home / INPUTS)
            self.checkpoints = StoredCheckpoints(self.stored)
        from tuning.workers.group_trainer import trainer_class

        trainer_class()  # imports what the groups need next: here, while Ray starts
        return checked

    def _warn(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            self.display.say(f"warning: {warning}")

    @contextmanager
    def _worker_groups(
        self, address: str | None, reading: Future[CheckedStudy]
    ) -> Iterator[tuple[WorkerPool, ElasticGroups]]:
        """Ray with worker groups that are starting, and what says how many: this takes longest, and runs while the data
        is read."""
        from tuning.cluster.ray_watch import ending_with_ray
        from tuning.sweep.elastic_groups import ElasticGroups
        from tuning.workers.worker_pool import WorkerPool, modules_for

        if reading.done():
            reading.result()  # bad data is told before Ray starts
        with ray_cluster(address) as cluster, ending_with_ray():
            if reading.done():
                reading.result()  # or at least before its workers do
            if len(cluster) > 1 and self.home is None:
                check_shared(self.folder, files_of(self.study))
            wanted = ElasticGroups(self.study, self.table, joined=not starts_here(address), say=self.display.say)
            groups = WorkerPool(
                wanted,
                self.study.resources,
                storage=self.folder / SCRATCH,
                modules=modules_for(self.study),
                needs=self.folder / STUDY if self.home is None else None,
                say=self.display.say,
            )
            try:
                yield groups, wanted
            finally:
                groups.close()
                shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)

    def _search_and_judge(
        self, groups: WorkerPool, checked: CheckedStudy, disk: DiskNeeds, tracker: Tracker
    ) -> Outcome:
        from tuning.sweep.budget import Budget, stopping_cleanly
        from tuning.sweep.confirm import Confirmation, seconds_to_confirm
        from tuning.sweep.review import review_winner, tune_winner_decoding
        from tuning.sweep.rounds import Rounds
        from tuning.sweep.run_trials import TrialRunner
        from tuning.sweep.test_set import read_test_set
        from tuning.sweep.trial_recorder import TrialRecorder

        study, table, session, say = self.study, self.table, self.session, self.display.say
        budget = Budget(
            study,
            lambda: groups.count,
            groups.stop_all,
            folder=self.folder,
            least_free=lambda: checked.disk_needs(running=groups.count).least_free,
            session=session,
        )
        budget.check = self.commits.check
        budget.reserve = lambda: seconds_to_confirm(study, table, groups.count)
        rounds = Rounds(table, groups, budget, session, patience=study.budget.patience, say=say)
        recorder = TrialRecorder(study, table, tracker, rounds, budget, disk, self.checkpoints, self.commits)
        with stopping_cleanly(budget):
            with self.display.showing(table, study, budget):
                TrialRunner(
                    study, table, groups, recorder, rounds, session, resume=self.resume, commits=self.commits
                ).run()
            groups.searching = False
            left, ended = table.trials_left(study), sum(record.has_ended for record in table)
            if left <= 0 and ended < study.budget.trials:
                say(f"all points of the space are tried: {ended} trials, and not {study.budget.trials}")
            lost = set[int]()
            if not budget.interrupted:
                if not budget.gave_up:
                    lost = self.checkpoints.mend(groups, table, say)
                if study.scheduler.name == "pbt":
                    groups.settle()  # or one might still take another trial's weights
                    forget_given_up(table, self.checkpoints)
            recorder.close()
            winner = None if budget.interrupted or budget.gave_up else table.winner(but=lost)
            confirmation = Confirmation(study, table, groups, budget, tracker, self.checkpoints, self.commits, say=say)
            verdict = confirmation.run(winner) if winner else None
            if verdict is not None:
                winner = table[verdict.winner]
            elif budget.interrupted or budget.gave_up:
                winner = None
            test = {}
            if winner:
                test = read_test_set(study, table, groups, winner, confirmation.judged, budget=budget, say=say)
                self.commits.commit()
            if budget.interrupted:
                winner = None
            seeds = decoding = None
            if winner and confirmation.judged:
                confirmation.close(winner.trial)
                seeds = confirmation.score_together(winner.trial)
            if winner:
                in_background(lambda: import_module("tuning.report"))  # takes seconds, in which the workers are busy
                if not confirmation.judged:
                    review_winner(groups, self.folder, winner, say=say)
                decoding = tune_winner_decoding(groups, study, self.folder, winner, say=say)
            return Outcome(
                winner=winner,
                verdict=verdict,
                seeds=seeds,
                decoding=decoding,
                test=test,
                ended=study.budget.trials - left,
                interrupted=budget.interrupted,
                gave_up=budget.gave_up,
            )

    def _reviews(self, winner: TrialRecord | None) -> list[Review]:
        """What the winner answered, as far as it was kept."""
        reviews: list[Review] = []
        with suppress(InputError):  # one that is damaged costs no winner; the report says why it is not there
            for path in reviews_of_winner(self.folder, ConfirmRuns(self.folder), winner.trial) if winner else ():
                reviews.append(read_review(path))
        return reviews

    def _conclude(self, outcome: Outcome, comparison: Comparison, tracker: Tracker) -> SweepResult:
        """Export the winner and write the result."""
        winner, test = outcome.winner, outcome.test
        result = SweepResult(
            folder=self.folder,
            states=self.table.states(),
            steps=self.table.steps,
            winner=winner,
            verdict=outcome.verdict,
            seeds=outcome.seeds,
            decoding=outcome.decoding,
            test=test,
            comparison=comparison,
            model=self._export(outcome, winner, comparison, tracker) if winner and winner.checkpoint else None,
            tracking_uri=shown_uri(self.uri),
            seconds=time.monotonic() - self.session.begin,
            interrupted=outcome.interrupted,
            gave_up=outcome.gave_up,
        )
        if winner:
            log_results(tracker, self.study, self.table, winner, test)
            atomic_write_json(self.folder / WINNER, sealed(result.as_json()))
            self.commits.commit()
        return result

    def _report(self, outcome: Outcome) -> None:
        """Write the report; a sweep whose report cannot be written has ended as well as any other."""
        from tuning.report import write_report

        if outcome.interrupted:
            return
        try:
            write_report(self.folder)
        except Exception as error:  # of plots and statistics: what a search may come to is not all foreseen
            self.display.say(f"the report was not written ({type(error).__name__}: {last_line(str(error))})")

    def _export(self, outcome: Outcome, winner: TrialRecord, comparison: Comparison, tracker: Tracker) -> Path:
        model = self.folder / MODEL
        if model.exists():
            shutil.rmtree(model)
        self.checkpoints.bring(trial_folder(self.folder, winner.trial) / MODEL_FILES)
        self.checkpoints.bring(checkpoint_of(self.folder, winner))
        verdict = outcome.verdict.as_json() if outcome.verdict else None
        export_model(self.folder, self.study, winner, model, test=outcome.test, comparison=comparison, verdict=verdict)
        metrics = winner.metrics | outcome.test.get("winner", {})
        self.commits.put_model()
        log_winner(tracker, self.study, winner, model, metrics, ended=outcome.ended)
        return model


def resume_lost_trials(table: TrialTable) -> None:
    """Resume trials that an older version marked as failed although only processes around them had died."""
    for record in table:
        if record.state == TrialState.FAILED and was_infrastructure(record.reason or ""):
            record.state, record.reason = TrialState.INTERRUPTED, None
            table.put(record)


def write_environment(path: Path) -> None:
    """Python and all packages, in the form of `pip freeze`."""
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    atomic_write_text(path, "\n".join([f"# Python {sys.version.split()[0]}", *packages]) + "\n")
