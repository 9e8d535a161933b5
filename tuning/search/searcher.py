"""An Optuna study as Ray Tune's searcher.

Ray's own `OptunaSearch` tells Optuna that stopped trials are COMPLETE, and reports no curves. Here each point of a
curve is reported as it comes; a stopped trial is PRUNED and a failed one FAIL. An interrupted trial goes back to
WAITING: when the sweep is resumed, `ask` returns it again, with the same number and values. One that is paused at a
rung is RUNNING, since Optuna takes nothing back that has ended; to TPE it is PRUNED there, until it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from kobert_core.config import Objective
from search_spaces.distributions import Space
from tuning.search.driver_only import DriverOnly
from tuning.search.optuna_study import Outcome, put_back, takes_curves, tell, with_pauses_as_ends
from tuning.search.promotion import Promotion
from tuning.search.sampling import PointSampler, make_sampler, tried_in, write_down
from tuning.search.warm_start import EarlierTrial
from tuning.study import SearchConfig
from tuning.study.objectives import Further
from tuning.sweep_dir.trial_status import TrialState, state_at_end
from tuning.sweep_dir.trial_table import TrialRecord
from tuning.workers.failures import failure_of
from tuning.workers.results import TrialResult


class OptunaSearcher(DriverOnly, Searcher):
    """Gives Ray Tune configs of the form `{"trial": number, "values": {parameter: value}}`."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        search: SearchConfig,
        objective: Objective,
        *,
        ledger: Iterable[TrialRecord] = (),
        takes_new_trials: Callable[[], bool] = lambda: True,
        newest_counts: bool = False,
        further: Further = (),
        record_of: Callable[[int], TrialRecord | None] = lambda trial: None,
        before_trial: Callable[[], object] = lambda: None,
        trials: int | None = None,
        earlier: Sequence[EarlierTrial] = (),
    ) -> None:
        """
        Args:
            study, space, search, objective: What to search, and how.
            ledger: Some of its trials may continue although Optuna was told that they failed (see
                `resume_lost_trials`). Optuna cannot undo that, so nothing more about them is reported to it.
            takes_new_trials: Whether a trial may begin now that no earlier session has begun.
            newest_counts: As in `tell` of `optuna_study`.
            further: The objectives and constraints behind the first objective.
            record_of: Gives what the ledger has of a trial, by its number; needed where there are further objectives,
                or where trials are paused.
            before_trial: Called when the study has the values of a trial, and nobody else has them yet.
            trials: No more than so many begin, in all sessions. Without it, whoever asks counts them.
            earlier: Trials of other sweeps, which the search learns from.
        """
        self._takes_new_trials, self._before_trial, self._earlier = takes_new_trials, before_trial, earlier
        super().__init__(metric="objective", mode=objective.mode)
        self._study, self._space, self._search, self._objective = study, space, search, objective
        self._newest_counts, self._further, self._record_of = newest_counts, further, record_of
        points = space.points()
        self._points, self._trials = None if points is None else len(points), trials
        self.promotion: Promotion | None = None
        """The scheduler, if it pauses trials: those that it promotes are suggested before new ones."""
        self.is_over = False
        """Whether no trial is left to be trained: those that are paused stay where they are."""
        self._running: dict[str, optuna.Trial] = {}
        self._reported: dict[str, dict[int, float]] = {}
        self._failed: set[str] = set()
        ended = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
        self._taken_up = [record for record in ledger if not record.has_ended and record.trial in ended]

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, object], **spec: Any
    ) -> bool:
        """Metric and mode are the study's own."""
        return True

    def suggest(self, trial_id: str) -> dict[str, object] | None:
        """The config of a trial that is new, was interrupted or is promoted; None when none may begin now; `FINISHED`
        when no point is left, or where trials are paused, nothing at all."""
        if self._taken_up:
            record = self._taken_up.pop(0)
            return {"trial": record.trial, "values": record.values}
        study, space = self._study, self._space
        trials = study.get_trials(deepcopy=False)
        waiting = [trial.number for trial in trials if trial.state == OptunaState.WAITING]
        if not waiting:
            if self.promotion is not None and (promoted := self.promotion.promote()) is not None:
                return self._go_on(trial_id, trials[promoted])
            all_tried = self._points is not None and len(tried_in(study, space)) >= self._points
            all_begun = self._trials is not None and len(trials) >= self._trials
            may_begin = not all_tried and not all_begun and self._takes_new_trials()
            # While a trial runs, its next report may be what another one is promoted by.
            self.is_over = all_tried if self.promotion is None else not may_begin and not self._running
            if self.is_over:
                return Searcher.FINISHED  # type: ignore[return-value]  # a text, which Ray's annotation does not say
            if not may_begin:
                return None
        number = waiting[0] if waiting else len(trials)
        study.sampler = make_sampler(self._search, space, trial=number)
        trial = study.ask()
        frozen = study.get_trials(deepcopy=False)[number]
        is_whole = space.identity(frozen.params) is not None
        sampler = PointSampler(self._known(), space, self._search, number, self._earlier)
        values = frozen.params if is_whole else sampler.new_values()
        self._running[trial_id] = trial
        self._reported[trial_id] = dict(frozen.intermediate_values)
        values = write_down(trial, space, values)
        self._before_trial()
        return {"trial": number, "values": values}

    def _go_on(self, trial_id: str, paused: FrozenTrial) -> dict[str, object]:
        """The config of a promoted trial."""
        self._study.sampler = make_sampler(self._search, self._space, trial=paused.number)
        trial = optuna.trial.Trial(self._study, paused._trial_id)
        self._running[trial_id] = trial
        self._reported[trial_id] = dict(paused.intermediate_values)
        return {"trial": paused.number, "values": write_down(trial, self._space, paused.params)}

    def _known(self) -> optuna.Study:
        """What the sampler learns from."""
        waiting = self.promotion.waiting if self.promotion is not None else []
        if not waiting or self._search.algorithm != "tpe":  # the others learn of complete trials alone
            return self._study
        paused = dict[int, Outcome]()
        trials = self._study.get_trials(deepcopy=False)
        for number in waiting:
            record = self._record_of(number)
            curve, metrics = (record.curve, record.metrics) if record else (trials[number].intermediate_values, {})
            paused[number] = Outcome(TrialState.PRUNED, curve, metrics)
        return with_pauses_as_ends(self._study, paused, self._objective, further=self._further)

    def on_trial_result(self, trial_id: str, result: dict[str, object]) -> None:
        """Report a point of a trial's curve, at its percentage of the run."""
        said = cast(TrialResult, result)
        value, progress = said["objective"], said["progress"]
        if trial_id in self._running and progress not in self._reported[trial_id]:
            if takes_curves(self._study):
                self._running[trial_id].report(value, step=progress)
            self._reported[trial_id][progress] = value

    def on_trial_complete(self, trial_id: str, result: dict[str, object] | None = None, error: bool = False) -> None:
        """A trial ended. Optuna is told after the ledger has it: see `Teller`."""
        if trial_id in self._running:
            if result is not None and not error:
                self.on_trial_result(trial_id, result)
            self._failed |= {trial_id} if error else set()

    def tell(self, trial_id: str) -> None:
        """Tell Optuna how a trial ended; of a pause it is told nothing."""
        if trial_id in self._running:
            trial, curve = self._running.pop(trial_id), self._reported.pop(trial_id)
            if self.promotion is not None and trial.number in self.promotion.waiting:
                return
            state = state_at_end(max(curve, default=0), failed=trial_id in self._failed)
            outcome = Outcome(state, curve)
            record = self._record_of(trial.number)
            if self._further and record is not None:  # Optuna may have no curve of an earlier session
                outcome = Outcome(record.state, record.curve, record.metrics)
            tell(
                self._study,
                trial.number,
                outcome,
                self._objective,
                newest_counts=self._newest_counts,
                further=self._further,
            )

    def tell_end(self, record: TrialRecord) -> None:
        """Tell Optuna how a trial ended that was paused."""
        told = Outcome(record.state, record.curve, record.metrics)
        how: dict[str, Any] = {"newest_counts": self._newest_counts, "further": self._further}
        tell(self._study, record.trial, told, self._objective, **how)

    def put_back(self) -> None:
        """The sweep ends: running trials go back to WAITING, for a resume. One that was promoted and has not begun is
        paused still."""
        for trial in self._running.values():
            record = self._record_of(trial.number)
            if record is None or record.state != TrialState.PAUSED:
                put_back(self._study, trial._trial_id)
        self._running.clear()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is in its own storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is in its own storage."""


class Teller(DriverOnly, Callback):
    """Tells Optuna that a trial ended, after the ledger was written: a killed driver must not leave Optuna ahead of
    it."""

    def __init__(self, searcher: OptunaSearcher) -> None:
        self._searcher = searcher

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """It ran to its end, or the scheduler stopped it."""
        self._searcher.tell(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """It failed. One whose process was lost is told nothing here: `put_back` returns it to WAITING."""
        if failure_of(trial) is not None:
            self._searcher.tell(trial.trial_id)
