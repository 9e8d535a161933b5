"""`kobert-tune serve`: answers, gathering, limits, what operators ask, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from kobert_core.errors import InputError
from kobert_core.inference import Predictor
from kobert_core.tasks.examples import EXAMPLE_TEXTS
from tests.fixtures.commands import ROOT, environment, tune_here
from tests.fixtures.serving import TASKS, Served, make_model, served
from tuning.cli.app import app
from tuning.serving.server import listening, local_app
from tuning.serving.settings import ServerSettings

ROW = {"text": EXAMPLE_TEXTS["text"]}
SECRET = "비밀번호는 7319"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(model, log=tmp_path_factory.mktemp("log") / "log.txt") as running:
        yield running
        assert running.end(signal.SIGINT) == 0


def test_a_row_is_answered_as_by_predict_alone_and_among_others(server: Served, model: Path) -> None:
    rows = [{"text": f"{EXAMPLE_TEXTS['text']} {number} " * (1 + number % 7)} for number in range(100)]
    expected = Predictor.load(model).predict(rows)
    answers = server.predict("/predict/batch", {"rows": rows})["answers"]
    with ThreadPoolExecutor(20) as clients:
        alone = list(clients.map(lambda row: server.predict("/predict", row), rows))
    for found in (answers, alone):
        assert [list(one) for one in found] == [list(one) for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=2e-6)  # sums come in another order in another batch


@pytest.mark.parametrize("kind", TASKS)
def test_the_page_describes_what_the_model_takes_and_gives(kind: str, tmp_path: Path) -> None:
    model = Predictor.load(make_model(tmp_path, kind), device="cpu")
    with TestClient(local_app(model, ServerSettings(max_characters=200), name="m")) as client:
        page = client.get("/openapi.json").json()
        assert client.get("/docs").status_code == 200
        schemas = page["components"]["schemas"]
        assert list(schemas["Row"]["properties"]) == list(model.columns)
        assert {part["maxLength"] for part in schemas["Row"]["properties"].values()} == {200}
        for path, asked, answered in (("/predict", "Row", "Answer"), ("/predict/batch", "Rows", "Answers")):
            given, (example,) = schemas[asked], schemas[asked]["examples"]
            assert re.search("[가-힣]", json.dumps(example, ensure_ascii=False)) and given["required"]
            answer = client.post(path, json=example).json()
            assert answer == schemas[answered]["examples"][0]
            Draft202012Validator({"$ref": f"#/components/schemas/{answered}"} | page).validate(answer)
            assert set(page["paths"][path]["post"]["responses"]) >= {"200", "400", "413", "422", "503"}
        texts = [{name: f"{EXAMPLE_TEXTS[name]} {number}" for name in model.columns} for number in range(5)]
        assert client.post("/predict/batch", json={"rows": texts}).json() == {"answers": model.predict(texts)}


def test_entities_are_described_also_where_the_example_has_none(tmp_path: Path) -> None:
    model = Predictor.load(make_model(tmp_path, "tokens"), device="cpu")
    with TestClient(local_app(model, ServerSettings(), name="m")) as client:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["Answer"]["properties"]["entities"]["items"] == {"$ref": "#/components/schemas/Entity"}
    assert list(schemas["Entity"]["properties"]) == ["start", "end", "label", "text", "score"]


def shape(value: Any) -> Any:
    """The names and kinds in a JSON value."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)


