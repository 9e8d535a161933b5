"""Addresses where there is no Ray: one line within seconds, whatever is there instead."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from kobert_core.errors import InputError
from tests.fixtures.commands import ROOT, tune, tune_here
from tests.fixtures.nodes import free_port
from tuning.cluster.head import named_address
from tuning.cluster.jobs import Jobs
from tuning.cluster.ray_cluster import ray_cluster

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
SECONDS = 10


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections and never says a word, as a process that was stopped does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def page() -> Iterator[str]:
    """A web server."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def refusal(address: str | None) -> str:
    """What is said of an address, in time."""
    begin = time.monotonic()
    with pytest.raises(InputError) as refused, ray_cluster(address):
        pass
    assert time.monotonic() - begin < SECONDS
    return str(refused.value)


def test_what_is_no_ray_is_told_in_seconds(silent: str, page: str) -> None:
    assert "no Ray cluster can be reached (Connection refused)" in refusal(f"127.0.0.1:{free_port()}")
    assert "it does not answer" in refusal(silent)
    assert "what listens there is no Ray" in refusal(page)
    assert "no Ray cluster can be reached (" in refusal("nowhere.invalid:6379")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head:8265", "ray://head:10001", "head", "h:0"])
def test_another_kind_of_address_is_answered_with_the_right_one(address: str) -> None:
    assert "HOST:6379" in refusal(address)


def test_an_address_of_the_environment_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    for option in (None, "auto"):
        said = refusal(option)
        assert said.startswith(f"RAY_ADDRESS={address}: ") and "unset RAY_ADDRESS" in said
    assert named_address("other:1") == ("other:1", "--address other:1")
    assert named_address("local")[0] is None


@pytest.mark.parametrize(("run", "command"), [(tune, "sweep"), (tune_here, "doctor")])
def test_commands_say_it_in_one_line(
    run: Callable[..., CompletedProcess[str]], command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run(command, QUICKSTART, "--address", f"127.0.0.1:{free_port()}", cwd=tmp_path, code=2)
    assert len(done.stderr.splitlines()) == 1 and "no Ray cluster can be reached" in done.stderr
    assert capfd.readouterr() == ("", ""), "nor do libraries print past Python"
    assert not list(tmp_path.glob("sweeps/*/study.yaml")), "the name stays free"


def test_a_job_server_that_is_silent_is_told_in_seconds(silent: str, page: str) -> None:
    for address in (silent, page):
        begin = time.monotonic()
        with pytest.raises(InputError, match="no job server answers"):
            Jobs(f"http://{address}")
        assert time.monotonic() - begin < 2 * SECONDS
