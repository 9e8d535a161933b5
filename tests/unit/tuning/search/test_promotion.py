"""Trials that pause at rungs and are promoted: the published rule, whatever interrupts it, and what Optuna knows."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from kobert_core.config import Objective
from search_spaces.distributions import Space
from tuning.planning.simulation import Curve, Scheduled, SimulatedTrial, simulate
from tuning.search.optuna_study import open_optuna_study
from tuning.search.promotion import Promotion, Rungs
from tuning.search.schedulers import make_scheduler, rungs_of
from tuning.search.searcher import OptunaSearcher
from tuning.study import SchedulerConfig, SearchConfig
from tuning.study.objectives import FurtherObjective
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord

PERCENTS = list(range(10, 101, 10))
SPACE = Space.from_dict({"optim.backbone_lr": {"distribution": "log_uniform", "min": 1e-5, "max": 1e-3}})
OBJECTIVE = Objective(metric="eval/accuracy", mode="max")


def curves_of(trials: int, seed: int) -> np.ndarray:
    """A value an evaluation: (trials, 10). Some are equal."""
    generator = np.random.default_rng(seed)
    quality = generator.normal(size=(trials, 1))
    return np.round(quality + 0.5 * generator.normal(size=(trials, len(PERCENTS))), 1)


def scheduler_of(
    factor: int,
    *,
    grace: int = 10,
    mode: str = "max",
    ledger: list[TrialRecord] | None = None,
    baselines: tuple[int, ...] = (),
) -> Promotion:
    found = make_scheduler(
        SchedulerConfig(name="promotion", grace_percent=grace, reduction_factor=factor),
        metric="objective",
        mode=mode,
        space=SPACE,
        search=SearchConfig(points=({},) * 5, baselines=baselines),
        earlier=ledger or (),
    )
    assert isinstance(found, Promotion)
    return found


def as_published(curves: np.ndarray, speeds: np.ndarray, rungs: list[int], factor: int, workers: int) -> list[Any]:
    """Algorithm 2 of the paper, on workers of which each asks for its next job when it has done one: which trial came
    to which level, in their order."""
    levels = [*rungs, 100]
    reached: list[dict[int, float]] = [{} for _ in levels]
    promoted: list[set[int]] = [set() for _ in levels]
    begun, done = 0, []
    running: list[tuple[float, int, int]] = []

    def get_job() -> tuple[int, int] | None:
        nonlocal begun
        for k in reversed(range(len(levels) - 1)):
            ordered = sorted(reached[k].items(), key=lambda item: (-item[1], item[0]))
            top_k = [trial for trial, _ in ordered[: len(ordered) // factor]]
            promotable = [trial for trial in top_k if trial not in promoted[k]]
            if promotable:
                promoted[k].add(promotable[0])
                return promotable[0], k + 1
        if begun == len(curves):
            return None
        begun += 1
        return begun - 1, 0

    def evaluations(level: int) -> int:
        return PERCENTS.index(next(percent for percent in PERCENTS if percent >= levels[level])) + 1

    now, free = 0.0, workers
    while True:
        while free and (job := get_job()):
            trial, level = job
            steps = evaluations(level) - (evaluations(level - 1) if level else 0)
            end = now
            for _ in range(steps):  # as a simulation adds them up
                end += speeds[trial]
            heapq.heappush(running, (end, trial, level))
            free -= 1
        if not running:
            return done
        now, trial, level = heapq.heappop(running)
        reached[level][trial] = curves[trial, evaluations(level) - 1]
        done.append((trial, levels[level]))
        free += 1


class Simulated:
    """The scheduler of the product on simulated workers."""

    def __init__(self, scheduler: Promotion, trials: int) -> None:
        self._scheduler, self._left, self._trials = Scheduled(scheduler), iter(range(trials)), dict[int, Any]()

    def next(self) -> SimulatedTrial | None:
        assert self._scheduler.promotion is not None
        if (promoted := self._scheduler.promotion.promote()) is not None:
            return self._trials[promoted]
        if (number := next(self._left, None)) is None:
            return None
        self._trials[number] = SimulatedTrial(number, {})
        self._scheduler.add(self._trials[number])
        return self._trials[number]

    def goes_on(self, trial: SimulatedTrial) -> bool:
        return self._scheduler.goes_on(trial)

    def ended(self, trial: SimulatedTrial) -> None:
        self._scheduler.close(trial)


@given(
    seed=st.integers(0, 2**20),
    trials=st.integers(1, 40),
    workers=st.integers(1, 5),
    factor=st.integers(2, 4),
    grace=st.sampled_from([10, 20, 30, 60, 100]),
)
@settings(max_examples=60, deadline=None)
def test_the_rule_is_the_published_one(seed: int, trials: int, workers: int, factor: int, grace: int) -> None:
    curves, speeds = curves_of(trials, seed), np.random.default_rng(seed).uniform(1, 3, trials)
    rungs = rungs_of(SchedulerConfig(name="promotion", grace_percent=grace, reduction_factor=factor))
    assert rungs is not None

    def curve_of(trial: SimulatedTrial) -> Curve:
        return Curve(PERCENTS, list(np.cumsum([speeds[trial.number]] * 10)), curves[trial.number].tolist())

    method = Simulated(scheduler_of(factor, grace=grace), trials)
    levels = {next(percent for percent in PERCENTS if percent >= rung): rung for rung in (*rungs, 100)}
    done = []
    for trial, _, _ in simulate(method, curve_of, workers=workers):
        if trial.percent in levels:
            done.append((trial.number, levels[trial.percent]))
    assert done == as_published(curves, speeds, rungs, factor, workers)


def test_rungs_end_where_a_promotion_goes_to_the_end() -> None:
    def rungs(grace: int, factor: int, folds: int | None = None) -> list[int] | None:
        return rungs_of(SchedulerConfig(name="promotion", grace_percent=grace, reduction_factor=factor), folds)

    assert rungs(10, 3) == [10, 30] and rungs(1, 3) == [1, 3, 9, 27] and rungs(25, 2) == [25, 50]
    assert rungs(50, 3) == [50] and rungs(100, 3) == [] and rungs(10, 3, folds=5) == [20]
    assert rungs_of(SchedulerConfig(name="asha")) == [10, 30, 90] and rungs_of(SchedulerConfig(name="median")) is None


def test_the_best_of_those_that_wait_goes_on_from_the_highest_rung() -> None:
    rungs = Rungs([10, 30], factor=2)
    assert rungs.pauses(0, 10, 0.5) and rungs.promote() is None, "one of two goes on, and there is one"
    assert not rungs.pauses(1, 10, 0.6), "better than the other: it needs no pause"
    assert not rungs.pauses(1, 20, 0.6) and rungs.pauses(1, 30, 0.6)
    assert rungs.pauses(2, 10, 0.4) and rungs.waiting == [0, 1, 2] and rungs.promote() is None
    assert rungs.pauses(3, 10, 0.3)
    assert rungs.promote() == 0, "trial 1 has gone on from there already, and two of four do"
    assert not rungs.pauses(0, 10, 0.5), "it repeats its report"
    assert not rungs.pauses(0, 30, 0.7) and rungs.waiting == [1, 2, 3]
    assert not rungs.pauses(0, 100, 0.1)
    resumed = Rungs([10, 30], factor=2)
    for trial, points in enumerate(([(10, 0.9)], [(10, 0.1)], [(10, 0.8), (30, 0.8)], [(10, 0.2), (30, 0.2)])):
        resumed.replay(trial, points, waits=True)
    assert [resumed.promote() for _ in range(3)] == [2, 0, None], "one at each rung: from the highest one down"


def one_at_a_time(ledger: list[TrialRecord], curves: np.ndarray, mode: str, *, cut: Iterator[bool]) -> bool:
    """Drive the scheduler as a sweep with one worker does, from what the ledger has, until `cut` is true after a report
    or a decision; whether it came to the end. So the ledger may have a report, and lack what was decided."""
    scheduler = scheduler_of(3, mode=mode, ledger=ledger, baselines=(0, 4))
    tune: Any = SimpleNamespace(get_live_trials=list)
    while True:
        cut_off = [record.trial for record in ledger if record.state == TrialState.RUNNING]
        number = cut_off[0] if cut_off else scheduler.promote()
        if number is None:
            if len(ledger) == len(curves):
                return True
            number = len(ledger)
            ledger.append(TrialRecord(number, TrialState.RUNNING, {}))
        record = ledger[number]
        record.state = TrialState.RUNNING
        trial: Any = SimpleNamespace(trial_id=f"{number}", config={"trial": number})
        scheduler.on_trial_add(tune, trial)
        for percent, value in zip(PERCENTS, curves[number].tolist(), strict=True):
            if percent < max(record.curve, default=0):
                continue  # a trial that goes on repeats its last report
            result = {"progress": percent, "objective": value}
            stops = percent == 100 or scheduler.on_trial_result(tune, trial, result) == "STOP"
            record.curve[percent], record.progress = value, percent
            if next(cut):
                return False
            if stops:
                scheduler.on_trial_complete(tune, trial, result)
                paused = number in scheduler.waiting
                record.state = TrialState.PAUSED if paused else TrialState.COMPLETE
                if next(cut):
                    return False
                break


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_sweep_cut_anywhere_comes_to_the_same(mode: str) -> None:
    for seed in range(5):
        curves = curves_of(15, seed)
        whole: list[TrialRecord] = []
        assert one_at_a_time(whole, curves, mode, cut=iter(lambda: False, None))
        states = [record.state for record in whole]
        assert set(states) == {TrialState.COMPLETE, TrialState.PAUSED}
        assert states[0] == states[4] == TrialState.COMPLETE, "baselines never pause"
        for every in (2, 3, 5, 7):
            ledger: list[TrialRecord] = []
            for _ in range(1000):
                moments = iter([*[False] * every, True])
                if one_at_a_time(ledger, curves, mode, cut=moments):
                    break
            assert ledger == whole, (seed, every)


def test_what_cannot_win_is_stopped_for_good_and_counts_for_no_other() -> None:
    small = FurtherObjective(metric="cost/parameters", mode="min", below=1e6)
    config = SchedulerConfig(name="promotion", grace_percent=10, reduction_factor=2)
    how: dict[str, Any] = {"metric": "objective", "mode": "max", "space": SPACE, "search": SearchConfig()}

    def decide(scheduler: Any, number: int, value: float, parameters: float) -> str:
        trial: Any = SimpleNamespace(trial_id=f"{number}", config={"trial": number})
        result = {"progress": 10, "objective": value, "report/metrics/cost/parameters": parameters}
        return str(scheduler.on_trial_result(SimpleNamespace(), trial, result))

    scheduler: Any = make_scheduler(config, **how, further=(small,))
    assert decide(scheduler, 1, 0.9, 2e6) == "STOP" and scheduler.waiting == []
    assert decide(scheduler, 2, 0.5, 1e5) == "STOP" and scheduler.waiting == [2]
    assert decide(scheduler, 3, 0.6, 1e5) == "CONTINUE", "the best of two: the larger one is none of them"
    metrics = {"cost/parameters": 2e6}
    ended = [TrialRecord(1, TrialState.PRUNED, {}, progress=10, curve={10: 0.9}, metrics=metrics)]
    scheduler = make_scheduler(config, **how, further=(small,), earlier=ended)
    assert decide(scheduler, 2, 0.5, 1e5) == "STOP" and decide(scheduler, 3, 0.6, 1e5) == "CONTINUE"


def searching(folder: Path, ledger: list[TrialRecord] | None = None, *, trials: int, factor: int = 2) -> OptunaSearcher:
    """A new session of a search in a folder."""
    search = SearchConfig(seed=3, startup_trials=2, baselines=())
    study = open_optuna_study(folder, name="study", objective=OBJECTIVE, search=search, resume=True, ledger=ledger)
    known = {record.trial: record for record in ledger or ()}
    searcher = OptunaSearcher(study, SPACE, search, OBJECTIVE, trials=trials, record_of=known.get)
    searcher.promotion = scheduler_of(factor, ledger=ledger)
    return searcher


class Sweep:
    """Tells a searcher and its scheduler of reports, in the order of Ray Tune; and has the ledger."""

    def __init__(self) -> None:
        self.ledger: list[TrialRecord] = []

    def report(self, searcher: OptunaSearcher, trial_id: str, config: Any, percent: int, value: float) -> TrialState:
        """What the trial is after it."""
        if config["trial"] == len(self.ledger):
            self.ledger.append(TrialRecord(config["trial"], TrialState.RUNNING, config["values"]))
        record, result = self.ledger[config["trial"]], {"progress": percent, "objective": value}
        trial: Any = SimpleNamespace(trial_id=trial_id, config=config)
        assert searcher.promotion is not None
        stops = searcher.promotion.on_trial_result(SimpleNamespace(), trial, result) == "STOP"  # type: ignore[arg-type]
        record.curve[percent], record.progress = value, percent
        if not stops:
            searcher.on_trial_result(trial_id, result)
            return TrialState.RUNNING
        searcher.on_trial_complete(trial_id, result)
        record.state = TrialState.PAUSED
        searcher.tell(trial_id)
        return record.state


def test_a_paused_trial_runs_for_optuna_until_the_search_is_over(tmp_path: Path) -> None:
    sweep, searcher = Sweep(), searching(tmp_path, trials=3)
    first = searcher.suggest("a")
    assert sweep.report(searcher, "a", first, 10, 0.5) == "PAUSED"
    second = searcher.suggest("b")
    searcher = searching(tmp_path, sweep.ledger, trials=3)  # the driver was killed
    assert [trial.state.name for trial in searcher._study.trials] == ["RUNNING", "WAITING"]
    assert searcher.suggest("c") == second, "what was interrupted comes first"
    assert sweep.report(searcher, "c", second, 10, 0.4) == "PAUSED"
    assert searcher.suggest("d") == first, "the better of two, as it was"
    third = searcher.suggest("e")
    assert third is not None and third["trial"] == 2
    assert searcher.suggest("f") is None, "what runs may yet let another one go on"
    assert sweep.report(searcher, "e", third, 10, 0.3) == "PAUSED"
    assert sweep.report(searcher, "d", first, 10, 0.5) == "RUNNING", "it repeats its report"
    assert sweep.report(searcher, "d", first, 20, 0.6) == "PAUSED" and not searcher.is_over
    assert searcher.suggest("g") == Searcher.FINISHED and searcher.is_over
    for record in sweep.ledger:
        record.state = TrialState.PRUNED
        searcher.tell_end(record)
    told = [(trial.state.name, trial.intermediate_values) for trial in searcher._study.trials]
    assert told == [("PRUNED", {10: 0.5, 20: 0.6}), ("PRUNED", {10: 0.4}), ("PRUNED", {10: 0.3})]


def test_a_promoted_trial_that_never_began_is_paused_still(tmp_path: Path) -> None:
    """The sweep was interrupted between the searcher's word and the start: it is not handed out twice."""
    sweep, searcher = Sweep(), searching(tmp_path, trials=2)
    first = searcher.suggest("a")
    sweep.report(searcher, "a", first, 10, 0.5)
    second = searcher.suggest("b")
    sweep.report(searcher, "b", second, 10, 0.4)
    searcher = searching(tmp_path, sweep.ledger, trials=2)
    assert searcher.suggest("c") == first
    searcher.put_back()
    assert [trial.state.name for trial in searcher._study.trials] == ["RUNNING", "RUNNING"]
    again = searching(tmp_path, sweep.ledger, trials=2)
    assert again.suggest("d") == first and again.suggest("e") is None


