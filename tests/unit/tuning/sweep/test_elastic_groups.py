"""How many worker groups a sweep wants, as machines come and go and trials end."""

from __future__ import annotations

import queue
import time
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from tests.fixtures.commands import ROOT
from tuning.cluster.nodes import Node
from tuning.study import load_study
from tuning.sweep.elastic_groups import ElasticGroups
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


class Cluster:
    """Nodes with two CPUs each."""

    def __init__(self, tmp_path: Path, *overrides: str, nodes: int = 0, autoscaler: bool = False) -> None:
        self.study = load_study(QUICKSTART, ["budget={trials: 6}", *overrides])
        self.table, self.said = TrialTable(tmp_path, self.study.objective), list[str]()
        self.nodes, self.leaving, self._autoscaler = nodes, set[int](), autoscaler

    def now(self) -> list[Node]:
        head = Node("head", {"CPU": 0.0}, False)
        return [head, *(Node(f"n{i}", {"CPU": 2.0}, i in self.leaving) for i in range(self.nodes))]

    def groups(self, *, joined: bool = True) -> ElasticGroups:
        wanted = ElasticGroups(
            self.study,
            self.table,
            joined=joined,
            say=self.said.append,
            nodes=self.now,
            autoscaler=lambda: self._autoscaler,
        )
        if wanted._autoscaler is not None:
            while not wanted._autoscaler.done():
                time.sleep(0.001)
        return wanted

    def end(self, trial: int) -> None:
        self.table.put(TrialRecord(trial, TrialState.COMPLETE, {"optim.backbone_lr": 1e-5 * (trial + 1)}, progress=100))


def test_groups_come_and_go_with_their_machines(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "confirm=null", nodes=1)
    wanted = cluster.groups()
    assert (wanted().groups, wanted().room, wanted().nodes) == (2, 2, {"head", "n0"})
    cluster.nodes = 2
    assert (wanted().groups, wanted().room) == (4, 4)
    cluster.leaving = {1}
    assert (wanted().groups, wanted().room, wanted().leaving) == (2, 2, {"n1"}), "what leaves is no room"
    cluster.nodes, cluster.leaving = 0, set()
    assert (wanted().groups, wanted().room) == (1, 0)
    assert not cluster.said


def test_who_asks_hears_of_nodes_that_join(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "resources.concurrent={max: 3}", nodes=1)
    wanted, heard = cluster.groups(), queue.SimpleQueue[tuple[set[str], int]]()
    wanted.on_join = lambda nodes, running: heard.put((set(nodes), running))
    wanted()
    cluster.nodes = 3
    wanted()
    assert heard.get(timeout=60) == ({"n1", "n2"}, 3), "six find room, and three may run"
    cluster.nodes = 0
    wanted()
    cluster.nodes = 1
    wanted()
    assert heard.empty(), "neither those of the start, nor one that was known"


def test_no_more_groups_than_trials_are_left(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "confirm=null", nodes=2)
    wanted = cluster.groups()
    for trial in range(4):
        cluster.end(trial)
    assert (wanted().groups, wanted().kept) == (2, 2)
    for trial in range(4, 6):
        cluster.end(trial)
    assert (wanted().groups, wanted().kept) == (1, 1)


def test_groups_stay_for_the_runs_that_confirm_the_winner(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "confirm={top: 2, seeds: 2}", nodes=2)
    wanted = cluster.groups()
    for trial in range(5):
        cluster.end(trial)
    assert (wanted().groups, wanted().kept) == (1, 4)
    cluster.end(5)
    assert (wanted().groups, wanted().kept) == (1, 4)
    assert wanted(3).groups == 3, "once they are to be made"


def test_an_autoscaler_is_asked_for_what_the_trials_need(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "confirm=null", autoscaler=True)
    wanted = cluster.groups()
    assert cluster.said == ["the cluster has no room for a trial yet: waiting for the cluster's autoscaler"]
    assert (wanted().groups, wanted().room) == (6, 0)
    cluster.nodes = 1
    assert (wanted().groups, wanted().room) == (6, 2)
    for trial in range(5):
        cluster.end(trial)
    assert wanted().groups == 1, "nothing more is asked for than is left"


def test_a_bound_waits_for_machines_that_nobody_announced(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "confirm=null", "resources.concurrent={max: 3}")
    wanted = cluster.groups()
    assert cluster.said == ["the cluster has no room for a trial yet: waiting for machines to join"]
    assert wanted().groups == 3
    cluster.nodes = 4
    assert (wanted().groups, wanted().room) == (3, 8)


@pytest.mark.parametrize("concurrent", ["auto", "2"])
def test_no_room_is_an_error_where_nothing_is_to_be_expected(tmp_path: Path, concurrent: str) -> None:
    cluster = Cluster(tmp_path, f"resources.concurrent={concurrent}")
    with pytest.raises(InputError, match=r"but the cluster has 0 CPUs.*; ask for less, or wait for machines"):
        cluster.groups()
    with pytest.raises(InputError, match=r"ask for less$"):
        cluster.groups(joined=False)


def test_trials_that_are_left_when_the_search_has_ended_want_no_machine(tmp_path: Path) -> None:
    """When its time is spent, say: what follows, and no trial, is what machines are asked for then."""
    cluster = Cluster(tmp_path, "budget={trials: 40}", "confirm=null", nodes=1, autoscaler=True)
    wanted = cluster.groups()
    assert wanted().groups > 30
    assert wanted(5, False).groups == 5
    assert wanted(0, False).groups == 1
