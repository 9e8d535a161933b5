"""Which trainer worker groups run on: Ray's private parts decide, not its version."""

from __future__ import annotations

import logging

import pytest

from tuning.cluster.ray_cluster import set_environment

set_environment()

from tuning.workers import group_trainer, in_process_trainer  # noqa: E402  (Ray reads its settings when it is imported)


@pytest.fixture(autouse=True)
def _chosen_anew() -> None:
    group_trainer.trainer_class.cache_clear()


def test_the_ray_that_is_installed_has_the_fast_one(caplog: pytest.LogCaptureFixture) -> None:
    assert group_trainer.trainer_class() is in_process_trainer.InProcessTorchTrainer
    assert not caplog.records


def takes_other_arguments(self: object, scaling_config: object) -> None:
    pass


@pytest.mark.parametrize(
    ("owner", "name", "part", "line"),
    [
        ("WorkerGroup", "_create_placement_group", None, "WorkerGroup lacks _create_placement_group)"),
        ("WorkerGroup", "_create_placement_group", takes_other_arguments, "takes ['self', 'scaling_config'], not "),
        ("WorkerGroup", "__init__", takes_other_arguments, "WorkerGroup lacks _train_run_context; "),
        ("TrainController", "worker_group_cls", None, "TrainController lacks worker_group_cls)"),
        ("RayTrainWorker", "init_train_context", takes_other_arguments, "RayTrainWorker lacks train_run_context; "),
    ],
)
def test_with_another_ray_it_is_the_stock_one_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: str,
    name: str,
    part: object,
    line: str,
) -> None:
    theirs = getattr(in_process_trainer, owner)
    if part is None:
        monkeypatch.delattr(theirs, name)
    else:
        monkeypatch.setattr(theirs, name, part)
    for _ in range(2):
        assert group_trainer.trainer_class() is group_trainer.StockTorchTrainer
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert line in caplog.text


def test_ray_train_starts_no_workers_again_by_itself() -> None:
    """Not even those of a node that was about to leave, which it does without end unless it is told."""
    told = {name: value for name, value in vars(group_trainer.no_retries()).items() if "failures" in name}
    assert set(told.values()) == {0} and "max_failures" in told
