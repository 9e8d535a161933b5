"""A trial as Ray Tune sees it, and a run of many of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ray
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.search import ConcurrencyLimiter

from tuning.sweep_dir.layout import CHECKPOINTS, MAX_PBT_CHECKPOINTS, PBT_CHECKPOINTS, trial_folder
from tuning.workers.broker import packed
from tuning.workers.failures import TrialFailed, TrialRefused, in_one_line

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

    from tuning.workers.broker import Function, ReportContent
    from tuning.workers.results import TrialConfig, TrialResult
    from tuning.workers.worker_groups import WorkerGroups
    from tuning.workers.worker_pool import WorkerPool


class Trial(tune.Trainable):
    """A trial as Ray Tune sees it: it leases a worker group and passes on the group's reports.

    Tune's actor holds no resources and no model, so that it can be reused, killed or restarted at no cost.
    """

    def setup(self, config: dict[str, object], **shared: Any) -> None:
        """`shared`: the `broker`, the `metric` to compare by, the `function` of a trial, its `fixed` arguments, and
        `max_failures`: how often in a row, without a report between, it continues after its workers were lost, or ran
        out of memory or disk space."""
        self._shared, self._lease = shared, None
        self._begin()

    def reset_config(self, new_config: dict[str, object]) -> bool:
        """Reuse the actor for the next trial."""
        self._end()
        self._begin()
        return True

    def _begin(self) -> None:
        self._failures, self._heard = 0, -1
        self._report: ReportContent | None = None
        self._adopt: str | None = None

    def step(self) -> dict[str, object]:
        """The next report of the trial, as a result of Ray Tune."""
        if self._shared["take_turns"] and ray.get(self._shared["broker"].is_awaited.remote()):
            self._end()
        content = self._next_report()
        while content["progress"] <= self._heard:  # a resumed run repeats its last report
            content = self._next_report()
        self._heard, self._report, self._adopt, self._failures = content["progress"], content, None, 0
        result: TrialResult = {
            "objective": content["metrics"][self._shared["metric"]],
            "progress": content["progress"],
            "report": content,
            "done": content["progress"] == 100,
        }
        return dict(result)

    def _next_report(self) -> ReportContent:
        broker = self._shared["broker"]
        while True:
            if self._lease is None:  # not in `reset_config`: Tune resets an actor before it restores a checkpoint
                arguments = self._shared["fixed"] | {"trial": self.config["trial"], "values": self.config["values"]}
                arguments |= {"adopt": self._adopt} if self._adopt else {}
                task = packed(self._shared["function"], **arguments)
                self._lease = ray.get(broker.submit.remote(task, self.config["trial"]))
            kind, content = ray.get(broker.take.remote(self._lease))
            if kind == "report":
                return cast("ReportContent", content)
            if kind == "input":
                raise TrialRefused(content)
            if kind == "error":
                raise TrialFailed(content)
            if kind == "value":
                raise RuntimeError("the trial was stopped before its end")
            self._lease = None
            if kind == "moved":
                continue
            self._failures += 1
            if self._failures > self._shared["max_failures"]:
                lost = f"the trial's workers were lost (failure {self._failures}): {in_one_line(content)}"
                raise TrialFailed(lost if kind == "lost" else content)

    def cleanup(self) -> None:
        """The trial is over, however it ended."""
        self._end()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, object]:
        """Keep the checkpoint of the last report for other trials: the worker will remove its own copy."""
        held = None
        if self._shared["take_turns"] and self._report is not None:
            from kobert_core.checkpoint import link_checkpoint

            assert self._report["checkpoint"] is not None
            checkpoint = Path(self._report["checkpoint"])
            if stored := self._shared["fixed"].get("sweep"):
                run = stored.key_of(trial_folder(Path(self._shared["fixed"]["folder"]), self.config["trial"]))
                held = stored.donate(
                    f"{run}/{CHECKPOINTS}/{checkpoint.name}", f"{run}/{PBT_CHECKPOINTS}", most=MAX_PBT_CHECKPOINTS
                )
            else:
                donations = checkpoint.parents[1] / PBT_CHECKPOINTS
                before = sorted(int(folder.name) for folder in donations.glob("*"))
                # By number, not by step: a trial that went back to another's weights comes to the same step again.
                held = donations / str(before[-1] + 1 if before else 0) / checkpoint.name
                link_checkpoint(checkpoint, held)
                for number in before[: 1 - MAX_PBT_CHECKPOINTS]:
                    shutil.rmtree(donations / str(number))
        return {"trial": self.config["trial"], "heard": self._heard, "checkpoint": str(held) if held else None}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Continue from the newest whole checkpoint of the trial, or adopt that of another one."""
        assert checkpoint is not None, "as `save_checkpoint` gave it"
        if checkpoint["trial"] == self.config["trial"]:
            self._heard = checkpoint["heard"]
        else:
            self._heard, self._adopt = -1, checkpoint["checkpoint"]

    def _end(self) -> None:
        if self._lease is not None:
            ray.get(self._shared["broker"].stop.remote(self._lease))
            self._lease = None


def make_tuner(
    groups: WorkerGroups | WorkerPool,
    function: Function,
    fixed: dict[str, object],
    *,
    metric: str,
    configs: Searcher | list[TrialConfig],
    scheduler: TrialScheduler,
    trials: int,
    storage: Path,
    callbacks: list[tune.Callback],
    stop: tune.Stopper | None = None,
    max_failures: int = 0,
    name: str = "tune",
) -> tune.Tuner:
    """A Ray Tune run of so many trials on worker groups.

    Args:
        groups: They do the work, as many trials at once as there are groups.
        function: Runs on the workers as `function(runtime, trial=…, values=…, **fixed)` and reports.
        fixed: Its arguments that are the same for all trials.
        metric: The name, in a report, of what trials are compared by.
        configs: Of the trials: a searcher that gives one when a group is free (a `ConcurrencyLimiter` knows itself how
            many run at once), or a list. With a list all trials begin at once and share the groups: a trial gives up
            its group after a report when another one waits.
        scheduler: Stops trials; its metric is `objective`, its clock `progress`.
        trials: How many.
        storage: Folder for Tune's own files.
        callbacks: Of Ray Tune.
        stop: Decides when to stop all trials.
        max_failures: How often in a row a trial continues from its newest checkpoint after its workers were lost, or
            ran out of memory or disk space, before its next report.
        name: Of the folder in `storage`.
    """
    trainable = tune.with_parameters(
        Trial,
        broker=groups.broker,
        metric=metric,
        function=function,
        fixed=fixed,
        max_failures=max_failures,
        take_turns=isinstance(configs, list),
    )
    # Tune wants resources, but the CPUs and GPUs are the groups': a request of one byte, on the driver's machine.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    beside_us = tune.PlacementGroupFactory([{"CPU": 0, "memory": 1}], bundle_label_selector=[here])
    if isinstance(configs, list):
        space, how = tune.grid_search(configs), tune.TuneConfig(reuse_actors=True, scheduler=scheduler)
    else:
        space, how = (
            None,
            tune.TuneConfig(
                reuse_actors=True,
                scheduler=scheduler,
                num_samples=trials,
                max_concurrent_trials=None if isinstance(configs, ConcurrencyLimiter) else groups.count,
                search_alg=configs,
            ),
        )
    return tune.Tuner(
        tune.with_resources(trainable, beside_us),
        param_space=space,
        tune_config=how,
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(storage),
            storage_filesystem=LocalFileSystem(),  # a path: Ray would take it for an address, and %41 in it for A
            callbacks=callbacks,
            stop=stop,
            verbose=0,
        ),
    )
