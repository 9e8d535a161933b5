"""ASHA on groups of two workers with room for two: no group idles while trials wait, and nothing is left at the end."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tuning.cluster.ray_cluster import ray_cluster, set_environment

set_environment()

from kobert_core.config import Objective  # noqa: E402
from kobert_core.tasks import task_class  # noqa: E402
from kobert_core.training import train  # noqa: E402
from search_spaces.distributions import Space  # noqa: E402
from tests.fixtures.commands import ROOT  # noqa: E402
from tests.fixtures.nodes import Nodes, ray_nodes  # noqa: E402
from tests.integration.test_worker_group import process, report_at  # noqa: E402
from tuning.search.optuna_study import open_optuna_study  # noqa: E402
from tuning.search.schedulers import make_scheduler  # noqa: E402
from tuning.search.searcher import OptunaSearcher  # noqa: E402
from tuning.study import ResourcesConfig, SchedulerConfig, SearchConfig, load_study  # noqa: E402
from tuning.workers.broker import packed  # noqa: E402
from tuning.workers.trial import make_tuner  # noqa: E402
from tuning.workers.worker_groups import WorkerGroups  # noqa: E402  (Ray reads its settings when it is imported)

pytestmark = pytest.mark.slow
OBJECTIVE, SEARCH = Objective(metric="eval/accuracy", mode="max"), SearchConfig()
QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
PAIRS = ResourcesConfig(workers=2)
TRIALS = 16


def climb(runtime: Any, *, trial: int, values: dict[str, Any], times: str) -> None:
    """Two workers that climb at the speed of their learning rate, and write down when they were busy."""
    begin, percent = time.time(), 0
    while percent < 100:
        percent += 10
        time.sleep(0.15)
        runtime.report(report_at(percent, **{"eval/accuracy": values["optim.backbone_lr"] * percent}))
        if runtime.should_stop():
            break
    line = {"process": os.getpid(), "trial": trial, "begin": begin, "end": time.time(), "percent": percent}
    (Path(times) / f"{trial}-{runtime.rank}.json").write_text(json.dumps(line))


def train_for_long(runtime: Any) -> list[int]:
    """Two hundred epochs of the quickstart, evaluated twice: the steps that each rank did."""
    study = load_study(QUICKSTART, ["train.epochs=200", "train.eval_percent=50"])
    config = study.train_config(study.example_values())
    steps = 0

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(runtime, name)

        def should_stop(self) -> bool:
            nonlocal steps
            steps += 1
            if steps == 30:  # an epoch has 23
                runtime.report(report_at(0))
            return bool(runtime.should_stop())

    train(config, task_class(config.task)(config, cache=None), Counting())
    return list(runtime.all_gather(steps))


def left_over(nodes: Nodes) -> list[Any]:
    """What Ray still holds of a driver that has gone: actors, placement groups and processes of workers."""
    from ray.util.state import list_actors, list_placement_groups

    of_the_cluster = "_AutoscalingCoordinatorActor"  # Ray Train's, one for all drivers; it holds no resources

    def found() -> list[Any]:
        alive = [it for it in list_actors(nodes.jobs) if it.state != "DEAD" and it.class_name != of_the_cluster]
        placed = [group for group in list_placement_groups(nodes.jobs) if group.state != "REMOVED"]
        named = [it.name() for it in psutil.process_iter() if "TrainWorker" in it.name() or "Broker" in it.name()]
        return [*alive, *placed, *named]

    deadline = time.monotonic() + 10
    while found() and time.monotonic() < deadline:
        time.sleep(0.5)
    return found()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A Ray with room for four workers, however few cores the machine has; the dashboard serves Ray's state API."""
    with ray_nodes(tmp_path_factory.mktemp("nodes"), head_cpus=4, dashboard=True) as nodes:
        yield nodes


def test_no_group_idles_while_trials_wait_and_nothing_is_left(nodes: Nodes, tmp_path: Path) -> None:
    space = Space.from_dict({"optim.backbone_lr": {"min": 0.0, "max": 1.0}})
    (tmp_path / "times").mkdir()
    with ray_cluster(nodes.address):
        study = open_optuna_study(tmp_path, name="pairs", objective=OBJECTIVE, search=SEARCH, resume=False)
        config = SchedulerConfig(grace_percent=10, reduction_factor=2)
        groups = WorkerGroups(2, PAIRS, storage=tmp_path)
        groups.wait_until_ready()
        make_tuner(
            groups,
            climb,
            {"times": str(tmp_path / "times")},
            metric=OBJECTIVE.metric,
            configs=OptunaSearcher(study, space, SEARCH, OBJECTIVE),
            scheduler=make_scheduler(config, metric="objective", mode="max", space=space, search=SEARCH),
            trials=TRIALS,
            storage=tmp_path,
            callbacks=[],
        ).fit()
        groups.close()
    lines = sorted((json.loads(file.read_text()) for file in tmp_path.glob("times/*")), key=lambda line: line["begin"])
    assert len(lines) == 2 * TRIALS
    assert 3 <= len({line["trial"] for line in lines if line["percent"] < 100}) < TRIALS, "ASHA stopped some"
    workers: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        workers.setdefault(line["process"], []).append(line)
    assert len(workers) == 4, "two groups of two served all trials"
    idle = [later["begin"] - line["end"] for own in workers.values() for line, later in itertools.pairwise(own)]
    assert max(idle) < 1, idle
    assert not left_over(nodes)


def test_a_trial_that_is_stopped_in_mid_epoch_frees_its_group_at_once(nodes: Nodes, tmp_path: Path) -> None:
    import ray

    with ray_cluster(nodes.address):
        groups = WorkerGroups(1, PAIRS, storage=tmp_path)
        groups.wait_until_ready()
        number = ray.get(groups.broker.submit.remote(packed(train_for_long)))
        kind, _ = ray.get(groups.broker.take.remote(number))
        assert kind == "report"
        rest = groups.broker.take.remote(number)  # go on
        time.sleep(1)
        begin = time.monotonic()
        ray.get(groups.broker.stop.remote(number))
        kind, steps = ray.get(rest)
        assert groups.run(process) > 0
        assert time.monotonic() - begin < 2
        groups.close()
    assert kind == "value"
    assert steps[0] == steps[1], "both workers left at the same step"
    assert 30 < steps[0] < 200 * 23 / 2, "it had not come to its first evaluation"
    assert not left_over(nodes)
