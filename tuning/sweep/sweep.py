"""A sweep from its study file to its winner."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json, atomic_write_text, is_disk_full
from kobert_core.io.checksums import file_digest, sealed
from kobert_core.progress import Progress, unseen
from kobert_core.tasks.base import Task
from tuning.cluster.head import starts_here
from tuning.cluster.ray_cluster import groups_that_fit, ray_cluster, set_environment
from tuning.cluster.shared_storage import check_shared
from tuning.study import StudyConfig
from tuning.sweep.comparison import Comparison, baselines_of, compare, compared, trial_as_json
from tuning.sweep.disk import DiskNeeds
from tuning.sweep.display import SweepDisplay
from tuning.sweep.export import export_model
from tuning.sweep.preflight import check_study, survey, this_machine, tracking_problem
from tuning.sweep.session import Session
from tuning.sweep_dir.disk_full import DiskFull
from tuning.sweep_dir.layout import (
    CACHE,
    ENVIRONMENT,
    LEDGER,
    MODEL,
    MODEL_FILES,
    PBT_CHECKPOINTS,
    SCRATCH,
    SPOOL,
    STUDY,
    TABLE,
    TRIALS,
    WINNER,
    checkpoint_of,
    trial_folder,
)
from tuning.sweep_dir.opening import sweep_folder
from tuning.sweep_dir.provenance import write_provenance
from tuning.sweep_dir.test_set_log import read_before, record_reading
from tuning.sweep_dir.trial_status import TrialState, run_ends
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.tracking import Status, Tracker, dead_letters_path, resolve_tracking_uri, shown_uri
from tuning.workers.failures import was_infrastructure

if TYPE_CHECKING:
    from tuning.search.searcher import OptunaSearcher
    from tuning.sweep.budget import Budget
    from tuning.sweep.recording import Recorder
    from tuning.sweep.rounds import Rounds
    from tuning.workers.worker_pool import WorkerPool

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep has to show."""

    folder: Path
    states: dict[str, int]
    winner: TrialRecord | None
    test: dict[str, dict[str, float]]
    """Metrics on the test file: of the `winner`, and of each baseline, such as `trial_0`. Empty without a test file."""
    comparison: Comparison
    """What the winner is held against."""
    model: Path | None
    """Folder of the exported winner."""
    tracking_uri: str
    seconds: float
    interrupted: bool
    gave_up: str | None
    """Why it ended before its time, when neither its budget was spent nor somebody stopped it; it can go on."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json` and `winner.json`."""
        return {
            "sweep": str(self.folder),
            "states": self.states,
            "interrupted": self.interrupted,
            "gave_up": self.gave_up,
            "winner": trial_as_json(self.winner) if self.winner else None,
            "test": self.test,
            **self.comparison.as_json(),
            "model": str(self.model) if self.model else None,
            "tracking_uri": self.tracking_uri,
            "seconds": round(self.seconds, 1),
        }


def prepare(study: StudyConfig, folder: Path, *, progress: Progress = unseen) -> Task[Any]:
    """Look at the models, read and tokenize the data, look at the disk of the sweep's folder, so that what cannot work
    fails before anything starts."""
    resolve_tracking_uri(study.tracking.uri, folder.parent)
    task = check_study(study, folder.parent / CACHE, progress=progress)
    if not len(task.train) or not len(task.dev):
        raise InputError("no examples are left to train or to compare on", where=study.name)
    concurrent = study.resources.concurrent
    DiskNeeds.of(study, task, running=1 if concurrent == "auto" else concurrent).check(folder)
    if study.data.test is not None:
        task.read(study.data.test)
    return task


