"""The worker groups that a sweep wants, while its cluster grows and shrinks and its trials run out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import partial

from tuning.cluster.group_count import groups_that_fit, groups_wanted, room_for_groups
from tuning.cluster.nodes import Node, has_autoscaler, nodes_now
from tuning.statistics.halving import rounds
from tuning.study import StudyConfig
from tuning.sweep.background import in_background
from tuning.sweep_dir.trial_table import TrialTable
from tuning.workers.worker_groups import Wanted


class ElasticGroups:
    """Says again and again how many there should be."""

    def __init__(
        self,
        study: StudyConfig,
        table: TrialTable,
        *,
        joined: bool,
        say: Callable[[str], object],
        nodes: Callable[[], list[Node]] = nodes_now,
        autoscaler: Callable[[], bool] = has_autoscaler,
    ) -> None:
        """Looks at the cluster, and says so where a sweep has to wait for its first machine.

        Args:
            study: Says what a group consists of, and how many there may be.
            table: Knows the trials that are left.
            joined: Whether the cluster is not this process's own: others may then add machines to it.
            say: Is called with a line.
            nodes, autoscaler: What the cluster has.

        Raises:
            InputError: there is no room for a group, and none is to be expected.
        """
        self._study, self._table, self._nodes = study, table, nodes
        self._resources = study.resources
        self._autoscaler: Future[bool] | None = None
        waits = self._resources.waits_for_machines
        if joined and not waits:
            self._autoscaler = in_background(autoscaler)  # takes seconds
        self._more_may_come = joined and waits
        self.on_join: Callable[[Collection[str], int], object] = lambda nodes, running: None
        """Is called in a thread with the ids of nodes that have joined, and how many trials can run at once now."""
        self._known: set[str] = set()
        here = self._usable(nodes())
        if room_for_groups(here, self._resources):
            return
        if not self._more_may_come and not (self._autoscaler and self._autoscaler.result()):
            groups_that_fit(here, self._resources, may_grow=joined)  # raises the error that says what there is
        for_whom = "machines to join" if self._more_may_come else "the cluster's autoscaler"
        say(f"the cluster has no room for a trial yet: waiting for {for_whom}")

    def __call__(self, others: int = 0, searching: bool = True) -> Wanted:
        """At this moment, with so many other runs than trials that are to be made; trials as long as the search goes
        on."""
        if self._autoscaler is not None and self._autoscaler.done():
            self._more_may_come, self._autoscaler = self._autoscaler.result(), None
        nodes = self._nodes()
        room = room_for_groups(self._usable(nodes), self._resources)
        runs, later = max(self._trials() if searching else 0, others), self._runs_to_confirm()
        most, more = self._resources.most_at_once, self._more_may_come
        new = {node.id for node in nodes} - self._known
        if self._known and new:
            in_background(partial(self.on_join, new, room if most is None else min(room, most)))
        self._known |= new
        wanted = groups_wanted(room=room, runs=runs, most=most, more_may_come=more)
        return Wanted(
            groups=wanted,
            room=room,
            kept=groups_wanted(room=room, runs=max(runs, later), most=most, more_may_come=False),
            nodes=frozenset(node.id for node in nodes),
            leaving=frozenset(node.id for node in nodes if node.leaves),
        )

    def _trials(self) -> int:
        """How many are left."""
        if self._table.is_out_of_patience(self._study.budget.patience):
            return sum(not record.has_ended for record in self._table)
        return self._table.trials_left(self._study)

    def _runs_to_confirm(self) -> int:
        """How many runs can be made at once when the search has ended."""
        confirm = self._study.confirm
        if confirm is None:
            return 0
        return max([2 * confirm.seeds, *(each.candidates * each.runs for each in rounds(confirm.top))])

    @staticmethod
    def _usable(nodes: list[Node]) -> list[dict[str, float]]:
        return [dict(node.resources) for node in nodes if not node.leaves]
