"""A real sweep on a card: Ray, Optuna and MLflow through the command line, trial after trial and four at once.

Trials of KoBERT's shape from random weights. Short ones show best what a sweep adds to each; longer ones, which
evaluate and write a checkpoint each tenth of their way, show how long the card idles. When a trial was in `train()` is
read off its folder: just before it the files of its model were written, and the last line of its log is the report at
its end.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from command import Command, tell_ray_logs
from common import ROOT, SEED, TOKENIZER, reviews_file
from gauge import Gauge
from results import Bar, Results
from setting import NSMC_LENGTH, shape

TRIALS, STEPS, BATCH, DEV = 20, 100, 32, 512
LONG_TRIALS, LONG_STEPS, LONG_DEV = 3, 2000, 5000
AT_ONCE = 4
WALL_TIME = 60
"""Seconds after which a sweep begins nothing more: its whole trials count."""
PATIENCE = 20
"""So many seconds more are given to a last trial, and then to the export of the winner and MLflow."""
ADDED, IDLE = Bar(at_most=0.3), Bar(at_most=0.05)


@dataclass(frozen=True)
class Plan:
    """A sweep: how many of its trials share the card, and how large all is."""

    title: str
    at_once: int
    tiny: bool
    gpu: bool
    long: bool = False

    @property
    def name(self) -> str:
        return "long" if self.long else f"at-once-{self.at_once}"

    @property
    def trials(self) -> int:
        return 4 if self.tiny else LONG_TRIALS if self.long else TRIALS

    @property
    def batch(self) -> int:
        return 8 if self.tiny else BATCH

    @property
    def examples(self) -> int:
        """Of one trial."""
        return self.batch * (10 if self.tiny else LONG_STEPS if self.long else STEPS)

    def study(self) -> dict[str, Any]:
        """The study file, as plain values."""
        rates = {"distribution": "log_uniform", "min": 1e-5, "max": 1e-4}
        dev = reviews_file((LONG_DEV if self.long else DEV) // (8 if self.tiny else 1), skip=self.examples)
        return {
            "schema_version": 1,
            "name": self.name,
            "task": "nsmc",
            "data": {
                "train": str(reviews_file(self.examples)),
                "dev": str(dev),
                "max_length": NSMC_LENGTH,
                "max_leak": 1,
            },
            "model": {"backbone": str(TOKENIZER), "init": "random", "config": shape(self.tiny)},
            "optim": {"batch_size": self.batch},
            "train": {"epochs": 1, "eval_percent": 10 if self.long else 100},
            "parameters": {"optim.backbone_lr": rates, "optim.classifier_lr": rates},
            "objective": {"metric": "eval/accuracy", "mode": "max"},
            "search": {"algorithm": "tpe", "seed": SEED},
            "scheduler": {"name": "none"},
            "resources": {
                "workers": 1,
                "cpus_per_worker": 1 if self.tiny else max(1, min(4, len(os.sched_getaffinity(0)) // AT_ONCE)),
                "gpus_per_worker": 1 / self.at_once if self.gpu else 0,
                "concurrent": self.at_once,
            },
            "budget": {"trials": self.trials, "wall_time": self.wall_time},
            "keep_checkpoints": 1,
        }

    @property
    def wall_time(self) -> int:
        return WALL_TIME * (10 if self.tiny else 1)


@dataclass(frozen=True)
class Spell:
    """When a trial was where, in seconds since 1970."""

    began: float
    """Ray Tune had started it."""
    entered: float
    """`train()` began."""
    left: float
    """It reported for the last time."""
    ended: float
    """The sweep had recorded its end."""
    updating: float
    """Seconds of its steps, without its model's start, evaluation and checkpoint."""

    @property
    def training(self) -> float:
        """Seconds inside `train()`."""
        return self.left - self.entered


