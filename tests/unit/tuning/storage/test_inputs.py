"""What a study names lies in an object store by its content, and is fetched once a node."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch import nn

from kobert_core.checkpoint import WEIGHTS
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.tiny import tiny_config
from tuning.storage.inputs import Inputs, StoredInput, fetch_input, put_input
from tuning.storage.node import StoredSweep
from tuning.storage.store import Damaged, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(f"file://{tmp_path}/store")


def test_the_same_content_is_put_once_and_fetched_once(store: Store, tmp_path: Path) -> None:
    file, copy = tmp_path / "a" / "리뷰 1.tsv", tmp_path / "b" / "리뷰 1.tsv"
    for path in (file, copy):
        path.parent.mkdir()
        path.write_text("id\tdocument\tlabel\n")
    given = put_input(store, file)
    assert put_input(store, copy) == given
    assert list(store.objects()) == [given.key]
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda _: fetch_input(store, given, tmp_path / "node"), range(4)))
    (here,) = found
    assert here.name == file.name and here.read_bytes() == file.read_bytes()
    before = here.stat().st_mtime_ns
    store.delete([given.key])
    assert fetch_input(store, given, tmp_path / "node").stat().st_mtime_ns == before


def test_a_folder_keeps_its_name_and_what_is_below(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    (folder / "below").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "below" / "vocab.txt").write_text("가")
    given = put_input(store, folder)
    here = fetch_input(store, given, tmp_path / "node")
    assert here.name == "encoder" and (here / "below" / "vocab.txt").read_text() == "가"
    (folder / "config.json").write_text('{"a": 1}')
    assert put_input(store, folder).digest != given.digest


def test_what_is_damaged_in_the_store_is_not_taken(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("good")
    given = put_input(store, file)
    store.put(given.key, b"evil")
    with pytest.raises(Damaged, match="SHA-256"):
        fetch_input(store, given, tmp_path / "node")
    store.put(given.key, b"good")
    assert fetch_input(store, given, tmp_path / "node").read_text() == "good"


def test_sources_of_all_kinds_are_found_again(store: Store, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "saved" / "train").mkdir(parents=True)
    (data / "saved" / "train" / "rows.arrow").write_text("rows")
    for name in ("part-2.tsv", "part-1.tsv", "book.xlsx"):
        (data / name).write_text(name)
    sources = [
        Source.of([str(data / "part-*.tsv"), str(data / "book.xlsx") + ":sheet"]),
        Source.of(f"{data}/saved:train"),
        Source.of(f"hf://{data}/saved:train"),
        Source.of("hf://e9t/nsmc:train"),
    ]
    inputs = Inputs.put(store, sources, [str(data / "saved"), "klue/bert-base"])
    digests = [source.digest() for source in sources[:1]]
    shutil.rmtree(data)
    first, second, third, fourth = (inputs.source_here(source, tmp_path / "node") for source in sources)
    assert [part.path.name for part in first.parts()] == ["part-1.tsv", "part-2.tsv", "book.xlsx"]
    assert first.parts()[2].within == "sheet" and first.digest() == digests[0]
    assert second.parts()[0].path.is_dir() and second.parts()[0].within == "train"
    assert third.entries[0].startswith(f"hf://{tmp_path}/node/") and third.entries[0].endswith("/saved:train")
    assert fourth == sources[3]
    assert inputs.here("klue/bert-base", tmp_path / "node") == "klue/bert-base"


def test_a_config_names_the_files_of_this_machine(store: Store, tmp_path: Path) -> None:
    config = tiny_config()
    inputs = Inputs.put(store, [config.data.train], [])
    here = inputs.config_here(config, tmp_path / "node")
    assert here.data.train.entries[0].startswith(str(tmp_path / "node"))
    assert here.data.train.digest() == config.data.train.digest()
    assert here.model_copy(update={"data": config.data, "model": config.model}) == config


@pytest.fixture
def sweep(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredSweep:
    monkeypatch.setattr("tuning.storage.node.node_folder", lambda: tmp_path / "node")
    return StoredSweep(store, "/driver/sweep", StoredInput("", "", is_folder=False), Inputs(store, {}, {}))


def test_a_damaged_checkpoint_is_passed_over(sweep: StoredSweep, store: Store, tmp_path: Path) -> None:
    for step in (5, 9):
        folder = tmp_path / "made" / f"update-{step:08d}"
        save_checkpoint(folder, nn.Linear(2, 2), {"step": step})
        store.upload_folder(folder, f"run/checkpoints/{folder.name}")
    (state,) = [key for key in store.objects("run/checkpoints/update-00000009") if key.endswith("/state.pt")]
    store.put(state, b"torn")
    stale = sweep.folder_here / "run/checkpoints/update-00000012"
    stale.mkdir(parents=True)
    landed = sweep.landed("run/checkpoints")
    assert landed == ["update-00000005", "update-00000009"]
    sweep.restore("run/checkpoints", landed)
    assert [each.name for each in stale.parent.iterdir()] == ["update-00000005"], "nor what never landed"
    before = (stale.parent / "update-00000005" / "state.pt").stat().st_ino
    sweep.restore("run/checkpoints", landed[:1])
    assert (stale.parent / "update-00000005" / "state.pt").stat().st_ino == before, "what is here is not fetched again"


def test_a_checkpoint_is_kept_for_other_trials_and_adopted(sweep: StoredSweep, store: Store, tmp_path: Path) -> None:
    for trial, step in (("0000", 5), ("0001", 3), ("0001", 9)):
        folder = tmp_path / trial / f"update-{step:08d}"
        save_checkpoint(folder, nn.Linear(2, 2), {"step": step})
        store.upload_folder(folder, f"trials/{trial}/checkpoints/{folder.name}")
    run = "trials/0000"
    held = [sweep.donate(f"{run}/checkpoints/update-00000005", f"{run}/donations", most=2) for _ in range(11)]
    assert held[-2:] == [f"{run}/donations/{number}/update-00000005" for number in (9, 10)]
    assert store.names(f"{run}/donations") == ["10", "9"]
    store.delete_folder(f"{run}/checkpoints/update-00000005")
    sweep.adopt(held[-1], "trials/0001/checkpoints")
    assert sweep.landed("trials/0001/checkpoints") == ["update-00000005"], "nor a newer one of its own"
    sweep.restore("trials/0001/checkpoints", ["update-00000005"])
    there = sweep.folder_here / "trials/0001/checkpoints/update-00000005" / WEIGHTS
    assert there.read_bytes() == (tmp_path / "0000" / "update-00000005" / WEIGHTS).read_bytes()
    sweep.forget_donations("trials", "donations")
    assert store.names(run) == [] and store.names("trials/0001") == ["checkpoints"]
    with pytest.raises(InputError, match="is not in the object store any more"):
        sweep.donate(f"{run}/checkpoints/update-00000005", f"{run}/donations", most=2)


def test_nodes_agree_on_a_file_that_the_first_has_written(sweep: StoredSweep) -> None:
    costs = sweep.folder_here / "costs" / "a.json"
    costs.parent.mkdir(parents=True)
    sweep.agree_on(costs)
    assert not costs.exists()
    costs.write_text("first")
    sweep.agree_on(costs)
    costs.write_text("second")
    sweep.agree_on(costs)
    assert costs.read_text() == "first"


def test_a_log_begins_with_what_another_node_wrote(sweep: StoredSweep, store: Store) -> None:
    sweep.bring_log("trials/0000/log.txt")
    assert not (sweep.folder_here / "trials/0000/log.txt").exists()
    store.put("trials/0000/log.txt", b"one\n")
    sweep.bring_log("trials/0000/log.txt")
    with open(sweep.folder_here / "trials/0000/log.txt", "a") as log:
        log.write("two\n")
    sweep.bring_log("trials/0000/log.txt")
    assert (sweep.folder_here / "trials/0000/log.txt").read_text() == "one\ntwo\n"


def test_what_a_sweep_does_not_have_is_named(sweep: StoredSweep, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not in the object store"):
        sweep.bring("/driver/sweep/trials/0000/model", tmp_path)
