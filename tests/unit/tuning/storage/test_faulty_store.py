"""What a node does with a sweep, through a store that fails one request in five."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from kobert_core.checkpoint import newest_checkpoint
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.object_store import BUCKET, FaultyProxy, S3Server, faulty_proxy
from tuning.storage.inputs import Inputs, put_input
from tuning.storage.node import StoredSweep, inputs_here
from tuning.storage.store import Store
from tuning.storage.uploads import Uploads


class OneInFive(dict[int, str]):
    """Every fifth request fails, in turns: the store is busy, breaks off, and answers to nobody."""

    def get(self, number: int, default: Any = None) -> Any:
        return ("503", "reset", "lost")[number // 5 % 3] if number % 5 == 4 else default


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with S3Server() as s3, faulty_proxy(s3.port) as proxy:
        s3.use(monkeypatch, proxy.url)
        proxy.faults = OneInFive()
        yield proxy


def test_nothing_is_lost(proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.storage.node.node_folder", lambda: tmp_path / "node")
    store, train = Store.at(f"s3://{BUCKET}/one"), tmp_path / "train.tsv"
    train.write_text("text\tlabel\n")
    inputs = Inputs(store / ".inputs", {str(train): put_input(store / ".inputs", train)}, {})
    sweep = StoredSweep(store, "/driver", inputs.paths[str(train)], inputs)
    uploads = Uploads(store / "trials/0000", tmp_path / "checkpoints", tmp_path / "outbox")
    for step in range(1, 6):
        folder = tmp_path / "checkpoints" / f"update-{step:08d}"
        save_checkpoint(folder, nn.Linear(2, 2), {"step": step})
        uploads.add(folder)
        uploads.keep(tmp_path / "checkpoints", {folder.name, f"update-{max(1, step - 1):08d}"})
    uploads.close()
    key = "trials/0000/checkpoints"
    landed = sweep.landed(key)
    assert landed == ["update-00000004", "update-00000005"]
    assert sweep.restore(key, landed) == landed
    assert newest_checkpoint(sweep.folder_here / key) == sweep.folder_here / key / landed[-1]
    assert Path(inputs.here(str(train), inputs_here())).read_text() == "text\tlabel\n"
    assert proxy.connections > 50