def test_a_kill_between_the_ends_of_paused_trials(tmp_path: Path) -> None:
    """The ledger has both ends, and Optuna one; or the ledger has one."""
    sweep, searcher = Sweep(), searching(tmp_path, trials=2, factor=3)
    for name in "ab":
        sweep.report(searcher, name, searcher.suggest(name), 10, 0.5)
    sweep.ledger[0].state = TrialState.PRUNED
    again = searching(tmp_path, sweep.ledger, trials=2, factor=3)
    assert [trial.state for trial in again._study.trials] == [OptunaState.PRUNED, OptunaState.RUNNING]
    assert again.suggest("c") == Searcher.FINISHED and again.is_over


def test_tpe_takes_what_waits_for_what_was_stopped_there(tmp_path: Path) -> None:
    """The next values are those of a search whose trials were pruned at the same reports."""
    suggested = []
    for pauses in (True, False):
        (folder := tmp_path / f"{pauses}").mkdir()
        sweep, searcher = Sweep(), searching(folder, trials=9, factor=10)
        if not pauses:
            searcher.promotion = None
        for number in range(6):
            config, value = searcher.suggest(f"{number}"), 0.5 + 0.1 * (-1) ** number
            if pauses:
                assert sweep.report(searcher, f"{number}", config, 10, value) == "PAUSED"
            else:
                searcher.on_trial_complete(f"{number}", {"progress": 10, "objective": value})
                searcher.tell(f"{number}")
        suggested.append(searcher.suggest("next"))
        states = {trial.state for trial in searcher._study.trials[:6]}
        assert states == {OptunaState.RUNNING if pauses else OptunaState.PRUNED}
    assert suggested[0] == suggested[1]
