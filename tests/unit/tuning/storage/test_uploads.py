"""A run's checkpoints land in an object store while it trains, and a run goes on elsewhere from what has landed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

from kobert_core.checkpoint import checkpoint_folder, newest_checkpoint
from kobert_core.errors import InputError
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import task_class
from kobert_core.training import train
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.object_store import BUCKET, S3Server, faulty_proxy
from tests.fixtures.tiny import tiny_config
from tuning.storage import uploads as module
from tuning.storage.inputs import Inputs, put_input
from tuning.storage.node import StoredSweep
from tuning.storage.store import Store
from tuning.storage.uploads import MAX_ON_THE_WAY, Uploads


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(f"file://{tmp_path}/store")


def written(folder: Path, step: int) -> Path:
    save_checkpoint(checkpoint_folder(folder, step), nn.Linear(4, 3), {"step": step})
    return checkpoint_folder(folder, step)


def test_checkpoints_land_in_order_and_old_ones_go(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("so far")
    uploads = Uploads(store, tmp_path / "checkpoints", tmp_path / "outbox", beside=[log])
    for step in (5, 7, 9):
        uploads.add(written(tmp_path / "checkpoints", step))
    uploads.keep(tmp_path / "checkpoints", {"update-00000009", "update-00000005"})
    uploads.flush()
    assert uploads.newest == "update-00000009"
    assert store.folders("checkpoints") == ["checkpoints/update-00000005", "checkpoints/update-00000009"]
    assert store.get("log.txt") == b"so far"
    assert not list((tmp_path / "outbox").iterdir())
    uploads.close()


def test_a_life_that_was_given_up_removes_nothing_newer(store: Store, tmp_path: Path) -> None:
    later = Uploads(store, tmp_path / "checkpoints", tmp_path / "later")
    later.add(written(tmp_path / "checkpoints", 9))
    later.close()
    earlier = Uploads(store, tmp_path / "checkpoints", tmp_path / "earlier")
    earlier.add(written(tmp_path / "checkpoints", 5))
    earlier.keep(tmp_path / "checkpoints", {"update-00000005"})
    earlier.close()
    assert store.names("checkpoints") == ["update-00000005", "update-00000009"]


def test_a_run_may_remove_what_is_still_on_its_way(store: Store, tmp_path: Path) -> None:
    uploads = Uploads(store, tmp_path / "checkpoints", tmp_path / "outbox")
    go_on = threading.Event()
    uploads._asked.put(go_on.wait)  # the store is slow
    folder = written(tmp_path / "checkpoints", 5)
    uploads.add(folder)
    for file in folder.iterdir():
        file.unlink()
    go_on.set()
    uploads.close()
    assert store.download_folder("checkpoints/update-00000005", tmp_path / "back" / "update-00000005")
    assert newest_checkpoint(tmp_path / "back") is not None


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


def test_while_the_store_is_away_training_waits_for_its_queue_alone(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_TRIES", 0.1)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SIGNS", 0.1)
    with faulty_proxy(s3.port) as proxy:
        s3.use(monkeypatch, proxy.url)
        store = Store.at(f"s3://{BUCKET}/{tmp_path.name}", patience=0.5)
        proxy.always = "reset"
        signs: list[float] = []
        uploads = Uploads(
            store, tmp_path / "checkpoints", tmp_path / "outbox", alive=lambda: signs.append(time.monotonic())
        )
        folders = [written(tmp_path / "checkpoints", step) for step in range(1, MAX_ON_THE_WAY + 2)]
        for folder in folders[:-1]:
            uploads.add(folder)
        assert not signs, "up to here there is room"
        last = threading.Thread(target=uploads.add, args=(folders[-1],))
        last.start()
        last.join(1)
        assert last.is_alive() and len(signs) > 3, "the run waits, and says that it is alive"
        assert uploads.newest is None
        proxy.always = None
        last.join(30)
        uploads.close()
        assert store.names("checkpoints") == [folder.name for folder in folders]


def test_what_the_store_refuses_ends_the_run_in_one_line(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.use(monkeypatch)
    uploads = Uploads(Store.at("s3://no-such-bucket/sweep", patience=1), tmp_path / "checkpoints", tmp_path / "outbox")
    uploads.add(written(tmp_path / "checkpoints", 1))
    with pytest.raises(InputError, match="no such bucket"):
        uploads.flush()
    with pytest.raises(InputError, match="no such bucket"):
        uploads.add(written(tmp_path / "checkpoints", 2))


@dataclass(kw_only=True)
class Killed(LocalRuntime):
    """Dies at a step, with nothing but what has landed by then."""

    at: int = 10**9
    reports: dict[int, Report] = field(default_factory=dict)
    steps: int = 0

    def report(self, report: Report) -> bool:
        self.reports[report.step] = report
        return True

    def should_stop(self) -> bool:
        self.steps += 1
        if self.steps == self.at:
            raise KeyboardInterrupt
        return False


@pytest.mark.parametrize("at", [4, 10])
def test_a_run_goes_on_elsewhere_from_what_has_landed(
    store: Store, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Its reports are those of a run that nobody disturbed, bit for bit, and so are its last weights."""
    config = tiny_config(train={"eval_percent": 25, "checkpoint_interval": 1e-6})

    def run(runtime: LocalRuntime) -> nn.Module:
        return train(config, task_class(config.task)(config, cache=cache), runtime)

    alone = Killed(device=torch.device("cpu"), checkpoints=tmp_path / "alone")
    undisturbed = run(alone)
    folder = tmp_path / "first" / "checkpoints"
    uploads = Uploads(store / "trials/0000", folder, tmp_path / "outbox")
    first = Killed(device=alone.device, checkpoints=folder, copies=uploads, at=at)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    uploads.flush()
    monkeypatch.setattr("tuning.storage.node.node_folder", lambda: tmp_path / "node")
    study = tmp_path / "study.yaml"
    study.write_text("")
    sweep = StoredSweep(store, "/driver", put_input(store / "inputs", study), Inputs(store / "inputs", {}, {}))
    landed = sweep.landed("trials/0000/checkpoints")
    assert landed and len(landed) <= 3
    sweep.restore("trials/0000/checkpoints", landed)
    here = sweep.folder_here / "trials/0000/checkpoints"
    assert sorted(each.name for each in here.iterdir()) == landed
    second = Killed(
        device=alone.device,
        checkpoints=here,
        resume=True,
        copies=Uploads(store / "trials/0000", here, tmp_path / "outbox", landed=landed),
    )
    weights = run(second).state_dict()
    assert second.steps < alone.steps
    for step, report in alone.reports.items():
        for told in [each.reports[step] for each in (first, second) if step in each.reports]:
            assert {n: v for n, v in told.metrics.items() if "per_second" not in n} == {
                n: v for n, v in report.metrics.items() if "per_second" not in n
            }
            assert told.is_best == report.is_best
    assert first.reports.keys() | second.reports.keys() == alone.reports.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in undisturbed.state_dict().items())
