"""The ruler for searches: a simulated sweep costs, stops and hands over what its table says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tuning.planning.simulation import SimulatedTrial
from tuning.study import load_study

HPO = Path(__file__).resolve().parents[3] / "benchmarks/hpo"
RATES = (1e-4, 1e-3, 3e-3)

if TYPE_CHECKING:
    from tables import Table


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HPO))
    yield
    for name in ("tables", "simulate", "methods", "results", "replay"):
        sys.modules.pop(name, None)


@pytest.fixture
def table(_importable: None) -> Table:
    """Three configurations that differ in one rate, two seeds; a second an evaluation. The second one is the best, and
    the third looks best until half of its run."""
    from tables import Table

    study = load_study(HPO / "spaces/nsmc-tiny.yaml")
    values = [study.search.points[0] | {"optim.backbone_lr": rate} for rate in RATES]
    percents = np.arange(10, 101, 10)
    dev = np.stack([np.linspace(0.5, end, 10) for end in (0.6, 0.8, 0.7)])
    dev[2, :5] = 0.75
    ends = np.array([[0.61, 0.59], [0.79, 0.81], [0.70, 0.70]])
    return Table(
        study=study,
        values=values,
        percents=percents,
        seconds=np.broadcast_to(np.arange(1.0, 11.0), (3, 2, 10)),
        dev=np.stack([dev, dev], axis=1),
        held_out=np.linspace(np.array([[0.51, 0.49], [0.49, 0.51], [0.50, 0.50]]), ends, 10, axis=2),
    )


class InOrder:
    """Trains the configurations in their order, and stops a trial after an evaluation where it is told to."""

    def __init__(self, values: list[dict[str, Any]], stop: dict[int, int]) -> None:
        self._values, self._stop, self.seen = values, stop, 0

    def next(self) -> SimulatedTrial | None:
        if self.seen == len(self._values):
            return None
        self.seen += 1
        return SimulatedTrial(self.seen - 1, self._values[self.seen - 1])

    def goes_on(self, trial: SimulatedTrial) -> bool:
        return self._stop.get(trial.number) != trial.percent

    def ended(self, trial: SimulatedTrial) -> None:
        pass


def test_the_nearest_configuration_answers(table: Table) -> None:
    near = table.values[1] | {"optim.backbone_lr": 1.2e-3, "optim.weight_decay": 0.02}
    assert table.nearest(near) == 1
    assert table.nearest(table.values[1] | {"train.epochs": 1}) == 1


def test_a_sweep_costs_what_its_trials_cost(table: Table) -> None:
    from simulate import simulate

    one = simulate(table, InOrder(table.values, {0: 30}), workers=1, budget=9, generator=np.random.default_rng(0))
    # trial 0 reports at 0.1 runs, and is stopped at 0.3; trial 1 passes its 0.5222 at its second evaluation
    assert one.gap_at(0.05) == np.inf
    assert one.gap_at(0.1) == pytest.approx(20)
    assert one.spent_until(0.2) == pytest.approx(0.3 + 0.2)
    assert one.gap_at(0.1, of_weights=True) == pytest.approx(30, abs=1.1), "after a tenth of a run, with either seed"
    assert one.gap_at(1.3, of_weights=True) == pytest.approx(0, abs=1.1)
    two = simulate(table, InOrder(table.values, {}), workers=2, budget=9, generator=np.random.default_rng(0))
    assert two.seconds[0] < two.seconds[-1] <= 20


def test_what_is_handed_over_is_the_best_of_all_or_a_complete_trial_first(table: Table) -> None:
    from simulate import simulate

    def handed_over(*, complete_first: bool) -> float:
        order = InOrder([table.values[each] for each in (0, 2)], {1: 30})
        found = simulate(
            table,
            order,
            workers=1,
            budget=9,
            generator=np.random.default_rng(0),
            complete_first=complete_first,
        )
        return found.gap_at(9)

    assert handed_over(complete_first=True) == pytest.approx(20), "the first configuration ran to its end"
    assert handed_over(complete_first=False) == pytest.approx(10), "the third one was better when it was stopped"


@pytest.mark.parametrize("scheduler", ["none", "asha", "promotion", "hyperband"])
def test_the_products_parts_run_as_in_a_sweep(table: Table, scheduler: str) -> None:
    from methods import Product
    from simulate import simulate

    method = Product(table.study, algorithm="tpe", scheduler=scheduler, seed=1)
    found = simulate(table, method, workers=4, budget=6, generator=np.random.default_rng(1))
    states = {trial.state.name for trial in method._searcher._study.get_trials(deepcopy=False)}
    assert ("PRUNED" in states) is (scheduler in ("asha", "hyperband")) and "COMPLETE" in states
    assert found.gap_at(6) == 0


@pytest.mark.parametrize(("algorithm", "scheduler"), [("gp", "asha"), ("tpe-rungs", "promotion")])
def test_candidates_find_the_best_of_three(table: Table, algorithm: str, scheduler: str) -> None:
    from methods import Product
    from simulate import simulate

    table = replace(table, dev=np.broadcast_to(np.array([0.6, 0.8, 0.7])[:, None, None], table.dev.shape))
    method = Product(table.study, algorithm=algorithm, scheduler=scheduler, seed=1, startup=3)
    found = simulate(table, method, workers=4, budget=2, generator=np.random.default_rng(1))
    assert found.gap_at(2) == 0


def test_what_confirm_would_choose_is_better_by_seeds_that_its_trial_did_not_have(table: Table) -> None:
    from simulate import confirmed

    dev = table.dev.copy()
    dev[0, 1] = 0.9  # lucky once: its other seed says so
    lucky = replace(table, dev=dev)
    assert confirmed(lucky, [(0, 1), (1, 0), (2, 0)]) == 1
    assert confirmed(lucky, [(0, 0), (1, 0), (2, 0)]) == 0
    assert confirmed(lucky, [(2, 1)]) == 2


def replay_of(*changes: tuple[float, float]) -> Any:
    from simulate import Replay

    spent, gap = np.array(changes).T
    return Replay(spent, gap, gap + 1, spent, 0.5)


def test_who_is_ahead_by_how_much(_importable: None) -> None:
    from results import Search

    slow = Search([replay_of((0.1, 5.0), (8.0, 1.0))] * 4, budget=16)
    fast = Search([replay_of((0.1, 5.0), (4.0, 1.0), (6.0, 0.1))] * 4, budget=16)
    assert fast.against(slow)[0] == pytest.approx(4 / 8) and slow.against(fast)[0] == pytest.approx(8 / 4)
    assert fast.compute[0] == pytest.approx(6.0) and np.isinf(slow.compute[0])
    mixed = Search([replay_of((0.1, 5.0), (4.0, 0.0)), replay_of((0.1, 5.0), (8.0, 0.0))] * 20, budget=16)
    assert mixed.gaps[0, 59] == pytest.approx(2.5), "at 6 runs half of them have found it"
    low, high = np.quantile(mixed.gaps[1:, 59], [0.025, 0.975])
    assert low < 2.5 < high and (mixed.gaps[1:, -1] == 0).all()


@pytest.mark.filterwarnings("error")
def test_of_no_gap_at_all_no_gap_is_as_much(_importable: None) -> None:
    from results import Search

    none, some = (Search([replay_of((0.1, gap))] * 4, budget=16) for gap in (0.0, 5.0))
    assert (none.way_against(none) == 1).all() and (some.way_against(some) == 1).all()
    assert (none.way_against(some) == 0).all() and np.isinf(some.way_against(none)).all()


def test_a_report_names_each_table_and_peer(_importable: None) -> None:
    from results import REFERENCES, report

    ours, peer, reference = "random and ASHA", "Optuna: TPE and HyperbandPruner", REFERENCES[0]
    replays = {
        (table, name, 4, 16.0, number): replay_of((0.1, 5.0), (4.0 if name == ours else 8.0, 0.0))
        for table in ("a", "b")
        for name in (reference, ours, peer)
        for number in range(5)
    }
    replays |= {(*key[:2], 16, *key[3:]): each for key, each in replays.items() if key[:2] == ("a", ours)}
    replays["a", "too few", 4, 16.0, 0] = replay_of((0.1, 0.0))
    text = report(replays, [reference, ours, peer, "too few"])
    text, with_16 = text.split("\n## 16 workers\n")
    assert "with\n4, 16 workers" in text and "\n## 4 workers\n" in text
    assert with_16.count(f"| {ours} |") == 4 and peer not in with_16
    assert "too few" not in text
    assert "### a\n" in text and "### b\n" in text
    assert text.count(f"| {ours} | 2 (2) : 0 (0) | 2 (2) : 0 (0) |") == 3
    exact = [f"{value} ({value} to {value})" for value in ("4.00", "0.99", "1.99", "0.50")]
    assert f"| {ours} | 5 | {exact[0]} | 100% | {' | '.join(exact[1:])} |" in text


def test_what_was_replayed_is_kept(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import replay

    monkeypatch.setattr(replay, "KEPT", tmp_path)
    monkeypatch.setattr(replay, "digest", lambda name: "0123")
    task = ("nsmc-tiny", "TPE and ASHA, ours", 4, 16.0, 7)
    replay.keep(task, replay_of((0.1, 5.0), (4.0, 0.0)))
    replay.keep((*task[:4], 8), replay_of((0.2, 1.0)))
    with replay.kept_in("nsmc-tiny").open("a") as file:
        file.write('\n["TPE and ASHA, ours", 4, 16.0')  # cut off
    found = replay.kept(["nsmc-tiny"])
    assert list(found) == [task, (*task[:4], 8)] and found[task].spent.tolist() == [0.1, 4.0]
