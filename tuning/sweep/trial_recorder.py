"""Records what happens to trials: in the ledger and MLflow; and removes checkpoints that are no longer needed."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from kobert_core.checkpoint import checkpoint_folder
from tuning.search.driver_only import DriverOnly
from tuning.study import StudyConfig
from tuning.study.objectives import TRAIN_SECONDS
from tuning.sweep.budget import Budget
from tuning.sweep.checkpoints import Checkpoints, LocalCheckpoints
from tuning.sweep.disk import DiskNeeds
from tuning.sweep.rounds import Rounds
from tuning.sweep.tracking import run_params
from tuning.sweep_dir.descriptions import describe_trial
from tuning.sweep_dir.home import Commits, OnDisk
from tuning.sweep_dir.layout import CHECKPOINTS, trial_folder
from tuning.sweep_dir.trial_status import TrialState, run_end, state_at_end
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.tracking import DESCRIPTION_TAG, Tracker
from tuning.workers.failures import TrialRefused, error_of, failure_of
from tuning.workers.results import TrialResult


class TrialRecorder(DriverOnly, Callback):
    """Hears of every trial from Ray Tune."""

    def __init__(
        self,
        study: StudyConfig,
        table: TrialTable,
        tracker: Tracker,
        rounds: Rounds,
        budget: Budget,
        disk: DiskNeeds,
        checkpoints: Checkpoints | None = None,
        commits: Commits | None = None,
    ) -> None:
        self._study, self._table, self._tracker, self._rounds = study, table, tracker, rounds
        self._checkpoints, self._commits = checkpoints or LocalCheckpoints(), commits or OnDisk()
        self._budget, self._disk = budget, disk
        self._remover = ThreadPoolExecutor(1, thread_name_prefix="remover")
        self._removals: list[Future[None]] = []
        self._session: dict[int, tuple[float, float]] = {}
        self.is_paused: Callable[[int], bool] = lambda trial: False
        """Whether the scheduler may let a trial go on that it has stopped."""
        self._tells_seconds = any(each.metric == TRAIN_SECONDS for each in study.further)

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """A trial starts, or continues after an interruption or a pause."""
        number, values = trial.config["trial"], trial.config["values"]
        record = self._table.get(number) or TrialRecord(number, TrialState.RUNNING, values)
        record.state, record.started = TrialState.RUNNING, record.started or time.time()
        self._session[number] = (time.monotonic(), record.seconds)
        self._table.put(record)
        self._start_run(record)
        self._commits.soon()

    def _start_run(self, record: TrialRecord) -> None:
        number = record.trial
        tags = {"trial": str(number), "state": str(record.state), DESCRIPTION_TAG: describe_trial(record)}
        tags |= {"lineage": json.dumps(record.lineage)} if record.lineage else {}
        tags |= {"micro_batch": str(record.micro_batch)} if record.micro_batch else {}
        params = run_params(self._study.train_config(record.values))
        self._tracker.start_trial(str(number), params=params, tags=tags)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, object], **info: object
    ) -> None:
        """An evaluation."""
        record, said = self._table[trial.config["trial"]], cast(TrialResult, result)
        report = said["report"]
        self._rounds.trial_of[cast(int, result.get("pid", 0))] = record.trial
        if len(lineage := trial.config.get("lineage", [])) > len(record.lineage):  # now the copy is made
            record.lineage, record.steps = lineage, -1
            self._start_run(record)
        if report["micro_batch"] != record.micro_batch:
            record.micro_batch = report["micro_batch"]
            self._start_run(record)
        if record.lineage and report["step"] != record.steps:
            record.logged_step = max(report["step"], record.logged_step + 1)  # MLflow keeps one value a step
        elif not record.lineage:
            record.logged_step = report["step"]
        record.progress, record.steps = report["progress"], report["step"]
        record.landed = report.get("landed")
        if report["progress"] not in record.curve:
            self._rounds.come_further()
        record.curve[report["progress"]] = said["objective"]
        if report["is_best"]:
            assert report["checkpoint"] is not None
            record.metrics, record.best_progress = dict(report["metrics"]), report["progress"]
            record.values = record.values_at(report["progress"])
            record.value, record.checkpoint = said["objective"], Path(report["checkpoint"]).name
        self._note_time(record)
        metrics = report["metrics"] | {"progress": float(report["progress"])}
        if self._tells_seconds:
            record.metrics[TRAIN_SECONDS] = metrics[TRAIN_SECONDS] = round(record.seconds, 3)
        self._table.put(record)
        if report["is_best"]:
            metrics |= {f"best/{name}": value for name, value in metrics.items()}
        self._tracker.log_metrics(str(record.trial), metrics, step=record.logged_step)
        self._commits.soon()

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """A trial ran to its end, or the scheduler stopped it."""
        record = self._table[trial.config["trial"]]
        self._end(record, state_at_end(record.progress, paused=self.is_paused(record.trial)))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """A trial failed, or its process was lost: the latter is no failure, and the trial continues."""
        number, failure = trial.config["trial"], failure_of(trial)
        record = self._table.get(number) or TrialRecord(number, TrialState.RUNNING, trial.config["values"])
        if failure is None:
            self._rounds.lost(error_of(trial))
            self._end(record, state_at_end(record.progress, lost=True))
            return
        record.reason = str(failure)
        if isinstance(failure, TrialRefused) and not any(each.curve for each in self._table):
            self._rounds.refused(record.reason)
        self._end(record, state_at_end(record.progress, failed=True))
        self._budget.count_failure(record.reason)

    def interrupt(self) -> None:
        """The sweep ends: its running trials are interrupted."""
        for record in self._table:
            if record.state == TrialState.RUNNING:
                self._end(record, state_at_end(record.progress, lost=True))

    def end_pauses(self, tell: Callable[[TrialRecord], object]) -> None:
        """The search has ended: trials that are still paused were stopped where they are. `tell` hears of each, once
        the ledger has it."""
        for record in self._table:
            if record.state == TrialState.PAUSED:
                self._end(record, state_at_end(record.progress))
                tell(record)

    def close(self) -> None:
        """Wait until what is not kept is removed.

        Raises:
            OSError: something cannot be removed.
        """
        self.keep_best_checkpoints()
        self._remover.shutdown()
        self._check_removals()

    def keep_best_checkpoints(self) -> None:
        """Of the trials that ended, the best few, the candidates of `confirm`, the Pareto front and the baselines keep
        their best checkpoint, if the disk budget allows; interrupted trials keep all checkpoints. A thread removes the
        others: it takes seconds if they are large, and what it cannot remove is told at the next call."""
        self._check_removals()
        ranked = [record for record in self._table.best(len(self._table)) if record.has_ended and record.checkpoint]
        best = [record.trial for record in ranked]  # one that runs may fail yet
        if self._study.confirm:
            ranked.sort(key=lambda record: record.state != TrialState.COMPLETE)
        kept = [*best[:1], *(record.trial for record in ranked[: self._study.best_kept])]
        front = [record.trial for record in self._table.front()]
        wanted = list(dict.fromkeys([*kept, *front, *self._study.search.baselines]))
        room = self._disk.for_ended(live=sum(not record.has_ended for record in self._table))
        ended = [record for record in self._table if record.has_ended]
        removals: list[Callable[[], None]] = []
        for record in sorted(ended, key=lambda each: wanted.index(each.trial) if each.trial in wanted else len(wanted)):
            folder = trial_folder(self._table.folder, record.trial) / CHECKPOINTS
            if record.trial in wanted and record.checkpoint:
                removals.append(partial(self._checkpoints.keep, folder, record.checkpoint))
                size = 0 if math.isinf(room) else self._checkpoints.size(folder / record.checkpoint)
                if size <= room or record.trial in best[:1]:
                    room -= size
                    continue
            if self._checkpoints.may_be_in(folder) or record.checkpoint:
                removals.append(partial(self._checkpoints.remove, folder))
                record.checkpoint = None
        self._table.write()
        self._commits.commit()  # before Optuna hears of an end, and before anything goes that the ledger still named
        self._removals += [self._remover.submit(remove) for remove in removals]

    def _keep_for_later(self, record: TrialRecord) -> None:
        """A paused trial keeps its newest checkpoint and its best one. What is removed is named now: when the thread
        comes to it, the trial may be running again."""
        folder = trial_folder(self._table.folder, record.trial) / CHECKPOINTS
        kept = {checkpoint_folder(folder, record.steps).name, record.checkpoint}
        if self._study.data.folds is None:  # at the end of a fold, what is left is needed
            older = [each for each in folder.glob("*") if each.name not in kept]
            self._removals += [self._remover.submit(shutil.rmtree, each, ignore_errors=True) for each in older]

    def _check_removals(self) -> None:
        for removal in self._removals:
            if removal.done():
                removal.result()
        self._removals = [each for each in self._removals if not each.done()]

    def _end(self, record: TrialRecord, state: TrialState) -> None:
        self._note_time(record)
        record.state = state
        status, tags = run_end(record)
        self._tracker.end_trial(str(record.trial), status=status, tags=tags)
        # After MLflow's spool and before Optuna: a trial that the ledger has ended is not looked at again.
        self._session.pop(record.trial, None)
        self._table.put(record)
        self._rounds.stop_trial(record.trial)  # its actor may be gone before it could say so
        if state == TrialState.PAUSED:
            self._keep_for_later(record)
        self.keep_best_checkpoints()

    def _note_time(self, record: TrialRecord) -> None:
        if record.trial in self._session:
            begin, before = self._session[record.trial]
            record.seconds = before + time.monotonic() - begin
