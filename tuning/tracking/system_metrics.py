"""The load of this machine while a sweep runs, by MLflow's own monitors and names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

SECONDS = 10.0
"""Between two looks, as MLflow has it."""
_log = logging.getLogger(__name__)


class SystemMetrics:
    """A thread that looks every few seconds, and reports until `stop`; it never raises."""

    def __init__(self, report: Callable[[Mapping[str, float], int], object]) -> None:
        """`report`: Takes metrics and a step, which is the time in seconds: a resumed sweep does not repeat one."""
        self._report, self._stopped = report, threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; after that nothing is reported."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            monitors = _monitors()
            while not self._stopped.wait(SECONDS):
                found: dict[str, float] = {}
                for monitor in monitors:
                    monitor.collect_metrics()
                    found |= monitor.aggregate_metrics()
                    monitor.clear_metrics()
                self._report({f"system/{name}": value for name, value in found.items()}, int(time.time()))
        except Exception as error:  # psutil's, the driver's of a GPU
            _log.warning("no more system metrics: %s", error)


def _monitors() -> list[BaseMetricsMonitor]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except (ImportError, RuntimeError) as error:  # nvidia-ml-py is not installed, or no GPU is here
        _log.info("%s", error)
    return monitors
