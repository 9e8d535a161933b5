"""What is said of an address that is no web server, or one that refuses."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from tuning.cluster.web import problem_at


def test_who_does_not_speak_http_is_a_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def mumble() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(b"no HTTP at all\r\n\r\n")

        threading.Thread(target=mumble, daemon=True).start()
        said = problem_at(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=5)
    assert said is not None and "no HTTP at all" in said


def test_a_refusal_is_a_problem_or_an_answer() -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # it knows no method
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    assert problem_at(address, seconds=5) is not None
    assert problem_at(address, seconds=5, refusals=False) is None
    server.shutdown()
    server.server_close()
