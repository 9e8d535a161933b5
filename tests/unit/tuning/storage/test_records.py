"""Records of a sweep in an object store: what one process commits, and that no two do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from kobert_core.errors import InputError
from tests.fixtures.object_store import OBJECT_STORES, FaultyProxy, ObjectStoreServer, faulty_proxy
from tuning.storage import records as module
from tuning.storage.check import check_store
from tuning.storage.records import HEAD, PARTS, Head, Holder, Records, StorageLost, download_records, read_head
from tuning.storage.store import Store

DYING = """
import itertools, os, sys
from pathlib import Path
from kobert_core.errors import InputError
from tuning.storage.records import Records
from tuning.storage.store import Store

address, folder, left = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
plain_put = Store.put
countdown = itertools.count(left, -1)


def put(self, key, content, **options):
    if next(countdown) == 0:
        os._exit(9)
    return plain_put(self, key, content, **options)


Store.put = put
records = Records(Store(address), folder, lambda: ["trials.json", "log"], grow=["log"])
records.take(busy=lambda: InputError("busy"))
records.start()
for number in range(1000):
    (folder / "trials.json").write_text(str(number))
    with open(folder / "log", "a") as log:
        log.write(f"{number}\\n")
    records.commit()
    (folder / "acknowledged").write_text(str(number))
