"""Drill 11: requests that were made to do harm to `kobert-tune serve` get an answer in the protocol's words."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.drills.conftest import Drill
from tests.fixtures.damage import PARTS, damaged
from tests.fixtures.serving import Served, make_model, served

SECRET = "비밀 7319"
LARGEST = 2**20
ROW = {"text": f"{SECRET} 정말 재미있게 봤어요"}
VALID = {"/predict": ROW, "/predict/batch": {"rows": [ROW, {"text": f"별로였다 {SECRET}"}, ROW]}}
CLOSED = 0
EXPECTED = {200, 400, 404, 405, 413, 422, CLOSED}
IN_FLIGHT = 2**16
"""Of a longer body a part may still be on its way when the server refuses it and closes the connection."""
NO_HTTP = b"Invalid HTTP request received."
"""What uvicorn says where there is no request that it could hand on."""
MIB = 2**20
GROWTH = 64 * MIB
"""Memory that 10,000 requests may add: less than the largest hundred of them hold."""

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=50), st.just(SECRET))
values = st.recursive(
    scalars, lambda some: st.lists(some, max_size=5) | st.dictionaries(st.text(max_size=9) | st.just("text"), some)
)
damaged_requests = [
    st.tuples(st.just(path), damaged(json.dumps(body, ensure_ascii=False).encode())) for path, body in VALID.items()
]
shaped = st.one_of(
    values, st.builds(lambda one: {"text": one}, values), st.builds(lambda one: {"rows": one}, values)
).map(lambda value: json.dumps(value).encode())
long_ones = st.sampled_from([9_990, 10_001, LARGEST - 12, LARGEST, 3 * LARGEST]).map(
    lambda size: b'{"text": "' + b"a" * size + b'"}'
)
many_rows = st.sampled_from([256, 257, 5_000]).map(lambda count: json.dumps({"rows": [ROW] * count}).encode())
bodies = st.one_of(st.binary(max_size=300), shaped, shaped, shaped, st.sampled_from(PARTS), long_ones, many_rows)
paths = st.sampled_from(
    [*VALID, *VALID, *VALID, "/health", "/metrics", "/docs", "/predict/", "/..%2f", f"/{'x' * 999}"]
)
requests = st.tuples(
    st.one_of(
        *damaged_requests,
        *(st.just((path, json.dumps(body).encode())) for path, body in VALID.items()),
        st.tuples(paths, bodies),
        st.tuples(st.sampled_from([*VALID]), st.one_of(shaped, long_ones, many_rows)),
    ),
    st.sampled_from([*["POST"] * 20, "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW"]),
    st.sampled_from([*["application/json"] * 12, None, "text/plain", "application/json; charset=utf-16", "a/b; =\xff"]),
    st.sampled_from([*[""] * 12, "?text=%EB%B9%84%EB%B0%807319", "?%00"]),
)


class Client:
    """One connection, opened again where the server closed it."""

    def __init__(self, server: Served) -> None:
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=60)

    def ask(self, path: str, body: bytes, method: str, content_type: str | None) -> tuple[int, bytes]:
        headers = {} if content_type is None else {"Content-Type": content_type}
        try:
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, http.client.RemoteDisconnected):
            self.connection.close()
            assert len(body) > IN_FLIGHT, "the server closed the connection without an answer"
            return CLOSED, b'{"detail": "an answer that came before the end of the body was not read"}'


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_request_does_harm(drill: Drill, count: int, tmp_path: Path) -> None:
    """Hostile requests to a server: each gets an answer, none an error of the server, and no text comes into the log"""
    seen = Counter[int]()
    memory: list[int] = []
    with served(make_model(tmp_path), log=tmp_path / "log.txt") as server:
        client, process = Client(server), psutil.Process(server.process.pid)
        first = server.predict("/predict/batch", VALID["/predict/batch"])

        @settings(
            max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(requests)
        def each(request: Any) -> None:
            (path, body), method, content_type, query = request
            status, answer = client.ask(path + query, body, method, content_type)
            seen[status] += 1
            assert status in EXPECTED, (status, answer)
            if status != 200 and method != "HEAD" and answer != NO_HTTP:
                assert json.loads(answer)["detail"] is not None
            if seen.total() in (count // 4, count):
                memory.append(process.memory_info().rss)

        each()
        assert server.predict("/predict/batch", VALID["/predict/batch"]) == first
        assert server.process.poll() is None
    said = server.log.read_text(encoding="utf-8")
    drill.lost("requests had an error of the server", sum(n for status, n in seen.items() if status >= 500), of=count)
    drill.lost(
        "lines of the log had a text", sum("7319" in line or "비밀" in line for line in said.splitlines()), of=count
    )
    assert set(said.splitlines()[1:]) <= {f"WARNING:  {NO_HTTP.decode()}"}, said
    assert seen[200] > count // 20 and seen[422] > count // 20 and {400, 404, 405} < seen.keys(), seen
    assert seen[413] + seen[CLOSED], "a body that is too large is refused, whether or not the client reads the answer"
    assert memory[-1] - memory[0] < GROWTH, [each // MIB for each in memory]
