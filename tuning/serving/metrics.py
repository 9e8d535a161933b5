"""What a server counts, in Prometheus's format. No label of a metric is what a client wrote."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, *, model: str, waiting: Callable[[], int]) -> None:
        """Metrics of a server that has heard nothing yet.

        Args:
            model: What the model is called.
            waiting: Tells how many rows wait for it.
        """
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("kobert_model", "The model that is served.", registry=registry).info({"name": model})
        named = ("path", "method", "status")
        self._requests = Counter("http_requests", "Requests that were answered.", named, registry=registry)
        self._request_seconds = Histogram(
            "http_request_duration_seconds",
            "From the headers of a request to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "kobert_batch_rows", "Rows that went through the model together.", buckets=ROWS, registry=registry
        )
        self._batch_seconds = Histogram(
            "kobert_batch_duration_seconds", "Time of the model for a batch.", buckets=SECONDS, registry=registry
        )
        Gauge("kobert_rows_waiting", "Rows that wait for the model.", registry=registry).set_function(waiting)

    def request(self, path: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, method, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def batch(self, rows: int, seconds: float) -> None:
        """Rows went through the model."""
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
