"""`kobert-tune serve --ray`: the same answers and errors from Ray Serve's replicas; what it started ends with it."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from kobert_core.inference import Predictor
from kobert_core.tasks.examples import EXAMPLE_TEXTS
from tests.fixtures.nodes import ray_nodes
from tests.fixtures.serving import Served, make_model, served

pytestmark = pytest.mark.slow
ROWS = [{"text": f"{EXAMPLE_TEXTS['text']} {number}"} for number in range(40)]
LONG_REQUEST = {"rows": [{"text": f"{EXAMPLE_TEXTS['text']} " * 30}] * 256}


def check_answers(server: Served, model: Path, path: str = "") -> None:
    expected = Predictor.load(model, device="cpu").predict(ROWS)
    with ThreadPoolExecutor(16) as clients:
        alone = list(clients.map(lambda row: server.predict(f"{path}/predict", row), ROWS))
    for found in (alone, server.predict(f"{path}/predict/batch", {"rows": ROWS})["answers"]):
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=2e-6)


def test_replicas_answer_and_end_with_the_command(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    options = ("--ray", "--replicas", 2, "--batch-rows", 4)
    with served(model, *options, log=tmp_path / "log.txt") as server:
        started = psutil.Process(server.process.pid).children(recursive=True)
        assert sum("ServeReplica" in " ".join(process.cmdline()) for process in started) == 2
        check_answers(server, model)
        page = server.ask("/openapi.json").json
        assert list(page["components"]["schemas"]["Row"]["properties"]) == ["text"]
        assert server.ask("/health").status == 200
        reply = server.ask("/predict/batch", {"rows": [{"text": "a"}, {"text": " "}]})
        assert (reply.status, reply.json["detail"][0]["loc"]) == (422, ["body", "rows", 1])
        assert server.ask("/predict", b"\xff").status == 400
        assert server.ask("/predict", b"a" * (2**20 + 1)).status == 413
        with ThreadPoolExecutor(1) as clients:
            asked = clients.submit(server.ask, "/predict/batch", LONG_REQUEST)
            time.sleep(0.5)
            assert not asked.done(), "or this shows nothing"
            server.process.send_signal(signal.SIGTERM)
            assert asked.result().status == 200
        assert server.process.wait(120) == 0
        _, alive = psutil.wait_procs(started, timeout=30)
        assert not alive
    assert len(server.log.read_text(encoding="utf-8").splitlines()) == 1, server.log.read_text(encoding="utf-8")


def test_on_a_cluster_where_ray_serve_runs_it_is_one_more_application(tmp_path: Path) -> None:
    first, second = (
        make_model(tmp_path / "a"),
        make_model(tmp_path / "b", "regression").rename(tmp_path / "b" / "stars"),
    )
    with ray_nodes(tmp_path, head_cpus=2) as nodes:
        joined = ("--ray", "--address", nodes.address)
        with served(first, *joined, log=tmp_path / "first.txt") as server:
            check_answers(server, first)
            with served(second, *joined, log=tmp_path / "second.txt", at="/stars of the Ray Serve") as other:
                assert server.predict("/stars/predict", ROWS[0]).keys() == {"score"}
                check_answers(server, first)
                assert other.end(signal.SIGINT, seconds=120) == 0
            check_answers(server, first)
            assert server.ask("/stars/predict", ROWS[0]).status == 404
            assert server.end(signal.SIGTERM, seconds=120) == 0
