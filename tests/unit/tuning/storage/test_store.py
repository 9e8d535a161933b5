"""Files and folders in an object store, on a real S3 server and in a folder."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from tests.fixtures.commands import environment
from tests.fixtures.object_store import (
    BUCKET,
    OBJECT_STORES,
    FaultyProxy,
    ObjectStoreServer,
    S3Server,
    faulty_proxy,
)
from tuning.storage.connection import Conflict, StoreAway, check_address, opened
from tuning.storage.store import COMMITTED, Store, is_address


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module", params=[None, *OBJECT_STORES])
def server(request: pytest.FixtureRequest) -> Iterator[ObjectStoreServer | None]:
    """None: a folder."""
    with request.param() if request.param else nullcontext() as server:
        yield server


@pytest.fixture
def store(server: ObjectStoreServer | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if server is None:
        return Store.at(f"file://{tmp_path}/store")
    server.use(monkeypatch)
    return Store.at(f"{server.address}/{tmp_path.name}", patience=2)


def test_what_was_put_is_read_listed_and_removed(store: Store) -> None:
    assert store.read("a/b") is None
    assert store.objects() == {}
    etag = store.put("a/b", b"one")
    store.put("a/한글 %x+#?", b"three")
    store.put("ab", b"")
    assert store.read("a/b") == (b"one", etag)
    assert store.objects() == {"a/b": 3, "a/한글 %x+#?": 5, "ab": 0}
    assert store.objects("a") == {"a/b": 3, "a/한글 %x+#?": 5}
    assert store.names() == ["a"]
    assert (store / "a").objects() == {"b": 3, "한글 %x+#?": 5}
    store.delete(["a/b", "not there"])
    assert store.get("a/b") is None
    store.delete([])


def test_a_condition_holds(store: Store) -> None:
    first = store.put("head", b"1", create=True)
    with pytest.raises(Conflict):
        store.put("head", b"2", create=True)
    second = store.put("head", b"2", if_match=first)
    with pytest.raises(Conflict):
        store.put("head", b"3", if_match=first)
    with pytest.raises(Conflict):
        store.put("missing", b"3", if_match=first)
    assert store.read("head") == (b"2", second)


def test_an_own_put_whose_answer_was_lost_is_no_conflict(store: Store) -> None:
    etag = store.put("head", b"mine", create=True)
    assert store.put("head", b"mine", create=True) == etag
    newer = store.put("head", b"mine too", if_match=etag)
    assert store.put("head", b"mine too", if_match=etag) == newer


def test_a_folder_without_its_marker_does_not_exist(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "one").write_bytes(b"1" * 100)
    (folder / "below/two").write_bytes(b"2")
    store.upload_folder(folder, "trials/0001")
    assert store.folders() == ["trials/0001"]
    assert store.download_folder("trials/0001", tmp_path / "back")
    assert (tmp_path / "back/one").read_bytes() == b"1" * 100
    assert (tmp_path / "back/below/two").read_bytes() == b"2"

    store.delete([f"trials/0001/{COMMITTED}"])
    assert store.folders() == []
    assert not store.download_folder("trials/0001", tmp_path / "again")
    assert not (tmp_path / "again").exists()

    store.upload_folder(folder, "trials/0001")
    (folder / "one").write_bytes(b"other")
    store.upload_folder(folder, "trials/0001")
    assert store.download_folder("trials/0001", tmp_path / "newer")
    assert (tmp_path / "newer/one").read_bytes() == b"other"
    store.delete_folder("trials/0001")
    assert store.objects() == {}


@pytest.mark.parametrize("damage", [b"1" * 99 + b"2", None])
def test_a_damaged_folder_is_refused(store: Store, tmp_path: Path, damage: bytes | None) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/one").write_bytes(b"1" * 100)
    store.upload_folder(tmp_path / "folder", "model")
    (one,) = (key for key in store.objects("model") if key.endswith("/one"))
    store.delete([one]) if damage is None else store.put(one, damage)
    with pytest.raises(InputError, match=r"model/[0-9a-f]{16}/one: the object is (damaged|missing)"):
        store.download_folder("model", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("marker", [b"{", b"[]", b'{"files": {"../out": {"sha256": "0"}}}', b'{"files": {"a": 1}}'])
def test_a_marker_that_is_none_is_refused(store: Store, marker: bytes, tmp_path: Path) -> None:
    store.put(f"model/{COMMITTED}", marker)
    with pytest.raises(InputError, match="this is no marker"):
        store.download_folder("model", tmp_path / "back")


def test_the_files_of_a_folder_travel_side_by_side(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each request takes long, a checkpoint of many files does not take many times as long."""
    there, upload, download = threading.Barrier(4), Store.upload, Store.download

    def upload_together(self: Store, path: Path, key: str) -> None:
        there.wait(timeout=30)  # broken, and an error, where one comes after the other
        upload(self, path, key)

    def download_together(self: Store, key: str, path: Path) -> str:
        there.wait(timeout=30)
        return download(self, key, path)

    monkeypatch.setattr(Store, "upload", upload_together)
    monkeypatch.setattr(Store, "download", download_together)
    folder = tmp_path / "new"
    folder.mkdir()
    for number in range(4):
        (folder / str(number)).write_text(str(number))
    store.upload_folder(folder, "folder")
    assert store.download_folder("folder", tmp_path / "again")
    assert {path.name: path.read_text() for path in (tmp_path / "again").iterdir()} == {each: each for each in "0123"}


