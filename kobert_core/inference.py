"""A trained model that answers for rows in memory: what servers and other programs call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from kobert_core.errors import InputError
from kobert_core.evaluation import predict
from kobert_core.onnx.files import Backend
from kobert_core.pretrained import Pretrained, load_pretrained
from kobert_core.progress import Progress, unseen
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks.examples import Inputs


class Predictor:
    """A model with its task, on a device. Not for several threads at once."""

    def __init__(self, pretrained: Pretrained, *, device: str | None = None) -> None:
        """Put a model on a device; by default the GPU, if there is one.

        Raises:
            InputError: there is no such device.
        """
        self._runtime = LocalRuntime(device=pretrained.device if device is None else _device_of(device))
        self.task, self.model = pretrained.task, pretrained.model.to(self._runtime.device).eval()

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str | None = None,
        backend: Backend = "torch",
        progress: Progress = unseen,
    ) -> Self:
        """Of a folder that was exported. onnxruntime runs on the CPU; `progress` hears what its task does.

        Raises:
            InputError: as from `load_pretrained`.
        """
        pretrained = load_pretrained(folder, backend=backend, progress=progress)
        return cls(pretrained, device=device if backend == "torch" else None)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._runtime.device

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row must have: `text`; `text` and `pair`; or `context` and `question`."""
        return self.task.input_columns

    @property
    def example(self) -> dict[str, str]:
        """A row, to show what one is."""
        return self.task.input_example

    @property
    def answer_types(self) -> dict[str, Any]:
        """What an answer has, in order: as `Task.answer_types` says it."""
        return self.task.answer_types

    def problem(self, row: Mapping[str, object]) -> str | None:
        """Why a row cannot be answered, such as `empty text`; None if it can."""
        return self.task.input_problem(row)

    def predict(self, rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
        """An answer a row, in their order: what `kobert-tune predict` says of it.

        Args:
            rows: Each with texts under the names in `columns`; others are not looked at.

        Raises:
            InputError: a row cannot be answered.
        """
        for number, row in enumerate(rows, start=1):
            if (problem := self.problem(row)) is not None:
                raise InputError(problem, where=f"row {number}")
        if not rows:
            return []
        answers = self.answers(self.task.inputs(rows))
        return [{name: value for name, value in answer.items() if name != "id"} for answer in answers]

    def answers(self, inputs: Inputs[Any]) -> list[dict[str, object]]:
        """An answer for each of a file's rows, or of rows in memory, with its id: as `Task.answers` gives them."""
        outputs = predict(self.model, self.task, inputs.examples, self._runtime)
        return self.task.answers(inputs.ids, inputs.examples, outputs)


def _device_of(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"no device `{name}` ({error})", where="device", fix="give cpu, cuda, or cuda:1") from error
    return device
