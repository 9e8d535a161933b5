"""Confirms the winner of a sweep: its values are trained again with seeds that chose nothing.

The best of many noisy trials is partly luck. So a few runs with fresh seeds choose one of the best trials, by the dev
split. Other runs, of this candidate and of the baseline, are scored on the holdout: examples that no trial and no
choice has seen. The verdict rests on these alone, so that its interval needs no correction for what was chosen.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kobert_core.checkpoint import WEIGHTS
from kobert_core.errors import InputError
from kobert_core.pretrained import complete_model
from kobert_core.tasks import task_class
from tuning.statistics.halving import better, rounds
from tuning.study import StudyConfig
from tuning.sweep.budget import Budget
from tuning.sweep.checkpoints import Checkpoints, LocalCheckpoints
from tuning.sweep.extras import SeedScores
from tuning.sweep.tracking import run_params
from tuning.sweep.verdict import Verdict, judge, on_holdout, unconfirmed
from tuning.sweep_dir.confirm_runs import ConfirmRun, ConfirmRuns, Stage, model_of
from tuning.sweep_dir.home import Commits, OnDisk
from tuning.sweep_dir.layout import (
    CACHE,
    CHECKPOINTS,
    CONFIRM,
    MODEL_FILES,
    REVIEW,
    STUDY,
    checkpoint_of,
    confirm_folder,
    trial_folder,
)
from tuning.sweep_dir.trial_status import RUN_STATUS, TrialState, last_line
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.tracking import DESCRIPTION_TAG, Tracker
from tuning.workers.broker import ReportContent
from tuning.workers.checkpoint_tasks import score_holdout, score_together
from tuning.workers.train_trial import train_trial
from tuning.workers.worker_pool import WorkerPool

SECONDS_BETWEEN_LOOKS = 0.5
STAGES: tuple[Stage, ...] = ("choose", "verdict")


class Confirmation:
    """Confirms the winner of a sweep whose search has ended; goes on where an earlier process was killed."""

    def __init__(
        self,
        study: StudyConfig,
        table: TrialTable,
        groups: WorkerPool,
        budget: Budget,
        tracker: Tracker,
        checkpoints: Checkpoints | None = None,
        commits: Commits | None = None,
        *,
        say: Callable[[str], object],
    ) -> None:
        self._study, self._table, self._groups, self._tracker = study, table, groups, tracker
        self._budget, self._say = budget, say
        self._checkpoints, self._commits = checkpoints or LocalCheckpoints(), commits or OnDisk()
        self._runs, self._lock = ConfirmRuns(table.folder), threading.Lock()
        self.judged: list[ConfirmRun] = []
        """The runs that the verdict rests on."""

    def run(self, winner: TrialRecord) -> Verdict | None:
        """Choose a candidate, and judge it; None when the study has no `confirm`, or the sweep is stopped meanwhile.

        Args:
            winner: The best trial, which stays the winner where there is nothing to confirm.
        """
        study, table = self._study, self._table
        self._budget.release_reserve()
        if study.confirm is None:
            return None
        baseline = study.search.baselines[0]
        candidates = [each for each in candidates_of(study, table) if self._has(each)]
        if not candidates or baseline not in table or not self._has(table[baseline]):
            return unconfirmed(study, winner.trial, "not confirmed: there are no two trials to compare")
        told = " ".join(str(record.trial) for record in candidates)
        self._say(f"confirming: of the trials {told} the best, with other seeds, beside the baseline, trial {baseline}")
        candidate = self._choose(candidates)
        if candidate is None:
            return None
        self._train(
            "verdict", [(trial, index) for index in range(study.confirm.seeds) for trial in (candidate, baseline)]
        )
        if self._budget.is_over:
            return None
        ours, theirs = (self._runs.of("verdict", trial)[: study.confirm.seeds] for trial in (candidate, baseline))
        self.judged = [*ours, *theirs]
        value = table[candidate].value
        assert value is not None
        verdict = judge(study, candidate, value, ours, theirs, baseline_breaks=table.breaks(table[baseline]))
        return replace(verdict, chosen_by=sum(run.stage == "choose" for run in self._runs))

    def _has(self, record: TrialRecord) -> bool:
        """Whether there is a checkpoint to export: that of a trial which has not ended may be lost with its node."""
        return record.checkpoint is not None and self._checkpoints.has(checkpoint_of(self._table.folder, record))

    def close(self, winner: int) -> None:
        """Keep the models of the runs of the trial that is exported; of the others, what they said is in the ledger."""
        ours = {run.number for run in self.judged if run.trial == winner}
        for run in self._runs:
            model = model_of(self._table.folder, run)
            if run.number not in ours and (model / WEIGHTS).is_file():  # an earlier verdict exported another trial
                shutil.rmtree(model)
        for run in sorted(self.judged, key=lambda run: run.number in ours):  # first those that make space
            if run.number in ours:
                self._keep_model(run)
            self._forget_weights(run)
        self._write()

    def score_together(self, winner: int) -> SeedScores | None:
        """Score the models that were kept together, on dev; None where that cannot be done."""
        folder, metric = self._table.folder, self._study.objective.metric
        kept = {path: run for run in self.judged if (path := model_of(folder, run) / WEIGHTS).is_file()}
        if len(kept) < 2:
            return None
        try:
            found = self._groups.run(
                score_together,
                model=str(trial_folder(folder, winner) / MODEL_FILES),
                cache=str(folder.parent / CACHE),
                models=[str(path.parent) for path in kept],
            )
        except RuntimeError as error:
            self._say(f"the confirmed seeds were not scored together: {last_line(str(error))}")
            return None
        mean = float(np.mean([run.metrics[metric] for run in kept.values()]))
        task, mode = self._study.task, self._study.objective.mode
        return SeedScores(task=task, models=len(kept), metric=metric, mode=mode, mean=mean, **found)

    def _keep_model(self, run: ConfirmRun) -> None:
        model = model_of(self._table.folder, run)
        if run.checkpoint is None:
            return
        checkpoint = model.parent / CHECKPOINTS / run.checkpoint
        try:
            if not (model / WEIGHTS).is_file():
                self._checkpoints.bring(model)
                self._checkpoints.bring(checkpoint)
                complete_model(model, task_class(self._study.task), checkpoint, run.metrics)
            self._checkpoints.give(model)
        except InputError as error:
            self._say(f"the model of trial {run.trial} with seed {run.seed} was not kept: {error}")

    def _choose(self, candidates: Sequence[TrialRecord]) -> int | None:
        """Sequential halving by the dev split. The search's own value counts as one more run, where all came as far."""
        left = [record.trial for record in candidates]
        alike = all(record.state == TrialState.COMPLETE for record in candidates)
        known = {record.trial: [record.value or 0.0] if alike else [] for record in candidates}
        done = 0
        for _, runs, keep in rounds(len(left)):
            self._train("choose", [(trial, done + index) for index in range(runs) for trial in left])
            done += runs
            if self._budget.is_over:
                return None
            scores = {
                trial: known[trial] + [run.value for run in found if run.value is not None]
                for trial in left
                if len(found := self._runs.of("choose", trial)) == done
            }
            left = better(scores, keep, mode=self._study.objective.mode) or left[:1]
        return left[0]

    def _train(self, stage: Stage, wanted: Sequence[tuple[int, int]]) -> None:
        """Train, on all groups, what of `wanted`, trials and indices of seeds, is not done yet."""
        runs = [self._runs.get(stage, trial, self._seed(stage, trial, index)) for trial, index in wanted]
        left = [run for run in runs if run.state != TrialState.COMPLETE]
        asked, running = list[Future[None]](), set[Future[None]]()
        with ThreadPoolExecutor(max(1, len(left)), thread_name_prefix="confirm") as threads:
            while left or running:
                self._groups.others = len(left) + len(running)
                for _ in range(min(len(left), self._groups.count - len(running))):
                    asked.append(threads.submit(self._train_one, left.pop(0)))
                    running.add(asked[-1])
                running = wait(running, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED).not_done
                if self._budget.stop_all():
                    self._groups.stop_all()
        self._groups.others = 0
        for future in asked:
            future.result()

    def _seed(self, stage: Stage, trial: int, index: int) -> int:
        """A seed that no other run has but by chance."""
        entropy = (self._study.train.seed, STAGES.index(stage), trial, index)
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _train_one(self, run: ConfirmRun) -> None:
        if self._budget.is_over:
            return
        folder, values, begin = self._table.folder, self._table[run.trial].values, time.monotonic() - run.seconds
        run.state, run.reason = TrialState.RUNNING, None
        self._write()
        self._start_run(run, values)
        try:
            self._groups.run(
                train_trial,
                on_report=partial(self._hear, run, begin),
                trial=run.number,
                values=values,
                seed=run.seed,
                study=str(folder / STUDY),
                folder=str(folder / CONFIRM),
                cache=str(folder.parent / CACHE),
            )
            if run.progress == 100 and run.stage == "verdict":
                self._score(run)
            run.state = TrialState.COMPLETE if run.progress == 100 else TrialState.INTERRUPTED
        except RuntimeError as error:
            run.state, run.reason = TrialState.FAILED, str(error).strip()
            if self._budget.is_over:
                run.state, run.reason = TrialState.INTERRUPTED, None
        self._end(run)

    def _hear(self, run: ConfirmRun, begin: float, report: ReportContent) -> None:
        run.progress, run.seconds = report["progress"], time.monotonic() - begin
        if report["is_best"]:
            assert report["checkpoint"] is not None
            run.value, run.metrics = report["metrics"][self._study.objective.metric], dict(report["metrics"])
            run.best_progress, run.checkpoint = report["progress"], Path(report["checkpoint"]).name
        self._write()
        self._tracker.log_metrics(run.key, report["metrics"], step=report["step"])

    def _score(self, run: ConfirmRun) -> None:
        here = confirm_folder(self._table.folder, run.number)
        assert run.checkpoint is not None
        found = self._groups.run(
            score_holdout,
            model=str(here / MODEL_FILES),
            cache=str(self._table.folder.parent / CACHE),
            checkpoint=str(here / CHECKPOINTS / run.checkpoint),
            metrics=run.metrics,
            objective=self._study.objective.metric,
            review=str(here / REVIEW),
        )
        run.holdout = {on_holdout(name): value for name, value in found["metrics"].items()}
        run.pseudo_values = found["pseudo_values"]

    def _end(self, run: ConfirmRun) -> None:
        if run.is_judged and run.checkpoint:
            self._checkpoints.keep(confirm_folder(self._table.folder, run.number) / CHECKPOINTS, run.checkpoint)
        elif run.state != TrialState.INTERRUPTED:  # its value is all that is asked for
            self._forget_weights(run)
        status = RUN_STATUS[run.state]
        tags = {"state": str(run.state)} | ({"reason": last_line(run.reason)[:500]} if run.reason else {})
        if run.holdout:
            self._tracker.log_metrics(run.key, run.holdout, step=0)
        self._tracker.end_trial(run.key, status=status, tags=tags)
        self._write()
        self._commits.commit()
        if run.state == TrialState.INTERRUPTED:
            return
        score = run.holdout.get(on_holdout(self._study.objective.metric), run.value)
        told = last_line(run.reason) if run.reason else f"{score:.4f} on {'the holdout' if run.holdout else 'dev'}"
        self._say(f"confirm: trial {run.trial} with seed {run.seed}: {told}")

    def _start_run(self, run: ConfirmRun, values: dict[str, object]) -> None:
        params = run_params(self._study.train_config(values).with_seed(run.seed))
        purpose = "to choose the candidate" if run.stage == "choose" else "for the verdict, on the holdout"
        description = f"The values of trial {run.trial} with another seed, {purpose}."
        tags = {"trial": str(run.trial), "confirm": run.stage, DESCRIPTION_TAG: description}
        self._tracker.start_trial(run.key, params=params, tags=tags)

    def _forget_weights(self, run: ConfirmRun) -> None:
        self._checkpoints.remove(confirm_folder(self._table.folder, run.number) / CHECKPOINTS)
        run.checkpoint = None

    def _write(self) -> None:
        with self._lock:
            self._runs.write()
        self._commits.soon()


def candidates_of(study: StudyConfig, table: TrialTable) -> list[TrialRecord]:
    """The best trials besides the baseline, best first, which keep all constraints: those that ran to their end, as the
    runs with other seeds do, or if none did, of the others."""
    assert study.confirm is not None
    kept = [record for record in table.best(len(table)) if record.checkpoint and table.keeps(record)]
    others = [record for record in kept if record.trial != study.search.baselines[0]]
    complete = [record for record in others if record.state == TrialState.COMPLETE]
    return (complete or others)[: study.confirm.top]


def seconds_to_confirm(study: StudyConfig, records: Iterable[TrialRecord], groups: int) -> float:
    """About how long the confirmation will take, by the trials so far; 0 while nothing is known."""
    if study.confirm is None:
        return 0.0
    whole = [record.seconds * 100 / record.progress for record in records if record.progress]
    if not whole:
        return 0.0
    together = [each.candidates * each.runs for each in rounds(study.confirm.top)] + [2 * study.confirm.seeds]
    return sum(math.ceil(runs / groups) for runs in together) * sum(whole) / len(whole)
