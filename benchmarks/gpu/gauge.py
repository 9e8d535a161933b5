"""How busy the card is, as its driver counts it: the share of the last moments in which a kernel ran."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

PAUSE = 0.05
_SMI = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]


class Gauge:
    """Reads it many times a second while it is open, in a thread of its own; takes no memory of the device.

    By NVML where its Python package is installed, else by `nvidia-smi`. Where neither answers it has no samples, and
    `problem` says why.
    """

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        """Seconds since 1970, and percent."""
        self.source, self.problem = "nothing", ""
        self._closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Gauge:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(5)

    def _run(self) -> None:
        for source, read in (("NVML", self._by_nvml), ("nvidia-smi", self._by_smi)):
            self.source = source
            try:
                read()
            except Exception as error:  # whatever a driver, or a package that is not there, comes up with
                self.problem += f"{source}: {type(error).__name__}: {str(error)[:120]}; "
            if self.samples or self._closed.is_set():
                return

    def _by_nvml(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        try:
            card = pynvml.nvmlDeviceGetHandleByIndex(0)
            self._sample(lambda: float(pynvml.nvmlDeviceGetUtilizationRates(card).gpu))
        finally:
            with suppress(Exception):
                pynvml.nvmlShutdown()

    def _sample(self, read: Callable[[], float]) -> None:
        while not self._closed.is_set():
            self.samples.append((time.time(), read()))
            self._closed.wait(PAUSE)

    def _by_smi(self) -> None:
        if shutil.which(_SMI[0]) is None:
            raise FileNotFoundError(_SMI[0])
        self._process = subprocess.Popen(_SMI, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self._closed.is_set():
                break
            self.samples.append((time.time(), float(line)))
        self._process.kill()
        self._process.wait(5)
