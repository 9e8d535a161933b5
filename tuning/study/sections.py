"""The sections of a study file that say how to search, rather than what to train."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    ByteSize,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from kobert_core.config import Duration, FrozenConfig, PositiveInt
from tuning.study.searchers import SEARCHERS
from tuning.tracking.uris import address_problem, redact_uri


def without_secret(value: str) -> str:
    """An address without a secret: a study file is copied into sweeps and MLflow."""
    alone = re.sub(r"^(?!http)([\w+]+://)[^/@:]+@(?=[^@]*$)", r"\1", value)  # a database's user is no secret
    if redact_uri(alone) != alone:
        raise ValueError("a password or token does not belong into a study file: give it by the environment")
    return value


def usable_store(value: str) -> str:
    """The address of a kind of store that MLflow has."""
    if problem := address_problem(value):
        raise ValueError("; ".join(problem))
    return value


def printable(value: str) -> str:
    """A text of one line, without control characters."""
    if not value.isprintable():
        raise ValueError(f"a name has printable characters only, but got {value!r}")
    return value


def or_of_a_package(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """One of the searchers here, or one that another package adds."""
    try:
        return check(value)
    except ValidationError:
        if isinstance(value, str) and value in SEARCHERS:
            SEARCHERS[value]  # it must be usable
            return value
        raise


Address = Annotated[str, Field(min_length=1), AfterValidator(without_secret)]
Bytes = Annotated[ByteSize, Field(gt=0)]
Hours = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SearchConfig(FrozenConfig):
    """How values are chosen."""

    algorithm: Annotated[
        Literal["tpe", "gp", "random", "grid", "cmaes"], WrapValidator(or_of_a_package), PlainSerializer(str)
    ] = "tpe"
    """Optuna's sampler (`gp`: a Gaussian process); or that of another package, by its name there."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the sampler."""
    startup_trials: PositiveInt = 10
    """Random trials before `tpe`, `gp` or `cmaes` begins to learn from results; trials of `warm_start` count."""
    points: tuple[dict[str, object], ...] = ()
    """Trials given in advance, which run first; values that one leaves out are chosen by the search."""
    baselines: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """Numbers of the trials that the others are compared with: trial 0, and points given in advance. They are never
    stopped early (in a population: never go on from another's weights), keep their checkpoint, and are scored on the
    test file beside the winner."""
    warm_start: tuple[Address, ...] = ()
    """Earlier sweeps with the same objective, by their folders, their addresses in an object store, or the experiment
    that has them in this study's MLflow, `experiments:/NAME`: what their trials came to, as far as their values are in
    this space, tells `tpe` or `gp` where to begin."""
    storage: Address | None = None
    """Optuna storage URL; a journal file in the sweep's folder when not given. A password goes into the environment
    (PostgreSQL's: `PGPASSWORD`)."""

    @model_validator(mode="after")
    def _a_grid_needs_no_points(self) -> SearchConfig:
        if self.algorithm == "grid" and self.points:
            raise ValueError("a grid search tries every point: leave out `points`")
        return self

    @model_validator(mode="after")
    def _baselines_are_given(self) -> SearchConfig:
        for number in self.baselines:
            if number >= max(1, len(self.points)):
                raise ValueError(
                    f"a baseline is trial 0 or one of the `points`, by its number, but got {number} "
                    f"with {len(self.points)} point(s)"
                )
        return self


