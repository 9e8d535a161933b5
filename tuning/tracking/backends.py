"""Other trackers beside MLflow, as callbacks: TensorBoard, and Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tuning.tracking.callbacks import Callback, TrialKey
from tuning.tracking.spool import header_of


class TensorBoard(Callback):
    """An event file for each trial, in a folder of its own below `folder`: `tensorboard --logdir` shows them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[TrialKey, Any] = {}

    def on_trial_start(self, trial: TrialKey, params: Mapping[str, str]) -> None:
        """Its parameters are a text beside its curves."""
        rows = "".join(f"| {name} | {value} |\n" for name, value in params.items())
        self._writer(trial).add_text("params", f"| key | value |\n|---|---|\n{rows}")

    def on_report(self, trial: TrialKey, step: int, metrics: Mapping[str, float]) -> None:
        """A point of each metric's curve."""
        writer = self._writer(trial)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def on_result(self, trial: TrialKey, metrics: Mapping[str, float]) -> None:
        """A single point of each."""
        self.on_report(trial, 0, metrics)

    def on_trial_end(self, trial: TrialKey, state: str) -> None:
        """Its file is closed."""
        if trial in self._writers:
            self._writers.pop(trial).close()

    def on_sweep_end(self, state: str) -> None:
        """All files are closed."""
        for trial in list(self._writers):
            self.on_trial_end(trial, state)

    def _writer(self, trial: TrialKey) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if trial not in self._writers:
            name = f"{trial:04d}" if isinstance(trial, int) else trial
            self._writers[trial] = SummaryWriter(str(self._folder / name))
        return self._writers[trial]


class WeightsAndBiases(Callback):
    """A run of Weights & Biases for each trial, in the group of the sweep. `WANDB_MODE`, `WANDB_API_KEY` and its other
    variables hold; a resumed sweep goes on in the same runs."""

    def __init__(self, folder: Path, *, project: str, spool: Path) -> None:
        self._folder, self._project, self._spool = folder, project, spool
        self._runs: dict[TrialKey, Any] = {}

    def on_trial_start(self, trial: TrialKey, params: Mapping[str, str]) -> None:
        """Open its run, or open it again."""
        import wandb

        if trial in self._runs:
            return
        header = header_of(self._spool) or {}
        sweep, key = str(header.get("sweep", "sweep")), str(trial).replace("/", "-")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._runs[trial] = wandb.init(
            project=self._project,
            group=sweep,
            name=f"{sweep}/{trial:02d}" if isinstance(trial, int) else f"{sweep}/{trial}",
            id=f"{header.get('sweep_id', sweep)}-{key}",
            resume="allow",
            config=dict(params),
            dir=str(self._folder),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def on_report(self, trial: TrialKey, step: int, metrics: Mapping[str, float]) -> None:
        """A point of each metric's curve."""
        if trial in self._runs:
            self._runs[trial].log(dict(metrics), step=step)

    def on_result(self, trial: TrialKey, metrics: Mapping[str, float]) -> None:
        """What is known before its run ends is in its summary."""
        if trial in self._runs:
            self._runs[trial].summary.update(dict(metrics))

    def on_trial_end(self, trial: TrialKey, state: str) -> None:
        """Its run ends, with the ledger's word for how."""
        if trial in self._runs:
            run = self._runs.pop(trial)
            run.summary["state"] = state
            run.finish(exit_code=1 if state == "FAILED" else 0)

    def on_sweep_end(self, state: str) -> None:
        """All runs end."""
        for trial in list(self._runs):
            self.on_trial_end(trial, "INTERRUPTED")


def make_backend(name: str, folder: Path, *, project: str, spool: Path) -> Callback:
    """The tracker of this name, which writes below a folder.

    Raises:
        ValueError: it is not installed.
    """
    if find_spec(name) is None:
        raise ValueError(f"{name} is not installed: pip install 'kobert-tuning[{name}]'")
    return TensorBoard(folder) if name == "tensorboard" else WeightsAndBiases(folder, project=project, spool=spool)
