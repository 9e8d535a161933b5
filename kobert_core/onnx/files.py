"""Where the graphs of an exported model lie, and what they need."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal, get_args

from kobert_core.errors import InputError

Precision = Literal["fp32", "fp16", "int8"]
"""Of the weights of a graph."""
Backend = Literal["torch", "onnx", "onnx-fp16", "onnx-int8"]
"""What runs a model: PyTorch, or onnxruntime on one of its graphs."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)

FOLDER = "onnx"
"""In the folder of an exported model, as on the HuggingFace hub."""
FILES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}
REPORT = "report.json"
"""How the graphs were made, and what was measured."""
PRECISION_OF: dict[Backend, Precision] = {"onnx": "fp32", "onnx-fp16": "fp16", "onnx-int8": "int8"}
MAX_DROP = 0.3
"""Points of the task's metric that a smaller graph may lose, unless another number is given."""

EXTRA = "pip install 'kobert-tuning[onnx]'"


def backend_of(name: str) -> Backend:
    """The backend of a name.

    Raises:
        InputError: there is none.
    """
    for backend in BACKENDS:
        if backend == name:
            return backend
    raise InputError(f"nothing is called `{name}` that runs models", where="backend", fix=f"use {', '.join(BACKENDS)}")


def need_packages(*names: str) -> None:
    """Refuse to go on without some packages of the extra `onnx`.

    Raises:
        InputError: one is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"the package `{name}` is not installed", fix=EXTRA)


def graph_of(folder: Path, precision: Precision) -> Path:
    """The file of a graph, in the folder of an exported model.

    Raises:
        InputError: the model has no such graph.
    """
    file = folder / FOLDER / FILES[precision]
    if not file.is_file():
        wanted = "" if precision == "fp32" else f" --{precision}"
        raise InputError(
            "this model has no such graph",
            where=file,
            fix=f"make it with `kobert-tune onnx MODEL_DIR --data FILE{wanted}`",
        )
    return file