def sweep(results: Results, tiny: bool) -> None:
    gpu = torch.cuda.is_available()  # asked without making a context on the device
    rates: dict[int, tuple[float, float]] = {}
    at_once = AT_ONCE if gpu else 2
    with tempfile.TemporaryDirectory(prefix="sweeps-", ignore_cleanup_errors=True) as folder:
        plans = [Plan("longer trials", 1, tiny, gpu, long=True), Plan("one at a time", 1, tiny, gpu)]
        for plan in [*plans, Plan(f"{at_once} at once", at_once, tiny, gpu)]:
            with results.check(plan.title):
                rates[plan.at_once] = one_sweep(results, plan, Path(folder))
    if len(rates) == 2:
        ratio, warm = (shared / alone for shared, alone in zip(rates[at_once], rates[1], strict=True))
        note = "all examples of whole trials, from the first one's begin to the last one's end; from the first"
        note += f" train() on {warm:.3g}; each of the {at_once} has its part of the card's memory"
        results.tell(f"{at_once} at once, examples/s against one at a time", ratio, note=note)


def one_sweep(results: Results, plan: Plan, folder: Path) -> tuple[float, float]:
    """Run it and tell what it took, as soon as its trials are over; its examples a second, from the first trial's
    begin, and from the first `train()` on.

    Raises:
        RuntimeError: no trial is whole.
    """
    study, own = folder / f"{plan.name}.yaml", folder / plan.name
    study.write_text(json.dumps(plan.study(), indent=1), encoding="utf-8")  # JSON is YAML
    arguments = [sys.executable, "-m", "tuning", "sweep", str(study), "--name", plan.name, "--output", str(folder)]
    with Gauge() as gauge, Command(arguments, folder=ROOT, environment=environment()) as command:
        if command.wait_for(lambda: bool(records_of(own)), seconds=plan.wall_time):
            waited = records_of(own)[0]["started"] - command.began
            results.tell(f"{plan.title}, from the command to its first trial", waited, unit="s")
        else:
            tell_ray_logs(command.began)
            code, words = command.code, command.last_words
            raise RuntimeError(f"no trial after {command.seconds:.0f} s (exit code {code}): {words}")
        command.wait_for(lambda: are_over(own, plan), seconds=plan.wall_time + PATIENCE - command.seconds)
        rates = tell_sweep(results, plan, own, gauge)
        command.wait_for(lambda: False, seconds=PATIENCE)
        note = "" if command.code == 0 else f"not to its end: exit code {command.code}, {command.last_words}"
        results.tell(f"{plan.title}, the command with export and MLflow", command.seconds, unit="s", note=note)
    return rates