def test_once_a_file_has_failed_no_more_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, begun = Store.at(f"file://{tmp_path}/store"), []

    def put(self: Store, key: str, content: bytes) -> None:
        begun.append(key)
        if key == "0":
            raise InputError("refused", where=key)
        if "0" in begun:
            time.sleep(0.5)

    monkeypatch.setattr(Store, "put", put)
    with pytest.raises(InputError, match="0: refused"):
        store.put_all({str(number): b"" for number in range(40)})
    assert 1 <= len(begun) < 20
    begun.clear()
    store.put_all({str(number): b"" for number in range(1, 41)})
    assert len(begun) == 40


def test_a_large_file_goes_in_parts(store: Store, tmp_path: Path) -> None:
    content = bytes(range(256)) * (80 << 10)
    (tmp_path / "large").write_bytes(content)
    store.upload(tmp_path / "large", "large")
    assert store.objects() == {"large": 20 << 20}
    store.download("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        store.download("none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_only_the_address_travels(store: Store) -> None:
    store.put("a", b"1")
    travelled = pickle.dumps(store)
    assert b"very-secret" not in travelled
    assert pickle.loads(travelled) == store
    assert pickle.loads(travelled).get("a") == b"1"


@pytest.fixture
def faulty(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Store, FaultyProxy]]:
    with faulty_proxy(s3.port) as proxy:
        s3.use(monkeypatch, proxy.url)
        yield Store.at(f"s3://{BUCKET}/{tmp_path.name}-faulty", patience=3), proxy