"""
"""Commits again and again, and dies instead of a put."""


@pytest.fixture(scope="module", params=OBJECT_STORES)
def proxy(request: pytest.FixtureRequest) -> Iterator[tuple[ObjectStoreServer, FaultyProxy]]:
    with request.param() as server, faulty_proxy(server.port) as proxy:
        yield server, proxy


@pytest.fixture
def faults(proxy: tuple[ObjectStoreServer, FaultyProxy]) -> Iterator[FaultyProxy]:
    """In front of the store: makes none until it is told to."""
    yield proxy[1]
    proxy[1].always, proxy[1].without_conditions = None, False


@pytest.fixture
def store(proxy: tuple[ObjectStoreServer, FaultyProxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    server, faulty = proxy
    server.use(monkeypatch, faulty.url)
    monkeypatch.setattr(module, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.1)
    return Store.at(f"{server.address}/{tmp_path.name}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sweep").mkdir()
    return tmp_path / "sweep"


def records_of(store: Store, folder: Path, **options: object) -> Records:
    def files() -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    return Records(store, folder, files, grow=["log"], say=[].append, **options)  # type: ignore[arg-type]


def taken(records: Records) -> bool:
    return records.take(busy=lambda: InputError("another process runs this sweep"))


def other_machine(store: Store) -> None:
    """Let the head look as if a process of another machine had written it."""
    head, etag = read_head(store) or pytest.fail("there is no head")
    assert head.holder is not None
    store.put(HEAD, replace(head, holder=replace(head.holder, machine="another")).to_bytes(), if_match=etag)


def test_what_was_committed_is_there_on_an_empty_machine(store: Store, folder: Path, tmp_path: Path) -> None:
    records = records_of(store, folder)
    assert not taken(records)
    records.start()
    (folder / "trials.json").write_text("one")
    (folder / "log").write_bytes(b"first\ntorn")
    (folder / "below").mkdir()
    (folder / "below/empty").write_bytes(b"")
    records.commit()
    assert records.committed("log") == len(b"first\n")
    (folder / "trials.json").write_text("two")
    with open(folder / "log", "ab") as log:
        log.write(b" line\nlast\n")
    records.commit()
    head = download_records(store, tmp_path / "there")
    assert (tmp_path / "there/trials.json").read_text() == "two"
    assert (tmp_path / "there/log").read_bytes() == b"first\ntorn line\nlast\n"
    assert (tmp_path / "there/below/empty").read_bytes() == b""
    assert (head.token, head.ended) == (1, False)

    (folder / "trials.json").unlink()
    records.commit()
    records.close(ended=True)
    head = download_records(store, tmp_path / "later")
    assert not (tmp_path / "later/trials.json").exists()
    assert (head.holder, head.ended) == (None, True)
    assert taken(records_of(store, tmp_path / "there"))


def test_a_store_without_conditional_writes_is_refused(store: Store, folder: Path, faults: FaultyProxy) -> None:
    if store.address.startswith("az:"):
        pytest.skip("what Azure's clients sign has the conditions in it: nothing on the way can take them out")
    faults.without_conditions = True
    with pytest.raises(InputError, match="ignores conditions"):
        taken(records_of(store, folder))
    assert store.objects() == {}
    assert [check.ok for check in check_store(store.address)] == [True, False]


def test_nothing_stays_of_what_was_tried(tmp_path: Path) -> None:
    assert all(check.ok for check in check_store(f"file://{tmp_path}/store"))
    assert not list((tmp_path / "store").iterdir())


def test_nothing_stays_of_a_sweep_without_files(store: Store, folder: Path) -> None:
    records = records_of(store, folder)
    taken(records)
    records.start()
    records.close(ended=True)
    assert store.objects() == {}


def test_of_a_file_that_grows_only_the_end_is_put_again(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 1000)
    records = records_of(store, folder)
    taken(records)
    records.start()
    put: list[int] = []
    monkeypatch.setattr(
        Store,
        "put_all",
        lambda self, new: [put.append(len(content)) or self.put(key, content) for key, content in new.items()],
    )
    for number in range(50):
        with open(folder / "log", "ab") as log:
            log.write(b"%099d\n" % number)
        records.commit()
    assert max(put) <= 1000 and sum(put) == 5 * sum(range(100, 1001, 100))
    records.close(ended=True)
    assert len(store.objects(PARTS)) == 5
    download_records(store, tmp_path / "there")
    assert (tmp_path / "there/log").read_bytes() == (folder / "log").read_bytes()


def test_a_file_that_runs_ahead_is_committed_by_itself(store: Store, folder: Path) -> None:
    records = records_of(store, folder, ahead="log")
    taken(records)
    records.start()
    (folder / "log").write_bytes(b"one\n")
    (folder / "trials.json").write_text("one")
    records.commit()
    (folder / "trials.json").write_text("two, not committed")
    (folder / "log").write_bytes(b"one\ntwo\n")
    deadline = time.monotonic() + 60
    while records.committed("log") < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (records.committed("log"), records.committed("trials.json")) == (8, 3)
    records.close(ended=False)


def test_a_second_process_does_not_take_what_is_renewed(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 6.0)
    first = records_of(store, folder)
    taken(first)
    other_machine(store)
    first._etag = (read_head(store) or pytest.fail("no head"))[1]
    first.start()
    with pytest.raises(InputError, match="another process runs this sweep"):
        taken(records_of(store, tmp_path))
    first.check()
    first.close(ended=True)


def test_of_two_processes_one_commits(store: Store, folder: Path, tmp_path: Path) -> None:
    """The first is stopped, as by SIGSTOP, for longer than its lease; then it goes on."""
    first = records_of(store, folder)
    taken(first)
    other_machine(store)
    first._etag = (read_head(store) or pytest.fail("no head"))[1]
    (folder / "trials.json").write_text("of the first")

    (tmp_path / "second").mkdir()
    second = records_of(store, tmp_path / "second")
    begin = time.monotonic()
    assert taken(second)
    assert time.monotonic() - begin >= module.LEASE_SECONDS
    second.start()
    (tmp_path / "second/trials.json").write_text("of the second")
    second.commit()

    first.start()
    with pytest.raises(StorageLost, match="another process runs this sweep now"):
        first.commit()
    with pytest.raises(StorageLost):
        first.soon()
    first.close(ended=True)
    second.commit()
    second.close(ended=True)
    download_records(store, tmp_path / "there")
    assert (tmp_path / "there/trials.json").read_text() == "of the second"


def test_a_process_that_has_not_committed_hears_of_its_loss(store: Store, folder: Path, tmp_path: Path) -> None:
    first = records_of(store, folder)
    taken(first)
    head, etag = read_head(store) or pytest.fail("no head")
    dead = replace(Holder.here(), pid=2**22 - 1)
    first._etag = store.put(HEAD, replace(head, holder=dead).to_bytes(), if_match=etag)
    first.start()
    assert taken(records_of(store, tmp_path))
    deadline = time.monotonic() + 60
    while not first.is_lost and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(StorageLost):
        first.check()


def test_a_process_is_dead_when_it_has_ended_or_is_another_one() -> None:
    here = Holder.here()
    assert not here.is_dead
    assert replace(here, begun=here.begun - 100).is_dead
    with subprocess.Popen(["true"]) as ended:
        begun = psutil.Process(ended.pid).create_time()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
        assert replace(here, pid=ended.pid, begun=begun).is_dead
    assert not replace(here, pid=ended.pid, machine="another").is_dead, "nobody can know"


@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_at_any_request_leaves_whole_records(
    store: Store, folder: Path, tmp_path: Path, seed: int
) -> None:
    options = [store.address, str(folder), str(7 + 5 * seed)]
    killed = subprocess.run([sys.executable, "-c", DYING, *options], stderr=subprocess.PIPE, text=True)
    assert killed.returncode == 9, killed.stderr
    acknowledged = int((folder / "acknowledged").read_text()) if (folder / "acknowledged").exists() else -1
    second = records_of(store, tmp_path / "there")
    assert taken(second)
    download_records(store, tmp_path / "there")
    committed = int((tmp_path / "there/trials.json").read_text()) if (tmp_path / "there/trials.json").exists() else -1
    assert committed in (acknowledged, acknowledged + 1)
    assert len((tmp_path / "there/log").read_text().split() if committed >= 0 else []) == committed + 1
    keys = {part.key for parts in second.head.files.values() for part in parts}
    assert store.objects(PARTS).keys() == keys


def test_a_store_that_is_away_is_waited_for(store: Store, folder: Path, faults: FaultyProxy) -> None:
    records = records_of(store, folder)
    taken(records)
    records.start()
    (folder / "trials.json").write_text("one")
    faults.always = "503"
    begin = time.monotonic()
    threading.Timer(2.0, lambda: setattr(faults, "always", None)).start()
    records.soon()
    records.commit()
    assert time.monotonic() - begin >= 2.0
    records.close(ended=True)


def test_a_reader_sees_one_moment(store: Store, folder: Path, tmp_path: Path) -> None:
    records = records_of(store, folder)
    taken(records)
    records.start()
    ends = threading.Event()

    def write() -> None:
        number = 0
        while not ends.is_set():
            number += 1
            for name in ("a", "b"):
                (folder / name).write_text(str(number))
            records.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.2)
        for reading in range(20):
            there = tmp_path / f"reading-{reading}"
            download_records(store, there)
            assert (there / "a").read_text() == (there / "b").read_text()
    finally:
        ends.set()
        writer.join()
    records.close(ended=True)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"format": 1}',
        json.dumps({"format": 1, "token": 1, "sequence": 1, "holder": None, "files": {"../x": []}}).encode(),
    ],
)
def test_a_head_that_is_none(content: bytes) -> None:
    with pytest.raises(InputError, match="this is no head"):
        Head.from_bytes(content, where="s3://bucket/head.json")
    with pytest.raises(InputError, match="a newer version"):
        Head.from_bytes(b'{"format": 2}', where="s3://bucket/head.json")
