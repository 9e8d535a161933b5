"""The command that serves a model over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from kobert_core.onnx.files import backend_of
from tuning.cli.options import ModelDir, RunBy
from tuning.cli.terminal import echo

commands = typer.Typer()


@commands.command()
def serve(
    model_dir: ModelDir,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1. Default: a GPU if there is one.")] = None,
    backend: RunBy = "torch",
    max_body: Annotated[int, typer.Option(min=1, metavar="BYTES", help="Largest body of a request.")] = 2**20,
    max_rows: Annotated[int, typer.Option(min=1, metavar="N", help="Most rows of a request.")] = 256,
    max_characters: Annotated[int, typer.Option(min=1, metavar="N", help="Longest text.")] = 10_000,
    max_waiting: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most rows that wait for the model; more are refused with 503.")
    ] = 1024,
    batch_rows: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most rows that go through the model together.")
    ] = 32,
    batch_wait_ms: Annotated[
        float, typer.Option(min=0, metavar="MS", help="How long a batch waits at most for rows that are expected.")
    ] = 5.0,
    ray: Annotated[bool, typer.Option("--ray", help="Serve with Ray Serve.")] = False,
    replicas: Annotated[int, typer.Option(min=1, metavar="N", help="With --ray: copies of the model.")] = 1,
    address: Annotated[
        str | None,
        typer.Option(help="With --ray: a Ray cluster to use: auto, or HOST:6379. Default: one is started here."),
    ] = None,
) -> None:
    """Serve a model over HTTP, until Ctrl-C: alone or many at once, rows are answered as by predict.

    The address /docs describes it, with an example; /health, /ready and /metrics are there for those who operate it.
    """
    from tuning.serving.model import needs_extra
    from tuning.serving.settings import ServerSettings

    folder, run_by = model_dir.model(), backend_of(backend)
    settings = ServerSettings(
        max_body=max_body,
        max_rows=max_rows,
        max_characters=max_characters,
        max_waiting=max_waiting,
        batch_rows=batch_rows,
        batch_wait_ms=batch_wait_ms,
    )
    if ray:
        from tuning.cluster.ray_cluster import set_environment

        set_environment(address)
        with needs_extra():
            from tuning.serving.ray_app import serve_on_ray

        serve_on_ray(
            folder,
            settings,
            host=host,
            port=port,
            device=device,
            backend=run_by,
            replicas=replicas,
            address=address,
            say=echo,
        )
        return
    with needs_extra():
        from tuning.serving.server import serve as serve_here

    serve_here(folder, settings, host=host, port=port, device=device, backend=run_by, say=echo)