@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
def test_a_fault_is_ridden_out(faulty: tuple[Store, FaultyProxy], fault: str, tmp_path: Path) -> None:
    store, proxy = faulty
    proxy.faults = dict.fromkeys(range(0, 200, 3), fault)
    etag = store.put("head", b"0", create=True)
    for number in range(1, 4):
        etag = store.put("head", str(number).encode(), if_match=etag)
    with pytest.raises(Conflict):
        store.put("head", b"other", create=True)
    assert store.read("head") == (b"3", etag)
    (tmp_path / "large").write_bytes(b"x" * (10 << 20))
    store.upload(tmp_path / "large", "large")
    store.download("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"x" * (10 << 20)
    assert proxy.connections > 10


def test_a_store_that_stays_away_is_one_line(faulty: tuple[Store, FaultyProxy]) -> None:
    store, proxy = faulty
    proxy.always = "503"
    with pytest.raises(StoreAway, match=r"did not answer for 1 s \(503 Service Unavailable, SlowDown\)"):
        store.patient(1).put("a", b"")
    proxy.close()
    with pytest.raises(StoreAway, match="did not answer for 1 s"):
        store.patient(1).get("a")


def test_what_cannot_be_is_one_line_without_secrets(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.use(monkeypatch)
    store = Store.at("s3://no-such-bucket/prefix")
    for ask in (lambda: store.put("a", b""), lambda: store.get("a"), store.objects, store.names):
        with pytest.raises(InputError, match=r"s3://no-such-bucket/prefix: there is no such bucket; ") as error:
            ask()
        assert "very-secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "variables", "said"),
    [
        ("az://box/x", {}, "Account must be specified); set AZURE_STORAGE_ACCOUNT_NAME"),
        ("abfs://box/x", {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "very secret"}, "Access Key"),
        ("gs://box/x", {"GOOGLE_APPLICATION_CREDENTIALS": "/no/file"}, "/no/file: No such file"),
        ("gs://box/x", {"GOOGLE_SERVICE_ACCOUNT_KEY": "very secret"}, "set GOOGLE_APPLICATION_CREDENTIALS"),
        ("s3://box/x", {"AWS_ENDPOINT_URL": "minio:9000"}, "AWS_ENDPOINT_URL=minio:9000: the endpoint is no URL"),
        ("s3://box/x", {"AWS_ENDPOINT_URL": "http://my host"}, "the endpoint is no URL; write http://HOST:PORT"),
        ("s3://box/x", {"AWS_ENDPOINT_URL": "http://me:very secret@host"}, "the endpoint is no URL"),
    ],
)
def test_what_is_wrong_in_the_environment_is_one_line_without_secrets(
    address: str, variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    opened.cache_clear()
    with pytest.raises(InputError) as error:
        Store.at(address, patience=1).get("a")
    line = str(error.value)
    assert said in line and "\n" not in line and "very secret" not in line


def test_a_folder_is_made_when_something_is_written(tmp_path: Path) -> None:
    store = Store.at(f"file://{tmp_path}/typo/below")
    assert store.read("a") is None and store.written("a") is None and store.versions("a") == {}
    assert store.objects() == {} and store.names() == [] and not store.download_folder("a", tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        store.download("a", tmp_path / "a")
    store.delete(["a", "b"])
    assert [*tmp_path.iterdir()] == []
    store.put("a", b"1", create=True)
    assert store.get("a") == b"1"


def test_a_folder_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for below in ("file", "file/x"):
        store = Store.at(f"file://{tmp_path}/{below}")
        assert store.objects() == {} and store.get("a/b") is None
        for create in (False, True):
            with pytest.raises(InputError, match=r"the folder cannot be made \(.+\); check the address") as error:
                store.put("a", b"", create=create)
            assert str(error.value).startswith(f"{store.address}: ")


def test_who_trains_comes_before_what_is_sent() -> None:
    """In a process of its own: the threads of the library begin once."""
    code = """
import os, threading
from tuning.storage.connection import stay_behind
stay_behind()
nice = set()
while not nice:  # a thread has begun before it has its name
    for task in os.listdir("/proc/self/task"):
        if open(f"/proc/self/task/{task}/comm").read().startswith("tokio"):
            nice.add(os.getpriority(os.PRIO_PROCESS, int(task)))
here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
print(here, *(each - here for each in nice))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment()
    )
    here, behind = map(int, done.stdout.split())
    assert behind == min(10, 19 - here)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="no credentials for this object store; set AWS_ACCESS_KEY_ID"):
        Store.at("s3://bucket/prefix", patience=1).get("a")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("ftp://host/x", "no object store of the kind `ftp`"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://key:secret@bucket/x", "no name, password or options"),
        ("abfs://box@account.dfs.core.windows.net/x", "in the environment, as AZURE_STORAGE_ACCOUNT_NAME"),
        ("s3://bucket/x?endpoint=http://h", "no name, password or options"),
        ("s3://bucket/../x", "no empty parts"),
        ("s3://bucket/a//x", "no empty parts"),
        ("file://folder/x", "three slashes"),
        ("file:///", "three slashes"),
    ],
)
def test_no_address(address: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as error:
        check_address(address)
    assert "secret" not in str(error.value)


def test_addresses() -> None:
    assert [
        check_address(a) for a in ("s3://bucket/x/", "gs://bucket", "az://box/a b", "abfs://box/a", "file:///a/b")
    ] == [
        "s3://bucket/x",
        "gs://bucket",
        "az://box/a b",
        "abfs://box/a",
        "file:///a/b",
    ]
    assert is_address("s3://bucket") and not is_address("/mnt/s3") and not is_address("http://host")
