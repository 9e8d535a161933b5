"""A server in this process: FastAPI's app on uvicorn, and one thread with the model."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from kobert_core.errors import InputError
from kobert_core.onnx.files import Backend
from tuning.serving.app import add_health, add_metrics, make_app
from tuning.serving.batcher import Batcher
from tuning.serving.metrics import Metrics
from tuning.serving.model import Model, load_model
from tuning.serving.settings import ServerSettings

ENDING_SECONDS = 30
"""How long requests in flight may take at the end."""
IDLE_SECONDS = 75
"""How long a connection without requests stays open: longer than the 60 s of common proxies, which then never write
into one that is just closed."""


def serve(
    folder: Path,
    settings: ServerSettings,
    *,
    host: str,
    port: int,
    device: str | None,
    backend: Backend,
    say: Callable[[str], object],
) -> None:
    """Serve a model until SIGTERM or SIGINT; requests in flight are answered.

    Args:
        folder: Of an exported model.
        settings: Limits and batches.
        host, port: Where to listen; port 0 takes a free one.
        device: As PyTorch names it; by default a GPU if there is one.
        backend: What runs the model.
        say: Gets the address when the server answers.

    Raises:
        InputError: the model cannot be loaded, or nothing can listen there.
    """
    with listening(host, port) as listener:
        model = load_model(folder, device=device, backend=backend)
        app = local_app(model, settings, name=folder.resolve().name)
        address = url(host, listener.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # it would have what clients write into addresses
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=ENDING_SECONDS,
        )
        _Server(config, lambda: say(f"serving {folder} at {address}, described at {address}/docs")).run([listener])


def local_app(model: Model, settings: ServerSettings, *, name: str) -> FastAPI:
    """The app of a model in this process, with metrics."""
    metrics = Metrics(model=name, waiting=lambda: batcher.waiting)
    batcher = Batcher(
        model.predict,
        rows=settings.batch_rows,
        wait=settings.batch_wait_ms / 1000,
        room=settings.max_waiting,
        on_batch=metrics.batch,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()

    app = make_app(model, batcher.answer, settings, title=name, on_request=metrics.request, lifespan=lifespan)
    add_health(app, is_alive=lambda: batcher.is_alive, is_full=lambda: batcher.is_full)
    add_metrics(app, metrics.text, metrics.content_type)
    return app


def url(host: str, port: int) -> str:
    """Where clients find a server that listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket with the address, before the model is loaded: that it is taken is known at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # until one does, others may bind to it too
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"nothing can listen there ({reason})", where=f"--host {host} --port {port}", fix="give another"
        ) from error
    with listener:
        yield listener


class _Server(uvicorn.Server):
    """Ends with exit code 0 after SIGTERM or SIGINT, and says when it begins."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises a signal once more at the end: then the process would end by it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield
