"""The trials of a sweep: rounds of them on worker groups, until none is left."""

from __future__ import annotations

import shutil

from ray.tune.search import Searcher

from kobert_core.errors import InputError
from tuning.search.at_once import AsManyAsGroups
from tuning.search.optuna_study import open_optuna_study
from tuning.search.population import start_population
from tuning.search.promotion import Promotion
from tuning.search.schedulers import make_scheduler
from tuning.search.searcher import OptunaSearcher, Teller
from tuning.search.warm_start import begun_with
from tuning.study import StudyConfig
from tuning.sweep.rounds import Rounds
from tuning.sweep.session import Session
from tuning.sweep.trial_recorder import TrialRecorder
from tuning.sweep_dir.home import Commits
from tuning.sweep_dir.layout import CACHE, PBT_CHECKPOINTS, SCRATCH, STUDY, TRIALS
from tuning.sweep_dir.trial_status import last_line
from tuning.sweep_dir.trial_table import TrialTable
from tuning.workers.results import TrialConfig
from tuning.workers.train_trial import train_trial
from tuning.workers.trial import make_tuner
from tuning.workers.worker_pool import WorkerPool

UNLIMITED = -1
"""Ray Tune's word for it."""


class TrialRunner:
    """Lets Ray Tune schedule the trials of a sweep."""

    def __init__(
        self,
        study: StudyConfig,
        table: TrialTable,
        groups: WorkerPool,
        recorder: TrialRecorder,
        rounds: Rounds,
        session: Session,
        *,
        resume: bool,
        commits: Commits,
    ) -> None:
        """`resume`: the sweep has an Optuna study already."""
        self._commits = commits
        self._study, self._table, self._groups = study, table, groups
        self._recorder, self._rounds, self._session = recorder, rounds, session
        self._resume, self._count = resume, 0

    def run(self) -> None:
        """Run all trials that are left, in rounds: a lost process ends a round, and another one follows."""
        self._round()
        while self._rounds.another():
            self._round()

    def _round(self) -> None:
        searcher, remaining = self._make_searcher(), self._table.trials_left(self._study)
        self._resume = True  # so does the next round begin
        if remaining > 0:
            with self._rounds.noting_losses():
                self._wait_for_groups()
                if not self._rounds.stop_all():
                    self._tune(searcher, trials=remaining)
            self._groups.stop_all()
        if searcher is not None:
            searcher.put_back()
            if searcher.is_over:
                self._recorder.end_pauses(searcher.tell_end)
        self._recorder.interrupt()

    def _make_searcher(self) -> OptunaSearcher | None:
        """None when the scheduler takes the place of the search."""
        study, folder = self._study, self._table.folder
        in_folds = study.data.folds is not None
        if study.scheduler.name == "pbt":
            return None
        optuna_study = open_optuna_study(
            folder,
            name=folder.name,
            objective=study.objective,
            search=study.search,
            resume=self._resume,
            ledger=self._table,
            newest_counts=in_folds,
            further=study.further,
        )
        return OptunaSearcher(
            optuna_study,
            study.space,
            study.search,
            study.objective,
            ledger=self._table,
            takes_new_trials=lambda: self._rounds.takes_new_trials,
            newest_counts=in_folds,
            further=study.further,
            record_of=self._table.get,
            before_trial=self._commits.commit,
            trials=study.budget.trials if study.scheduler.name == "promotion" else None,
            earlier=begun_with(folder, study),
        )

    def _wait_for_groups(self) -> None:
        try:
            self._groups.wait_until_ready(give_up=self._rounds.stop_all)
        except RuntimeError as error:
            if self._session.losses:
                raise  # there were groups before
            reason = last_line(str(error))
            raise InputError(f"no worker group can be started on this cluster ({reason})", where="resources") from error

    def _tune(self, searcher: OptunaSearcher | None, *, trials: int) -> None:
        study, objective, folder = self._study, self._study.objective, self._table.folder
        self._remove_pbt_checkpoints()
        self._count += 1
        cache = folder.parent / CACHE
        fixed: dict[str, object] = {"study": str(folder / STUDY), "folder": str(folder), "cache": str(cache)}
        configs = searcher or start_population(self._table, study.space, study.search, trials=trials)
        scheduler = make_scheduler(
            study.scheduler,
            metric="objective",
            mode=objective.mode,
            space=study.space,
            search=study.search,
            folds=study.data.folds,
            earlier=self._table,
            further=study.further,
        )
        limited: Searcher | list[TrialConfig]
        if isinstance(configs, OptunaSearcher):
            limited = AsManyAsGroups(configs, lambda: self._groups.count, most=max(trials, self._groups.count))
        else:
            limited = configs
        if searcher is not None and isinstance(scheduler, Promotion):
            searcher.promotion = scheduler
            self._recorder.is_paused = lambda trial: trial in scheduler.waiting
            trials = UNLIMITED  # to Ray Tune each promotion is another one
        tuner = make_tuner(
            self._groups,
            *self._groups.placed(train_trial, fixed),
            metric=objective.metric,
            configs=limited,
            scheduler=scheduler,
            trials=trials,
            storage=folder / SCRATCH,
            callbacks=[self._recorder, Teller(searcher)] if searcher else [self._recorder],
            stop=self._rounds,
            max_failures=study.resources.max_failures,
            name=f"tune-{self._count}",
        )
        tuner.fit()
        self._remove_pbt_checkpoints()

    def _remove_pbt_checkpoints(self) -> None:
        for folder in (self._table.folder / TRIALS).glob(f"*/{PBT_CHECKPOINTS}"):
            shutil.rmtree(folder)
        if self._study.scheduler.name == "pbt" and self._groups.stored is not None:
            self._groups.stored.forget_donations(TRIALS, PBT_CHECKPOINTS)
