"""The same app on Ray Serve: replicas and batches are Ray's."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ray
from fastapi import FastAPI
from ray import serve

from kobert_core.onnx.files import Backend
from tuning.cluster.head import starts_here
from tuning.cluster.ray_cluster import ray_cluster
from tuning.serving.app import add_health, make_app
from tuning.serving.model import Answer, Row, load_model
from tuning.serving.server import listening, url
from tuning.serving.settings import ServerSettings

CONTROLLER = "SERVE_CONTROLLER_ACTOR"
log = logging.getLogger("ray.serve")

QUIET = {"enable_access_log": False, "log_level": "WARNING"}
"""Ray Serve's access log would have what clients write into addresses."""


def serve_on_ray(
    folder: Path,
    settings: ServerSettings,
    *,
    host: str,
    port: int,
    device: str | None,
    backend: Backend,
    replicas: int,
    address: str | None,
    say: Callable[[str], object],
) -> None:
    """Serve a model with Ray Serve until SIGTERM or SIGINT, and end what was started for it.

    Where Ray Serve runs on the cluster already, the model becomes one more of its applications, below its own path.

    Args:
        folder: Of an exported model, on all machines of the cluster.
        settings: Limits and batches.
        host, port: Where to listen; port 0 takes a free one.
        device: As PyTorch names it; by default a GPU if there is one.
        backend: What runs the model.
        replicas: Copies of the model.
        address: Of a Ray cluster; None starts one here.
        say: Gets the address when the server answers.

    Raises:
        InputError: the model cannot be loaded, nothing can listen there, or there is no cluster.
    """
    log.setLevel(logging.WARNING)
    folder = folder.resolve()
    # What is wrong with the model is told here, not by replicas that try again.
    load_model(folder, device="cpu", backend=backend)
    with listening(host, port) as listener:
        port = listener.getsockname()[1]
    with ray_cluster(address) as nodes, _asked_to_end() as ending:
        runs_already = any(actor["name"] == CONTROLLER for actor in ray.util.list_named_actors(all_namespaces=True))
        deployment = serve.deployment(
            name="model",
            num_replicas=replicas,
            max_ongoing_requests=2 * max(settings.batch_rows, 8),
            max_queued_requests=settings.max_waiting,
            ray_actor_options=_resources(nodes, replicas, address, device),
        )(_ingress(folder, settings, device, backend))
        if not runs_already:
            serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)
        try:
            prefix = f"/{quote(folder.name)}" if runs_already else "/"
            serve.run(deployment.bind(), name=folder.name, route_prefix=prefix, logging_config=QUIET)
            where = f"{prefix} of the Ray Serve that runs there" if runs_already else url(host, port)
            say(f"serving {folder.name} on {replicas} replica(s) at {where}")
            ending.wait()
        finally:
            serve.delete(folder.name)  # its replicas answer what they have
            if not runs_already:
                serve.shutdown()


def _ingress(folder: Path, settings: ServerSettings, device: str | None, backend: Backend) -> Callable[..., Any]:
    """The class of a replica, which makes the app when it begins: what rows are is known by the model."""

    def build() -> FastAPI:
        model = load_model(folder, device=device, backend=backend)
        thread = ThreadPoolExecutor(1, "model")

        @serve.batch(max_batch_size=settings.batch_rows, batch_wait_timeout_s=settings.batch_wait_ms / 1000)
        async def answer_row(rows: list[Row]) -> list[Answer]:
            return await asyncio.get_running_loop().run_in_executor(thread, model.predict, rows)

        async def answer(rows: Sequence[Row]) -> list[Answer]:
            return list(await asyncio.gather(*map(answer_row, rows)))

        app = make_app(model, answer, settings, title=folder.name)
        add_health(app, is_alive=lambda: True, is_full=lambda: False)
        return app

    made: Callable[..., Any] = serve.ingress(build)()
    return made


def _resources(
    nodes: Sequence[Mapping[str, float]], replicas: int, address: str | None, device: str | None
) -> dict[str, float]:
    """What a replica gets: an equal part of a Ray of our own; of a cluster that others use too, one CPU and, if there
    are any, one GPU."""
    there = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    parts = {name: count / replicas for name, count in there.items()} if starts_here(address) else there
    # Ray takes no fraction above 1.
    cpus = float(int(parts["CPU"])) if parts["CPU"] > 1 and starts_here(address) else min(1.0, parts["CPU"])
    return {"num_cpus": cpus, "num_gpus": 0.0 if device == "cpu" else min(1.0, parts["GPU"])}


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """Set by SIGTERM and SIGINT, for which Ray has handlers of its own since it began."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    yield ending
