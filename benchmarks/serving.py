"""`kobert-tune serve` under load, beside `mlflow models serve` and transformers' `pipeline()` behind FastAPI.

    PYTHONPATH=. python benchmarks/serving.py [--clients 1 8 64] [--seconds 10] [--rounds 3] [--model MODEL_DIR]

All servers run at once, with the same model and number of threads, and take turns to be asked: so what else the machine
does falls on all of them. Each client sends a review of NSMC when the one before is answered. The clients are one
process, on the same cores. A ratio is taken within a round; shown are medians of the rounds. Prints a table and JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.fixtures.nodes import free_port

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
REVIEWS = SHARED / "data/nsmc/ratings_train.txt"
OURS, MLFLOW, PIPELINE, IN_LOOP = "kobert-tune serve", "mlflow models serve", "pipeline, def", "pipeline, async def"
THREADS = str(len(os.sched_getaffinity(0)))
SECONDS_TO_START = 300
SAME = 1e-4  # between probabilities of two sides


class Side(NamedTuple):
    """A server."""

    command: list[str]
    path: str
    port: int

    def request(self, text: str) -> bytes:
        """One request for a text."""
        content: dict[str, object] = {"inputs": [text]} if self.path == "/invocations" else {"text": text}
        body = json.dumps(content).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Load(NamedTuple):
    """What came of so many clients."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float


def sides(model: Path, work: Path) -> dict[str, Side]:
    """The servers, each on a port of its own."""
    pipeline = [sys.executable, str(ROOT / "benchmarks/sides/pipeline_server.py"), str(model)]
    tune, mlflow = [sys.executable, "-m", "tuning", "serve", str(model)], [sys.executable, "-m", "mlflow"]
    saved = ["models", "serve", "--env-manager", "local", "--model-uri", str(save_for_mlflow(model, work / "mlflow"))]
    commands = {
        OURS: (tune, "/predict"),
        MLFLOW: ([*mlflow, *saved], "/invocations"),
        PIPELINE: (pipeline, "/predict"),
        IN_LOOP: ([*pipeline, "--async-def"], "/predict"),
    }
    found = {}
    for name, (command, path) in commands.items():
        port = free_port()
        found[name] = Side([*command, "--port", str(port)], path, port)
    return found


def save_for_mlflow(model: Path, folder: Path) -> Path:
    """The model as `mlflow.transformers` keeps a pipeline."""
    import mlflow
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(model), top_k=None)
    mlflow.transformers.save_model(classify, str(folder), pip_requirements=[])
    return folder


def random_head(folder: Path) -> Path:
    """An exported model: the encoder of `shared/models/e5-kobert` with a head that was not trained."""
    from kobert_core.pretrained import save_model_files, save_weights
    from kobert_core.tasks import parse_train_config, task_class

    data = {"train": str(REVIEWS), "max_train_examples": 1000, "max_length": 128}
    model = {"backbone": str(SHARED / "models/e5-kobert")}
    config = parse_train_config({"task": "nsmc", "data": data, "model": model})
    task = task_class(config.task)(config)
    save_model_files(folder, task)
    save_weights(folder, type(task), task.build_model().state_dict())
    return folder


@contextlib.contextmanager
def running(side: Side, log: Path) -> Iterator[None]:
    """The server of a side, until it is not needed."""
    environment = os.environ | {"OMP_NUM_THREADS": THREADS, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # MLflow calls uvicorn by its name
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(side.command, env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", side.port), timeout=5):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"a server does not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


async def ask(side: Side, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], text: str) -> Any:
    """The answer for a text."""
    reader, writer = streams
    writer.write(side.request(text))
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    body = await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
    if " 200 " not in head.split("\r\n")[0]:
        raise SystemExit(f"an error of {side.command}:\n{head}{body.decode()}")
    return json.loads(body)


async def load(side: Side, texts: Sequence[str], clients: int, seconds: float) -> Load:
    """So many clients at a time, for some seconds after as many requests again are answered."""
    times: list[tuple[float, float]] = []

    async def client(number: int) -> None:
        streams = await asyncio.open_connection("127.0.0.1", side.port)
        await ask(side, streams, texts[-1 - number])
        begun.release()
        at = number
        while time.perf_counter() < deadline:
            begin = time.perf_counter()
            await ask(side, streams, texts[at % len(texts)])
            times.append((begin, time.perf_counter()))
            at += clients
        streams[1].close()

    deadline, begun = float("inf"), asyncio.Semaphore(0)
    asked = [asyncio.create_task(client(number)) for number in range(clients)]
    for _ in range(clients):
        await begun.acquire()
    start = time.perf_counter()
    deadline = start + seconds
    await asyncio.gather(*asked)
    # What is on its way at the deadline ends while fewer clients ask: it counts for the times alone.
    whole = [1000 * (end - begin) for begin, end in times if begin >= start]
    rate = sum(start < end <= deadline for _, end in times) / seconds
    return Load(rate, statistics.median(whole), statistics.quantiles(whole, n=100)[98])


def positive(answer: Any) -> float:
    """The probability of the second class, as any of the sides gives it."""
    if isinstance(answer, dict) and "predictions" in answer:
        answer = answer["predictions"]
    if isinstance(answer, dict):
        return float(answer["probability_positive"])
    while isinstance(answer, list):  # MLflow gives the likeliest class alone
        answer = answer[0]
    return float(answer["score"] if answer["label"] == "positive" else 1 - answer["score"])


async def check_same(given: dict[str, Side], texts: Sequence[str]) -> float:
    """The largest difference between the probabilities of the sides."""
    found = []
    for side in given.values():
        streams = await asyncio.open_connection("127.0.0.1", side.port)
        found.append([positive(await ask(side, streams, text)) for text in texts])
        streams[1].close()
    return max(abs(one - other) for row in found[1:] for one, other in zip(found[0], row, strict=True))


def show(rounds: list[dict[tuple[str, int], Load]], names: Sequence[str], clients: Sequence[int]) -> dict[str, Any]:
    """Print the medians, and give them as JSON values."""
    found: dict[str, Any] = {}
    for count in clients:
        print(f"\n{count} client(s)     {'requests/s':>12} {'p50 ms':>9} {'p99 ms':>9}   ours, times as many requests")
        for name in names:
            loads = [one[name, count] for one in rounds]
            rate, p50, p99 = (statistics.median(values) for values in zip(*loads, strict=True))
            ratios = [one[OURS, count].requests_per_second / one[name, count].requests_per_second for one in rounds]
            shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
            print(f"{name:20} {rate:8.1f} {p50:9.1f} {p99:9.1f}   {shown}", flush=True)
            figures = {"requests_per_second": rate, "p50_ms": p50, "p99_ms": p99, "ratios": ratios}
            found[f"{name}, {count}"] = figures
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="an exported model of two classes, `negative` and `positive`")
    given = parser.parse_args()
    texts = [line.split("\t")[1] for line in REVIEWS.read_text(encoding="utf-8").splitlines()[1:20_001]]
    texts = [text for text in texts if text.strip()]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        work = Path(folder)
        found = sides(given.model or random_head(work / "model"), work)
        for number, side in enumerate(found.values()):
            servers.enter_context(running(side, work / f"{number}.log"))
        difference = asyncio.run(check_same(found, texts[:20]))
        if difference > SAME:
            raise SystemExit(f"the sides give other probabilities: {difference}")
        rounds = []
        for number in range(given.rounds):
            names = [*found][number % len(found) :] + [*found][: number % len(found)]
            rounds.append(
                {
                    (name, count): asyncio.run(load(found[name], texts, count, given.seconds))
                    for count in given.clients
                    for name in names
                }
            )
            print(f"round {number + 1} of {given.rounds}; load of the machine {os.getloadavg()[0]:.1f}", flush=True)
    print(json.dumps(show(rounds, [*found], given.clients)))


if __name__ == "__main__":
    main()