def unheard(tracking_uri: str) -> list[str]:
    """A line when no MLflow server or database answers at an address."""
    problem = tracking_problem(tracking_uri)
    return [f"{problem}: what it should get is kept in the sweep's folder until one does"] if problem else []


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
        folder: Where all that it leaves goes; its parent holds the MLflow store and the feature cache.
        address: A Ray cluster to join; by default one is started here.
        resume: Go on in a folder that a sweep began; one that was killed goes on in any case.
        display: Shows the trials.
        session: The one that goes on, where this process takes the place of one that has died.

    Raises:
        InputError: something that a user gave cannot be used.
    """
    set_environment(address)
    session = session or Session()
    if starts_here(address):
        groups_that_fit([this_machine()], study.resources)
    with sweep_folder(study, folder, resume=resume, say=display.say) as used:
        if used and not resume and not session.losses:
            display.say("the sweep was cut off: going on where it was")
        try:
            return Sweep(study, folder, display, resume=used, session=session).run(address)
        except (DiskFull, Exception) as error:
            if not is_disk_full(error):
                raise
            raise InputError("no space is left", where=folder, fix="free some, and go on with `--resume`") from error


class Sweep:
    """One run of the driver in the folder of a sweep."""

    def __init__(
        self, study: StudyConfig, folder: Path, display: SweepDisplay, *, resume: bool, session: Session | None = None
    ) -> None:
        self.study, self.folder, self.display, self.resume = study, folder, display, resume
        self.session = session or Session()
        self.cache = folder.parent / CACHE
        self.table = TrialTable(folder, study.objective)
        take_up_lost(self.table)
        self._rounds = 0
        self.uri = resolve_tracking_uri(study.tracking.uri, folder.parent)

    def run(self, address: str | None) -> SweepResult:
        """Search, judge, export. Once the data is read and Ray is up, MLflow is told how it ended, whatever happens."""
        study, folder = self.study, self.folder
        self._refuse_other_search()
        self.display.say("reading the data, starting Ray and its worker groups …")
        reading = in_background(self._read)
        in_background(lambda: self._warn(unheard(self.uri)))  # a server may take its time: nothing waits for it
        with ExitStack() as ray_is_up:
            groups = ray_is_up.enter_context(self._worker_groups(address, reading))
            task = reading.result()
            disk = DiskNeeds.of(study, task, running=groups.count)
            disk.check(folder)
            write_environment(folder / ENVIRONMENT)
            write_provenance(folder, study)
            experiment = study.tracking.experiment or study.name
            self.tracker = Tracker(spool=folder / SPOOL, uri=self.uri, experiment=experiment, sweep=folder.name)
            self.tracker.end_left_open(run_ends(self.table))
            self.tracker.start_sweep(params=sweep_params(study), tags={"task": study.task})
            log_datasets(study, task, self.tracker)
            status: Status = "FAILED"
            try:
                winner, test, budget = self._search_and_judge(groups, disk)
                ray_is_up.close()
                chance = task.chance(task.dev, study.objective.metric)
                result = self._conclude(winner, test, compare(self.table, study, winner, chance), budget)
                status = "KILLED" if budget.interrupted else "FINISHED" if winner else "FAILED"
            finally:
                for name in (STUDY, TABLE, ENVIRONMENT, WINNER):
                    if (folder / name).is_file():
                        self.tracker.log_artifact(folder / name)
                self.tracker.end_sweep(status=status)
                self._end_tracking()
        return result

    def _end_tracking(self) -> None:
        """Wait a little for MLflow, and say what it does not have."""
        left, spool = self.tracker.close(), self.folder / SPOOL
        if lost := self.tracker.unwritten:
            self.display.say(f"{lost} records for MLflow are lost: the disk is full, {spool} could not take them")
        if left > lost:
            command = f"kobert-tune sync {shlex.quote(str(self.folder))}"
            self.display.say(f"{left - lost} records did not reach MLflow; send them: {command}")
        if refused := self.tracker.refused:
            self.display.say(f"MLflow refused {refused} records for good; they are kept in {dead_letters_path(spool)}")
        if not (self.folder / LEDGER).exists():
            self.tracker.forget()

    def _read(self) -> Task[Any]:
        with self.display.watching() as progress:
            task = prepare(self.study, self.folder, progress=progress)
        self._warn(survey(self.study, task, self.cache).warnings)
        import tuning.workers.in_process_trainer  # noqa: F401  (which the groups need next: here, while Ray starts)

        return task

    def _warn(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            self.display.say(f"warning: {warning}")

    @property
    def _remaining(self) -> int:
        """Trials that are still to be run."""
        return self.study.trials_left([record.values for record in self.table if record.has_ended])

    def _say_if_all_is_tried(self) -> None:
        ended = sum(record.has_ended for record in self.table)
        if self._remaining <= 0 and ended < self.study.budget.trials:
            self.display.say(f"all points of the space are tried: {ended} trials, and not {self.study.budget.trials}")

    @contextmanager
    def _worker_groups(self, address: str | None, reading: Future[Task[Any]]) -> Iterator[WorkerPool]:
        """Ray with worker groups that begin to start: what takes longest is under way while the data is read."""
        from tuning.cluster.ray_watch import ending_with_ray
        from tuning.workers.worker_pool import WorkerPool

        if reading.done():
            reading.result()  # bad data is told before Ray starts
        with ray_cluster(address) as cluster, ending_with_ray():
            if reading.done():
                reading.result()  # or at least before its workers do
            if len(cluster) > 1:
                check_shared(self.folder, files_of(self.study))
            count = min(groups_that_fit(cluster, self.study.resources), max(1, self._remaining))
            groups = WorkerPool(count, self.study.resources, storage=self.folder / SCRATCH, say=self.display.say)
            try:
                yield groups
            finally:
                groups.close()
                shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)

    def _search_and_judge(
        self, groups: WorkerPool, disk: DiskNeeds
    ) -> tuple[TrialRecord | None, dict[str, dict[str, float]], Budget]:
        """The winner, its metrics on the test file, and the budget, which knows how the sweep ended."""
        from tuning.sweep.budget import Budget, stopping_cleanly
        from tuning.sweep.recording import Recorder
        from tuning.sweep.rounds import Rounds

        study, table, session = self.study, self.table, self.session
        budget = Budget(
            study, groups.count, groups.stop_all, folder=self.folder, least_free=disk.least_free, session=session
        )
        rounds = Rounds(table, groups, budget, session, say=self.display.say)
        recorder = Recorder(study, table, self.tracker, rounds, budget, disk)
        with stopping_cleanly(budget):
            with self.display.showing(table, study, budget):
                self._search(groups, recorder, rounds)
                while rounds.another():
                    self._search(groups, recorder, rounds)
            self._say_if_all_is_tried()
            recorder.keep_best_checkpoints()
            winner = None if budget.interrupted or budget.gave_up else table.winner()
            return winner, self._read_test(groups, winner) if winner else {}, budget

    def _search(self, groups: WorkerPool, recorder: Recorder, rounds: Rounds) -> None:
        """One round: all trials that are left, unless processes are lost."""
        searcher, remaining = self._make_searcher(), self._remaining
        self.resume = True  # so does the next round begin
        if remaining > 0:
            with rounds.noting_losses():
                self._wait_for(groups, rounds)
                if not rounds.stop_all():
                    self._tune(groups, searcher, recorder, rounds, trials=remaining)
            groups.stop_all()
        if searcher is not None:
            searcher.put_back()
        recorder.interrupt()

    def _conclude(
        self, winner: TrialRecord | None, test: dict[str, dict[str, float]], comparison: Comparison, budget: Budget
    ) -> SweepResult:
        """Export the winner and write down what the sweep came to."""
        folder, table = self.folder, self.table
        result = SweepResult(
            folder=folder,
            states=table.states(),
            winner=winner,
            test=test,
            comparison=comparison,
            model=self._export(winner, test, comparison) if winner and winner.checkpoint else None,
            tracking_uri=shown_uri(self.uri),
            seconds=time.monotonic() - self.session.begin,
            interrupted=budget.interrupted,
            gave_up=budget.gave_up,
        )
        if winner:
            self._log_results(winner, test)
            atomic_write_json(folder / WINNER, sealed(result.as_json()))
        return result

    def _log_results(self, winner: TrialRecord, test: dict[str, dict[str, float]]) -> None:
        """Tell the trials' runs in MLflow how they compare, which one won, and what was read on the test file."""
        best = [record.trial for record in self.table.best(len(self.table))]
        digits = len(str(len(best)))  # as texts, ranks are in order when they are of one length
        read = compared(winner, baselines_of(self.table, self.study))
        scores = {record.trial: test.get(who, {}) for who, record in read.items()}
        for record in self.table:
            rank = f"{best.index(record.trial) + 1:0{digits}}" if record.trial in best else None
            won = "true" if record.trial == winner.trial else None
            self.tracker.log_result(
                str(record.trial),
                metrics=scores.get(record.trial, {}),
                step=record.step,
                tags={"rank": rank, "winner": won},
            )

    def _refuse_other_search(self) -> None:
        """Refuse what `_make_searcher` would, before Ray starts and MLflow hears of the sweep."""
        from tuning.search.optuna_study import refuse_other_search

        study = self.study
        if study.scheduler.name != "pbt":
            refuse_other_search(
                self.folder, name=self.folder.name, search=study.search, resume=self.resume, ledger=list(self.table)
            )

    def _make_searcher(self) -> OptunaSearcher | None:
        """None when the scheduler takes the place of the search."""
        from tuning.search.optuna_study import open_optuna_study
        from tuning.search.searcher import OptunaSearcher

        study = self.study
        if study.scheduler.name == "pbt":
            return None
        optuna_study = open_optuna_study(
            self.folder,
            name=self.folder.name,
            objective=study.objective,
            search=study.search,
            resume=self.resume,
            ledger=self.table,
        )
        return OptunaSearcher(optuna_study, study.space, study.search, study.objective, ledger=self.table)

    def _wait_for(self, groups: WorkerPool, rounds: Rounds) -> None:
        try:
            groups.wait_until_ready(give_up=rounds.stop_all)
        except RuntimeError as error:
            if self.session.losses:
                raise  # there were groups before
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"no worker group can be started on this cluster ({reason})", where="resources") from error

    def _tune(self, groups: WorkerPool, searcher: Any, recorder: Recorder, rounds: Rounds, *, trials: int) -> None:
        """Let Ray Tune schedule so many trials on the worker groups."""
        from tuning.search.population import start_population
        from tuning.search.schedulers import make_scheduler
        from tuning.search.searcher import Teller
        from tuning.workers.trial import make_tuner, train_trial

        study, objective = self.study, self.study.objective
        self._remove_donations()
        self._rounds += 1
        tuner = make_tuner(
            groups,
            train_trial,
            {"study": str(self.folder / STUDY), "folder": str(self.folder), "cache": str(self.cache)},
            metric=objective.metric,
            configs=searcher or start_population(self.table, study.space, study.search, trials=trials),
            scheduler=make_scheduler(
                study.scheduler,
                metric="objective",
                mode=objective.mode,
                space=study.space,
                search=study.search,
                earlier=self.table,
            ),
            trials=trials,
            storage=self.folder / SCRATCH,
            callbacks=[recorder, Teller(searcher)] if searcher else [recorder],
            stop=rounds,
            max_failures=study.resources.max_failures,
            name=f"tune-{self._rounds}",
        )
        tuner.fit()
        self._remove_donations()

    def _remove_donations(self) -> None:
        for folder in (self.folder / TRIALS).glob(f"*/{PBT_CHECKPOINTS}"):
            shutil.rmtree(folder)

    def _read_test(self, groups: WorkerPool, winner: TrialRecord) -> dict[str, dict[str, float]]:
        """The one time that the sweep reads the test file: for the winner, and for the baselines to compare it with.

        A resumed sweep that has the same winner as before has read it already.
        """
        file = self.study.data.test
        if file is None:
            return {}
        records = compared(winner, baselines_of(self.table, self.study))
        scored = {record.trial: record for record in records.values() if record.checkpoint}
        weights = {name: f"trial {record.trial}, {record.checkpoint}" for name, record in records.items()}
        if earlier := read_before(self.folder, sha256=file_digest(file), weights=weights):
            return earlier
        try:
            asked = {
                trial: in_background(partial(self._score, groups, file, record)) for trial, record in scored.items()
            }  # each waits for a group of its own
            found = {trial: score.result() for trial, score in asked.items()}
        except RuntimeError as error:
            self.display.say(f"the test file was not read: {str(error).strip().splitlines()[-1]}")
            return {}
        metrics = {name: found[record.trial] for name, record in records.items() if record.trial in found}
        record_reading(self.folder, file=file, sha256=file_digest(file), by="sweep", metrics=metrics, weights=weights)
        return metrics

    def _score(self, groups: WorkerPool, file: Path, record: TrialRecord) -> dict[str, float]:
        from tuning.workers.trial import evaluate_checkpoint

        metrics: dict[str, float] = groups.run(
            evaluate_checkpoint,
            model=str(trial_folder(self.folder, record.trial) / MODEL_FILES),
            cache=str(self.cache),
            checkpoint=str(checkpoint_of(self.folder, record)),
            metrics=record.metrics,
            file=str(file),
        )
        return metrics

    def _export(self, winner: TrialRecord, test: dict[str, dict[str, float]], comparison: Comparison) -> Path:
        """Export the winner into the sweep's folder and hand it to MLflow as a LoggedModel."""
        model = self.folder / MODEL
        if model.exists():
            shutil.rmtree(model)
        export_model(self.folder, self.study, winner, model, test=test, comparison=comparison)
        metrics = winner.metrics | test.get("winner", {})
        self.tracker.log_winner(
            model,
            name=self.folder.name,
            trial=str(winner.trial),
            params={name: str(value) for name, value in winner.values.items()},
            metrics=metrics,
            tags={"task": self.study.task},
        )
        ended = self.study.budget.trials - self._remaining  # a resumed sweep may come to another winner
        self.tracker.log_metrics(None, {f"winner/{name}": value for name, value in metrics.items()}, step=ended)
        return model


