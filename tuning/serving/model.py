"""The model of a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from kobert_core.errors import InputError
from kobert_core.onnx.files import Backend

Row = Mapping[str, object]
Answer = dict[str, object]

EXTRA = "pip install 'kobert-tuning[serve]'"


class Model(Protocol):
    """What a server needs of a model: `kobert_core.inference.Predictor` is one."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row must have."""
        ...

    @property
    def example(self) -> dict[str, str]:
        """A row, to show what one is."""
        ...

    @property
    def answer_types(self) -> dict[str, Any]:
        """What an answer has, in order."""
        ...

    def problem(self, row: Row) -> str | None:
        """Why a row cannot be used, in words without its text; None where it can."""
        ...

    def predict(self, rows: Sequence[Row]) -> list[Answer]:
        """An answer a row, in their order. Called by one thread at a time."""
        ...


def load_model(folder: Path, *, device: str | None = None, backend: Backend = "torch") -> Model:
    """The model of an exported folder; onnxruntime runs on the CPU.

    Raises:
        InputError: the folder is not one that was exported, or the device is not there.
    """
    from kobert_core.inference import Predictor

    return Predictor.load(folder, device=device, backend=backend)


@contextmanager
def needs_extra() -> Iterator[None]:
    """Around imports of what the extra `serve` installs.

    Raises:
        InputError: something of it is missing.
    """
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error)
        raise InputError(f"`{missing}` is not installed, which serving needs", fix=EXTRA) from error
