"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fixtures.disks import Mount, small_disk
from tests.fixtures.mlflow_server import Server
from tests.fixtures.object_store import OBJECT_STORES, AzureServer, ObjectStoreServer, S3Server
from tuning.storage import connection

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_report_header() -> str | None:
    if AzureServer in OBJECT_STORES:
        return None
    return "no test of az:// runs: it needs Azurite, which `make azurite` installs"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; in CI its absence is an error, elsewhere a skip."""
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail("the folder of real data (../shared) is missing")
        pytest.skip("needs the real data in ../shared")
    return SHARED


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature cache for all tests of one session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow server for all tests, each of which has an experiment of its own name there."""
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.end()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server of the test's own, which this process and those that it starts find in their environment."""
    with S3Server() as server:
        put_into_environment(server, monkeypatch)
        yield server


@pytest.fixture(params=OBJECT_STORES)
def object_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStoreServer]:
    """As `s3`, each kind of server in turn."""
    with request.param() as server:
        put_into_environment(server, monkeypatch)
        yield server


def put_into_environment(server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.use(monkeypatch)
    connection.opened.cache_clear()  # connections to the server of another test


@pytest.fixture
def short_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What MLflow does not answer within 2 s has failed."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The number of threads is part of what makes a run repeatable."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_no_garbage() -> None:
    """A collection looks at what this module's tests made, and not at a million objects of libraries each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def mount_small_disk() -> Iterator[Mount]:
    """Called with a folder and a number of KiB: the folder on a disk of its own of this size, until the test ends."""
    with ExitStack() as disks:
        yield lambda folder, kib: disks.enter_context(small_disk(folder, kib))
