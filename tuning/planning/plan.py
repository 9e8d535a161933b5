"""What a sweep will take: trials, hours, disk, and the differences that it can show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from kobert_core.progress import Progress, unseen
from kobert_core.training import evaluation_steps
from tuning.planning.probe import Costs, Probe, costs_of, measure_study
from tuning.planning.simulation import END, Curve, Scheduled, SimulatedTrial, simulate
from tuning.search.preview import trials_by_chance
from tuning.search.schedulers import make_scheduler
from tuning.statistics.halving import rounds
from tuning.study import SchedulerConfig, StudyConfig
from tuning.sweep.dry_run import count_trials_at_once
from tuning.sweep.guards import resolution
from tuning.sweep.preflight import CheckedStudy, prepare
from tuning.sweep_dir.layout import CACHE

SIMULATIONS = 20
GROUPS = (1, 2, 4, 8, 16, 32, 64)
STARTING, ENDING = 20.0, 8.0
"""Seconds until Ray and its first worker groups are up, and those of the export and the report: about what they take on
2 cores."""
NOISE = 0.5
"""Standard deviation of what a rung adds to a trial's quality, whose own is 1. It decides next to nothing: how many
trials pass a rung hangs on their order alone."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A sweep on so many worker groups. All times are in seconds."""

    groups: int
    seconds: float
    """From the command to its last line: the median of the simulations."""
    low: float
    high: float
    """Nine of ten simulations are between these."""
    search: float
    confirm: float
    test: float
    """Parts of the median."""
    busy: float
    """That groups are training, all together."""
    gpu_hours: float
    cpu_hours: float
    """That are held as long as the sweep runs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was reckoned for a study."""

    study: str
    trials: int
    stopped: float
    """The mean number of trials that are stopped early."""
    trial: float
    """Seconds of a trial that runs to its end, on average."""
    evaluating: float
    """The part of these that goes to evaluations and checkpoints."""
    here: int
    """Groups that fit on this machine, or the cluster that was asked."""
    schedules: list[Schedule]
    disk: int
    """Bytes that the checkpoints take at most."""
    resolution: str | None
    """The smallest difference that dev can show, in words."""
    advice: list[str]

    @property
    def schedule(self) -> Schedule:
        """With the groups that there are."""
        return next(each for each in self.schedules if each.groups == self.here)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def plan_sweep(
    study: StudyConfig,
    folder: Path,
    address: str | None = None,
    *,
    say: Callable[[str], object] = lambda text: None,
    progress: Progress = unseen,
) -> Plan:
    """Check a study, measure its trials for a minute or two, and simulate its sweep.

    Raises:
        InputError: the sweep could not run.
    """
    here = count_trials_at_once(study, folder, address)
    checked = prepare(study, folder, progress=progress)
    per_machine = count_trials_at_once(study, folder, "local")
    gpus = study.resources.gpus_per_worker
    together = max(1, int(1 / gpus)) if gpus else min(here, per_machine) * study.resources.workers
    probes = measure_study(checked, folder.parent / CACHE, at_once=together, say=say)
    return reckon(checked, probes, here)


def reckon(checked: CheckedStudy, probes: Sequence[Probe], here: int) -> Plan:
    """The plan of a study whose trials cost what was measured, with `here` groups and other numbers of them."""
    study = checked.study
    wanted = trials_by_chance(study, study.trials_left())
    costs = [costs_of(probes, values) for values in wanted]
    timings = [seconds_of(study, checked, values, cost) for values, cost in zip(wanted, costs, strict=True)]
    begins = [cost.begin for cost in costs]
    counts = sorted({*(count for count in GROUPS if count <= max(here, len(wanted))), here})
    schedules, stopped = [], list[float]()
    for groups in counts:
        sweeps = [_search(study, wanted, timings, begins, groups, seed) for seed in range(SIMULATIONS)]
        schedules.append(_schedule(study, checked, sweeps, timings, fmean(each.item for each in costs), groups))
        stopped += [sweep.stopped for sweep in sweeps] if groups == here else []
    whole = fmean(timing[-1] for timing in timings)
    trained = fmean(
        seconds_of(study, checked, values, cost, evaluating=False)[-1]
        for values, cost in zip(wanted, costs, strict=True)
    )
    plan = Plan(
        study=study.name,
        trials=len(wanted),
        stopped=fmean(stopped),
        trial=whole,
        evaluating=1 - trained / whole,
        here=here,
        schedules=schedules,
        disk=checked.disk_needs(running=here).most,
        resolution=resolution(checked.task, study.objective.metric),
        advice=[],
    )
    plan.advice.extend(advice_on(plan, study, max((cost.memory or 0.0 for cost in costs), default=0.0)))
    return plan


def seconds_of(
    study: StudyConfig, checked: CheckedStudy, values: dict[str, Any], costs: Costs, *, evaluating: bool = True
) -> list[float]:
    """The seconds from a trial's start to each of its reports, if it runs to its end: an evaluation, or a fold."""
    config = study.train_config(values)
    workers = study.resources.workers
    examples = config.optim.examples_per_step(workers)
    seconds, reports = costs.begin, list[float]()
    for fold in checked.task.folds():
        steps = max(1, round(config.train.epochs * math.ceil(len(fold.train) / examples)))
        a_step = costs.step + costs.example * len(fold.train) * config.train.epochs / steps / workers
        a_look = fold.dev.items * costs.item / workers + costs.checkpoint if evaluating else 0.0
        done = 0
        for step in evaluation_steps(steps, config.train.eval_percent):
            seconds += (step - done) * a_step + a_look
            done = step
            reports.append(seconds)
        if study.data.folds:
            reports = [*reports[: fold.fold], seconds]
            seconds += costs.begin
    return reports