class SchedulerConfig(FrozenConfig):
    """When a trial is stopped early, or pauses."""

    name: Literal["asha", "promotion", "hyperband", "median", "pbt", "none"] = "asha"
    """`asha`; `promotion` (as `asha`, but a trial pauses at each rung, and goes on once it is among the best of those
    that came there); `hyperband` (asynchronous, in three brackets, each with a later first rung); `median`; `pbt`
    (population based training: it stops no trial, and takes the place of the search)."""
    grace_percent: Annotated[int, Field(ge=1, le=100)] = 10
    """No trial is stopped before this percentage of its own steps; of whole folds, with `data.folds`."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """One of this many trials continues at each rung, and each rung is as many times the one before."""
    interval_percent: Annotated[int, Field(ge=1, le=100)] = 20
    """With `pbt`, the percentage of its own steps after which a trial is compared with the others: one of the worst
    quarter continues from the weights of one of the best, with values near to its."""


class ConcurrencyConfig(FrozenConfig):
    """How many trials run at once, in a cluster that grows and shrinks."""

    max: PositiveInt
    """No more than so many."""


class ResourcesConfig(FrozenConfig):
    """What a trial runs on, and how many run at once."""

    workers: PositiveInt = 1
    """Workers of one trial; they share each of its steps."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores, and so threads, of one worker."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=1)] = 0
    """1 for a GPU of its own; a fraction to share one, and to have that part of its memory."""
    concurrent: PositiveInt | Literal["auto"] | ConcurrencyConfig = "auto"
    """Trials at once; `auto`: as many as the CPUs and GPUs of the cluster allow, also when machines join or leave it; a
    number: no more than so many; `{max: 32}`: no more than so many, and where there is no room for one yet, the sweep
    waits for machines to join."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a trial goes on from its newest checkpoint after its workers were lost (a machine that is gone, a
    process that was killed, a worker that hangs), or found too little memory or disk space. Any other error, such as a
    loss that is NaN, would come again: it fails the trial at once."""
    timeout: Duration = 1800
    """A worker that has not ended a step or reported for so long (such as `30m`) hangs, and is replaced."""

    @property
    def most_at_once(self) -> int | None:
        """The trials that may run at once; None without a bound."""
        if isinstance(self.concurrent, ConcurrencyConfig):
            return self.concurrent.max
        return None if self.concurrent == "auto" else self.concurrent

    @property
    def waits_for_machines(self) -> bool:
        """Whether a sweep waits where there is no room for a trial, although no autoscaler is known."""
        return isinstance(self.concurrent, ConcurrencyConfig)

    @model_validator(mode="after")
    def _workers_do_not_share(self) -> ResourcesConfig:
        if self.workers > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"a part of a GPU (`gpus_per_worker: {self.gpus_per_worker}`) needs `workers: 1`, "
                f"but got {self.workers}"
            )
        return self


class BudgetConfig(FrozenConfig):
    """When a sweep ends; the first limit that is reached counts."""

    trials: PositiveInt = 20
    """Number of trials; by default 20, or all points of a grid."""
    patience: PositiveInt | None = None
    """The search ends when so many trials in a row have ended without a better one than those before, by their numbers;
    trials that have begun come to their end."""
    failed_trials: Annotated[int, Field(ge=0)] | None = None
    """The sweep stops when more trials than this have failed since it was started or resumed."""
    disk: Bytes | None = None
    """Such as `20GB`: the checkpoints of the sweep take no more. To stay below it, trials that ended give theirs up,
    the worst first."""
    wall_time: Duration | None = None
    """Such as `2h`, `1h30m`, or a number of seconds."""
    gpu_hours: Hours | None = None
    """GPUs in use times hours."""
    cpu_hours: Hours | None = None
    """CPU cores in use times hours."""


class ConfirmConfig(FrozenConfig):
    """How the best trial is confirmed: its values, and those of the baseline, are trained again with other seeds, and
    compared on a part of the dev split that no trial was chosen by (`data.holdout_fraction`)."""

    top: PositiveInt = 3
    """So many of the best trials are candidates; a few more runs choose one of them."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """Runs of the candidate, and of the baseline, that they are compared by."""
    tie: Literal["baseline", "cheapest", "best_mean"] = "baseline"
    """What wins when they cannot be told apart: the baseline, the one whose runs took less time, or the one with the
    better mean."""


class TrackingConfig(FrozenConfig):
    """Where MLflow keeps the runs."""

    uri: Annotated[Address, AfterValidator(usable_store)] | None = None
    """Tracking server or store; else `MLFLOW_TRACKING_URI`, else a database in the output folder. A password goes
    into the environment (`MLFLOW_TRACKING_PASSWORD`)."""
    experiment: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)] | None = None
    """Name of the MLflow experiment; the study's name when not given."""
    backends: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Other trackers that get the same beside MLflow, into the sweep's folder: `pip install kobert-tuning[tensorboard]`
    or `[wandb]`."""
    callbacks: tuple[Annotated[str, Field(pattern=r"^[\w.]+:\w+$")], ...] = ()
    """Functions or classes of yours that hear of each evaluation, as `module:name`; see docs/python.md."""
    system_metrics: bool = False
    """Whether the sweep's run has MLflow's system metrics, of the machine that drives the sweep (CPU, memory, disk,
    network; GPUs where `nvidia-ml-py` is installed)."""