def take_up_lost(table: TrialTable) -> None:
    """Trials that an older version called failed, and that had only lost processes around them, go on."""
    for record in table:
        if record.state == TrialState.FAILED and was_infrastructure(record.reason or ""):
            record.state, record.reason = TrialState.INTERRUPTED, None
            table.put(record)


def in_background(function: Callable[[], T]) -> Future[T]:
    """Begin a call in a thread that nobody waits for at the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def files_of(study: StudyConfig) -> list[Path]:
    """All that a study names which the workers read: data, and the model where it is a folder."""
    data, model = study.data, study.model
    folders = [Path(name) for name in (model.backbone, model.tokenizer) if name and Path(name).is_dir()]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    return [path for path in (data.train, data.dev, data.test) if path] + files


def log_datasets(study: StudyConfig, task: Task[Any], tracker: Tracker) -> None:
    """The splits of a sweep with their hashes, as MLflow's inputs of its run."""
    data = study.data
    tracker.log_dataset(
        name=data.train.name,
        path=str(data.train),
        sha256=file_digest(data.train),
        examples=task.train.items,
        context="training",
    )
    dev, digest = data.dev or data.train, file_digest(data.dev or data.train)
    if data.dev is None:  # a part of the training file: another hash, or MLflow takes it for the same data
        digest = hashlib.sha256(f"{digest} {data.dev_fraction} {data.split_seed}".encode()).hexdigest()
    tracker.log_dataset(
        name=f"{dev.name}{'' if data.dev else ' (dev split)'}",
        path=str(dev),
        sha256=digest,
        examples=task.dev.items,
        context="validation",
    )
    if data.test is not None:
        tracker.log_dataset(
            name=data.test.name,
            path=str(data.test),
            sha256=file_digest(data.test),
            examples=task.read(data.test).items,
            context="testing",
        )


def sweep_params(study: StudyConfig) -> dict[str, Any]:
    """What the parent run says of the study."""
    return {
        "objective": f"{study.objective.mode} {study.objective.metric}",
        "search": study.search.algorithm,
        "scheduler": study.scheduler.name,
        "trials": study.budget.trials,
        "seed": study.search.seed,
        "parameters": json.dumps(list(study.space)),
    }


def write_environment(path: Path) -> None:
    """Python and all packages, in the form of `pip freeze`."""
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    atomic_write_text(path, "\n".join([f"# Python {sys.version.split()[0]}", *packages]) + "\n")