@dataclass(frozen=True)
class _Search:
    seconds: float
    busy: float
    stopped: int


class _Random:
    """Trials of a study in their order, whose quality is chance, and its scheduler."""

    def __init__(self, study: StudyConfig, wanted: Sequence[dict[str, Any]]) -> None:
        config = study.scheduler
        if config.name == "pbt":  # which stops nothing
            config = SchedulerConfig(name="none")
        space, search = study.space, study.search
        self._scheduler = Scheduled(
            make_scheduler(config, metric="objective", mode="max", space=space, search=search, folds=study.data.folds)
        )
        self._wanted, self._begun = wanted, list[SimulatedTrial]()

    @property
    def stopped(self) -> int:
        """Trials that did not come to their ends."""
        return sum(trial.percent < END for trial in self._begun)

    def next(self) -> SimulatedTrial | None:
        promotion = self._scheduler.promotion
        if promotion is not None and (promoted := promotion.promote()) is not None:
            return self._begun[promoted]
        if len(self._begun) == len(self._wanted):
            return None
        trial = SimulatedTrial(len(self._begun), self._wanted[len(self._begun)])
        self._begun.append(trial)
        self._scheduler.add(trial)
        return trial

    def goes_on(self, trial: SimulatedTrial) -> bool:
        return self._scheduler.goes_on(trial)

    def ended(self, trial: SimulatedTrial) -> None:
        self._scheduler.close(trial)


def _search(
    study: StudyConfig,
    wanted: Sequence[dict[str, Any]],
    timings: Sequence[list[float]],
    begins: Sequence[float],
    groups: int,
    seed: int,
) -> _Search:
    random = np.random.default_rng([seed, groups])
    method = _Random(study, wanted)

    def curve_of(trial: SimulatedTrial) -> Curve:
        seconds = timings[trial.number]
        percents = [round(END * (place + 1) / len(seconds)) for place in range(len(seconds))]
        values = random.normal() + NOISE * random.standard_normal(len(seconds))
        return Curve(percents, seconds, values.tolist(), again=begins[trial.number])

    *_, last = simulate(method, curve_of, workers=groups)
    return _Search(last.now, last.spent, method.stopped)


def _schedule(
    study: StudyConfig,
    checked: CheckedStudy,
    sweeps: Sequence[_Search],
    timings: Sequence[list[float]],
    item: float,
    groups: int,
) -> Schedule:
    whole, resources, task = fmean(timing[-1] for timing in timings), study.resources, checked.task
    runs = [] if study.confirm is None else _runs_of(study.confirm.top, study.confirm.seeds)
    held_out = task.holdout.items * item if study.confirm else 0.0
    confirm = sum(math.ceil(count / groups) * whole for count in runs)
    confirm += math.ceil(2 * study.confirm.seeds / groups) * held_out if study.confirm else 0.0
    read = 1 + len(study.search.baselines) + (2 * study.confirm.seeds if study.confirm else 0)
    test = math.ceil(read / groups) * task.read(study.data.test).items * item if study.data.test else 0.0
    after = confirm + test + STARTING + ENDING
    found = np.array([sweep.seconds for sweep in sweeps]) + after
    held = groups * resources.workers * float(np.median(found)) / 3600
    return Schedule(
        groups=groups,
        seconds=float(np.median(found)),
        low=float(np.quantile(found, 0.05)),
        high=float(np.quantile(found, 0.95)),
        search=median(sweep.seconds for sweep in sweeps),
        confirm=confirm,
        test=test,
        busy=fmean(sweep.busy for sweep in sweeps) + sum(runs) * whole,
        gpu_hours=held * resources.gpus_per_worker,
        cpu_hours=held * resources.cpus_per_worker,
    )


def _runs_of(top: int, seeds: int) -> list[int]:
    """The runs that confirm a winner: so many at a time."""
    return [*(each.candidates * each.runs for each in rounds(top)), 2 * seeds]


def advice_on(plan: Plan, study: StudyConfig, memory: float) -> Iterator[str]:
    """What could be had for less, in words.

    Args:
        plan: What was reckoned.
        study: Of it.
        memory: The part of a GPU's memory that a trial uses.
    """
    schedule = plan.schedule
    if plan.evaluating > 0.3:
        yield (
            f"{plan.evaluating:.0%} of a trial are evaluations: lower `data.max_dev_examples`, or raise "
            f"`train.eval_percent`"
        )
    limit = study.budget.wall_time
    if limit is not None and schedule.seconds > limit:
        share = max(0.0, limit - (schedule.seconds - schedule.search)) / schedule.search
        yield f"`budget.wall_time` ends the search after about {int(share * plan.trials)} of {plan.trials} trials"
    if schedule.groups > plan.trials:
        yield f"{schedule.groups} groups fit, and there are {plan.trials} trials: give a trial more CPUs or workers"
    startup = study.search.startup_trials
    learns = study.search.algorithm in ("tpe", "gp", "cmaes") and not study.search.warm_start
    if learns and plan.trials < 2 * startup:
        yield (
            f"{startup} of {plan.trials} trials are random before `{study.search.algorithm}` learns anything: more "
            f"trials, or a lower `search.startup_trials`"
        )
    if 0 < memory < 0.3 and study.resources.gpus_per_worker == 1:
        yield (
            f"a trial uses {memory:.0%} of a GPU's memory: `optim.batch_size: auto` with `effective_batch_size`, or "
            f"several trials a GPU with `resources.gpus_per_worker: {_fraction(memory)}`"
        )
    if study.confirm is None:
        yield "nothing confirms the winner: with `confirm: {}` the best is trained again with other seeds"


def _fraction(memory: float) -> float:
    """The smallest usual part of a GPU that holds a trial with some room."""
    return next(part for part in (0.125, 0.25, 0.5) if part > 1.3 * memory)