def test_what_its_page_shows_is_what_happens(server: Served) -> None:
    page = (
        (ROOT / "docs" / "serving.md")
        .read_text(encoding="utf-8")
        .replace("127.0.0.1:8000", urlsplit(server.url).netloc)
    )
    blocks = re.findall(r"^```(sh|json)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    said = ""
    for language, text in blocks:
        if language == "json":
            assert shape(json.loads(said)) == shape(json.loads(text))
            continue
        done = subprocess.run(["bash", "-e", "-c", text], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        said = done.stdout
    assert [language for language, _ in blocks].count("json") == 3 and "kobert_batch_rows" in said
    commands = re.findall(r"--[a-z][a-z-]*", page)
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    assert {name for name in commands if name not in ("--json",)} <= set(re.findall(r"--[a-z][a-z-]*", shown))


def detail(reply: Any) -> Any:
    return reply.json["detail"]


@pytest.mark.parametrize(
    ("path", "body", "place", "kind"),
    [
        ("/predict", {}, ["body", "text"], "missing"),
        ("/predict", {"text": ""}, ["body", "text"], "string_too_short"),
        ("/predict", {"text": " \n"}, ["body"], "value_error"),
        ("/predict", {"text": "a\0b"}, ["body"], "value_error"),
        ("/predict", {"text": "\ud800"}, ["body", "text"], "string_unicode"),
        ("/predict", {"text": 7}, ["body", "text"], "string_type"),
        ("/predict", {"text": SECRET * 2000}, ["body", "text"], "string_too_long"),
        ("/predict", {"text": "a", "pair": SECRET}, ["body", "pair"], "extra_forbidden"),
        ("/predict", [1], ["body"], "model_attributes_type"),
        ("/predict", b'{"text": ', ["body", 9], "json_invalid"),
        ("/predict", b"", ["body"], "missing"),
        ("/predict/batch", {"rows": []}, ["body", "rows"], "too_short"),
        ("/predict/batch", {"rows": [{"text": "a"}] * 257}, ["body", "rows"], "too_long"),
        ("/predict/batch", {"rows": [{"text": "a"}, {"text": " "}]}, ["body", "rows", 1], "value_error"),
        ("/predict/batch", {"rows": {"text": SECRET}}, ["body", "rows"], "list_type"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    server: Served, path: str, body: object, place: list[object], kind: str
) -> None:
    reply = server.ask(path, body, method="POST")
    assert reply.status == 422, reply
    found = next(one for one in detail(reply) if one["loc"] == place)
    assert found["type"] == kind and found.keys() == {"type", "loc", "msg"}
    assert SECRET.encode() not in reply.body


def test_a_body_that_is_no_json_or_too_large_is_refused(server: Served) -> None:
    assert server.ask("/predict", b'{"text": "\xff"}').status == 400
    assert server.ask("/predict", b"[" * 100_000).status == 400
    assert server.ask("/predict", json.dumps(ROW).encode(), headers={"Content-Type": "text/plain"}).status == 422
    # Refused by its announced length: a client that still sends may find the connection closed before it reads why.
    announced = {"Content-Type": "application/json", "Content-Length": "1200000"}
    reply = server.ask("/predict", method="POST", headers=announced)
    assert (reply.status, detail(reply)) == (413, "the body is larger than 1,048,576 bytes")
    many = json.dumps({str(number): 0 for number in range(80_000)}).encode()
    reply = server.ask("/predict", many)
    assert reply.status == 422 and len(reply.body) < 4096


def test_a_body_without_an_announced_length_is_refused_where_it_becomes_too_large(server: Served) -> None:
    with socket.create_connection((server.host, server.port), timeout=30) as raw:
        raw.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        raw.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(17):
            raw.sendall(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come_is_waited_for_no_longer_than_it_may_take(model: Path) -> None:
    app = local_app(Predictor.load(model, device="cpu"), ServerSettings(body_seconds=0.3), name="m")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with ThreadPoolExecutor(1) as thread, socket.create_connection(listener.getsockname(), timeout=30) as raw:
        running = thread.submit(server.run, [listener])
        raw.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 408 ")
        server.should_exit = True
        running.result(30)


def test_other_addresses_and_methods_are_answered_in_the_same_words(server: Served) -> None:
    assert detail(server.ask(f"/{'x' * 2000}?q=1")) == "Not Found"
    assert server.ask("/predict").status == 405
    assert server.predict("/predict", ROW)


def test_operators_see_whether_it_lives_and_what_it_did(server: Served) -> None:
    server.ask("/nowhere")
    server.predict("/predict", ROW)
    assert server.ask("/health").json == {"status": "ok"} and server.ask("/ready").json == {"status": "ready"}
    reply = server.ask("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name: family for family in text_string_to_metric_families(reply.body.decode())}
    requests = {tuple(one.labels.values()): one.value for one in families["http_requests"].samples}
    assert any(value for (method, path, status), value in requests.items() if (path, status) == ("/predict", "200"))
    assert any(path == "other" and status == "404" for _, path, status in requests)
    assert not any("nowhere" in path for _, path, _ in requests)
    batches = {one.name: one.value for one in families["kobert_batch_rows"].samples}
    assert batches["kobert_batch_rows_sum"] >= batches["kobert_batch_rows_count"] > 0
    assert families["kobert_rows_waiting"].samples[0].value == 0
    assert families["kobert_batch_duration_seconds"].samples and families["process_resident_memory_bytes"].samples


def metric(server: Served, name: str) -> float:
    (found,) = re.findall(rb"^%s (.*)$" % re.escape(name.encode()), server.ask("/metrics").body, re.M)
    return float(found)


def rows_waiting(server: Served) -> float:
    return metric(server, "kobert_rows_waiting")


LONG_REQUEST = {"rows": [{"text": f"{EXAMPLE_TEXTS['text']} " * 30}] * 256}
"""One that takes the model long, with one row a batch."""


@pytest.fixture(scope="module")
def row_by_row(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ("--batch-rows", 1, "--max-waiting", 512)
    with served(model, *options, log=tmp_path_factory.mktemp("row-by-row") / "log.txt") as running:
        yield running


def test_the_model_does_not_work_for_clients_that_have_gone(row_by_row: Served) -> None:
    impatient = HTTPConnection(row_by_row.host, row_by_row.port, timeout=60)
    impatient.request("POST", "/predict/batch", json.dumps(LONG_REQUEST), {"Content-Type": "application/json"})
    while not rows_waiting(row_by_row):
        pass
    impatient.close()
    row_by_row.predict("/predict", ROW)
    assert metric(row_by_row, "kobert_batch_rows_sum") < 256 and rows_waiting(row_by_row) == 0
    assert metric(row_by_row, 'http_requests_total{method="POST",path="/predict/batch",status="499"}') == 1


def test_what_is_in_flight_at_its_end_is_answered_and_what_finds_no_room_refused(row_by_row: Served) -> None:
    """The event loop answers others while the model works. It ends the server."""
    server = row_by_row
    with ThreadPoolExecutor(2) as clients:
        idle = HTTPConnection(server.host, server.port, timeout=10)
        idle.request("GET", "/health")
        assert idle.getresponse().read()
        asked = [clients.submit(server.ask, "/predict/batch", LONG_REQUEST) for _ in range(2)]
        while rows_waiting(server) <= 256:
            assert not any(one.done() for one in asked), asked
        refused = server.ask("/predict/batch", LONG_REQUEST)
        assert (refused.status, detail(refused)) == (503, "too many rows wait for the model")
        assert 1 <= int(refused.headers["retry-after"]) < 600
        began = time.monotonic()
        assert server.ask("/health").status == 200 and time.monotonic() - began < 1
        assert not any(one.done() for one in asked), "or this shows nothing"
        server.process.send_signal(signal.SIGTERM)
        wait_until_it_refuses(server)
        with pytest.raises((RemoteDisconnected, ConnectionError)):
            idle.request("GET", "/health")
            idle.getresponse()
        assert [len(one.result().json["answers"]) for one in asked] == [256, 256]
        assert server.process.wait(30) == 0
        assert len(server.log.read_text(encoding="utf-8").splitlines()) == 1


def wait_until_it_refuses(server: Served) -> None:
    deadline = time.monotonic() + 10
    with pytest.raises(OSError):
        while time.monotonic() < deadline:
            socket.create_connection((server.host, server.port), timeout=10).close()
            time.sleep(0.02)


def test_no_text_comes_into_the_log(server: Served) -> None:
    server.predict("/predict", {"text": SECRET})
    for path in ("/predict?text=%EB%B9%84%EB%B0%80-7319", "/7319"):
        server.ask(path, {"text": " "})
    server.ask("/predict", {"text": SECRET, SECRET: 7319})
    server.ask("/predict", f'{{"{SECRET}'.encode())
    with socket.create_connection((server.host, server.port), timeout=10) as raw:
        raw.sendall(f"{SECRET} / HTTP/7319\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
    said = server.log.read_text(encoding="utf-8")
    assert said.startswith("serving") and "7319" not in said and "비밀" not in said, said


def test_what_keeps_it_from_serving_is_said_in_a_line(model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = tune_here("serve", model, "--port", port, cwd=tmp_path, code=2)
        assert f"--port {port}: nothing can listen there" in done.stderr
    assert "no folder of an exported model" in tune_here("serve", tmp_path, "--port", 0, cwd=tmp_path, code=2).stderr
    assert "no device" in tune_here("serve", model, "--device", "abacus", "--port", 0, cwd=tmp_path, code=2).stderr
    assert "--max-waiting" in tune_here("serve", model, "--max-waiting", 3, cwd=tmp_path, code=2).stderr


@pytest.mark.parametrize(("package", "options"), [("uvicorn", []), ("fastapi", ["--ray"])])
def test_without_its_extra_a_line_says_what_to_install(model: Path, package: str, options: list[str]) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = ['serve', {str(model)!r}, *{options!r}];"
        "from tuning.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "kobert-tuning[serve]" in done.stderr, done.stderr
    assert package in done.stderr and "Traceback" not in done.stderr


def test_an_address_is_taken_while_its_server_loads_the_model() -> None:
    with listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match="nothing can listen there"), listening("127.0.0.1", port):
            pass


def test_other_commands_do_not_import_it() -> None:
    code = (
        "import sys, tuning.cli.app;"
        "print({'fastapi', 'uvicorn', 'ray', 'prometheus_client', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
