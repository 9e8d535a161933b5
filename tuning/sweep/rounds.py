"""A sweep survives the death of processes around its trials: it runs in rounds, and each starts as a resumed sweep.

A process that dies ends a round. All trials are interrupted at their next step, as by Ctrl-C. The next round resumes
them from their checkpoints, with the search and the scheduler as the ledger has them. So the numbers are the same as
without the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.tune import Stopper

from kobert_core.errors import InputError
from tuning.search.driver_only import DriverOnly
from tuning.sweep.budget import Budget
from tuning.sweep.session import Session
from tuning.sweep_dir.trial_table import TrialTable
from tuning.workers.failures import MAX_LOSSES, in_one_line, is_infrastructure, process_of
from tuning.workers.worker_pool import WorkerPool


class Rounds(DriverOnly, Stopper):
    """Tells Ray Tune to stop all trials when the budget is spent or the round is over."""

    def __init__(
        self,
        table: TrialTable,
        groups: WorkerPool,
        budget: Budget,
        session: Session,
        *,
        patience: int | None = None,
        say: Callable[[str], object],
    ) -> None:
        """`patience`: see `BudgetConfig`."""
        self._patience = patience
        self._table, self._groups, self._budget, self._session, self._say = table, groups, budget, session, say
        self._lost: str | None = None
        self._refusal: str | None = None
        self._over = False
        self.trial_of: dict[int, int] = {}
        """Which trial a process of Ray Tune follows, by its id."""

    def lost(self, error: object) -> None:
        """A process was lost: all trials stop, and continue in another round."""
        if self._lost is None:
            trial = self.trial_of.get(process_of(error) or -1)
            self._lost = in_one_line(error) if trial is None else f"trial {trial}: {in_one_line(error)}"

    def come_further(self) -> None:
        """A trial has a new report."""
        self._session.count_report()

    def stop_trial(self, trial: int) -> None:
        """Tell the workers of a trial to stop."""
        self._groups.stop_owned_by(trial)

    def refused(self, line: str) -> None:
        """The first trial found that the user's input cannot be trained."""
        self._refusal = self._refusal or line

    @contextmanager
    def noting_losses(self) -> Iterator[None]:
        """Around calls of Ray: the death of a process ends the round, and is no error."""
        try:
            yield
        except Exception as error:
            if not is_infrastructure(error):
                raise
            self.lost(error)

    def another(self) -> bool:
        """At the end of a round: whether another one follows. If so, says why, and frees all groups.

        Raises:
            InputError: what a user gave cannot be trained.
        """
        if self._refusal is not None:
            self._table.forget()  # the name stays free for the mended study
            raise InputError(self._refusal)
        lost, self._lost, self._over = self._lost, None, False
        if lost is None or self._budget.stop_all():
            return False
        if not self._session.count_loss():
            self._budget.gave_up = f"{lost}, and no trial has come any further since {MAX_LOSSES} such losses"
            return False
        self._say(f"{lost}: going on from the checkpoints")
        self._groups.settle()
        return True

    @property
    def takes_new_trials(self) -> bool:
        """Whether another trial may begin: not when the latest ones were no better than one before."""
        return not self._table.is_out_of_patience(self._patience)

    def stop_all(self) -> bool:
        """Whether all trials must stop now; the workers are told once."""
        if (self._lost is not None or self._refusal is not None) and not self._over:
            self._over = True
            self._groups.stop_all()
        is_done = not self.takes_new_trials and all(record.has_ended for record in self._table)
        return self._budget.stop_all() or self._over or is_done

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        """Never stops a single trial."""
        return False