def records_of(own: Path) -> list[dict[str, Any]]:
    """The trials of a sweep's folder, by their numbers; none where there is no ledger yet."""
    try:
        records: list[dict[str, Any]] = json.loads((own / "trials.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return records


def are_over(own: Path, plan: Plan) -> bool:
    """Whether no trial is to come."""
    records = records_of(own)
    return len(records) >= plan.trials and all(record["state"] != "RUNNING" for record in records)


def tell_sweep(results: Results, plan: Plan, own: Path, gauge: Gauge) -> tuple[float, float]:
    """All that its trials say; see `one_sweep`."""
    spells, states = spells_of(own, plan)
    begin, end = min(spell.began for spell in spells), max(spell.ended for spell in spells)
    span, count = end - begin, len(spells)
    rate, warm = (count * plan.examples / (end - first) for first in (begin, min(spell.entered for spell in spells)))
    note = f"{count} trials of {plan.examples} reviews in {span:.1f} s; from the first train() on {warm:,.0f}; {states}"
    results.tell(f"{plan.title}, examples/s of the sweep", rate, unit="examples/s", note=note)
    if plan.at_once == 1:
        tell_added(results, plan, spells, span)
    tell_where(results, plan, spells)
    tell_idle(results, plan, gauge, begin, end)
    return rate, warm


def environment() -> dict[str, str]:
    """Of a sweep that starts a Ray of its own and keeps its runs beside itself."""
    given = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    paths = [str(ROOT), *filter(None, [given.get("PYTHONPATH")])]
    return given | {"PYTHONPATH": os.pathsep.join(paths), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def spells_of(open_sweep_dir: Path, plan: Plan) -> tuple[list[Spell], str]:
    """Those of the whole trials in the order of their ends, and how many trials came to which end.

    Raises:
        RuntimeError: no trial is whole.
    """
    records = records_of(open_sweep_dir)
    whole = [record for record in records if record["state"] == "COMPLETE"]
    reasons = [str(record["reason"]).strip().splitlines()[-1] for record in records if record.get("reason")]
    if not whole:
        raise RuntimeError(f"no trial is whole: {reasons[:1] or [record['state'] for record in records]}")
    states = sorted({record["state"] for record in records})
    counts = [f"{sum(record['state'] == state for record in records)} {state}" for state in states]
    spells = [spell_of(open_sweep_dir, record, plan) for record in whole]
    return sorted(spells, key=lambda spell: spell.ended), ", ".join(counts + reasons[:1])


def spell_of(open_sweep_dir: Path, record: dict[str, Any], plan: Plan) -> Spell:
    folder = open_sweep_dir / "trials" / f"{record['trial']:04d}"
    made = (folder / "model").stat()  # a folder that was written aside and then renamed
    return Spell(
        began=record["started"],
        entered=max(made.st_ctime, made.st_mtime),
        left=(folder / "log.txt").stat().st_mtime,
        ended=record["started"] + record["seconds"],
        updating=plan.examples / record["metrics"]["train/examples_per_second"],  # of the best tenth, in longer trials
    )


def tell_added(results: Results, plan: Plan, spells: list[Spell], span: float) -> None:
    """Time that no trial trained, a trial."""
    trained = sum(spell.training for spell in spells)
    added = (span - trained) / len(spells)
    between = [later.entered - earlier.left for earlier, later in pairwise(spells)]
    usual = statistics.median(between) if between else float("nan")
    note = (
        f"from the first trial's begin to the last one's end {span:.2f} s, of them in train() {trained:.2f}; from one"
    )
    note += f" train() to the next the median is {usual:.3f} s, the most {max(between, default=usual):.3f}; before the"
    note += f" first train(), which imports what it needs, {spells[0].entered - spells[0].began:.2f} s"
    results.tell(
        f"{plan.title}, time added a trial",
        added,
        unit="s",
        bar=None if plan.tiny or plan.long else ADDED,
        note=note,
        between=[round(seconds, 4) for seconds in between],
    )


def tell_where(results: Results, plan: Plan, spells: list[Spell]) -> None:
    """Where the time inside `train()` goes."""
    training = statistics.median(spell.training for spell in spells)
    updating = statistics.median(spell.updating for spell in spells)
    note = f"median; {updating:.2f} s of it steps, the rest the start of the model, evaluations and checkpoints"
    rows = [[round(when - spells[0].began, 3) for when in moments(spell)] for spell in spells]
    results.tell(f"{plan.title}, inside train() a trial", training, unit="s", note=note, moments=rows)


def moments(spell: Spell) -> tuple[float, ...]:
    return spell.began, spell.entered, spell.left, spell.ended


def tell_idle(results: Results, plan: Plan, gauge: Gauge, begin: float, end: float) -> None:
    """The share of the time in which no kernel ran, as the driver counts it."""
    title = f"{plan.title}, share of the time that the device idles"
    samples = [percent for when, percent in gauge.samples if begin <= when <= end]
    if not plan.gpu:
        results.missing(title, "no GPU")
        return
    if len(samples) < 2:
        results.missing(title, f"the driver told too little: {gauge.problem or f'{len(samples)} samples'}")
        return
    idle = 1 - statistics.fmean(samples) / 100
    tenths = statistics.quantiles(samples, n=10)
    zero = sum(percent == 0 for percent in samples) / len(samples)
    note = (
        f"{len(samples)} samples by {gauge.source}, {len(samples) / (end - begin):.0f} a second; busy in percent: mean"
    )
    note += f" {statistics.fmean(samples):.0f}, tenths {' '.join(f'{each:.0f}' for each in tenths)}; {zero:.0%} of the"
    note += " samples are 0"
    results.tell(title, idle, bar=IDLE, note=note)
