"""A graph that onnxruntime runs in the place of the model that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from kobert_core.data.batching import Batch, PackedInputs
from kobert_core.errors import InputError, reason_of
from kobert_core.io.checksums import check_sums
from kobert_core.models.heads import EncoderWithHead
from kobert_core.onnx.files import PRECISION_OF, Backend, graph_of, need_packages
from kobert_core.tasks.base import Task


class OnnxModel(nn.Module):
    """Takes what the model takes, and gives the same but no loss, to rounding. It runs on the CPU."""

    def __init__(self, file: Path, head: type[EncoderWithHead], *, pad_id: int, threads: int | None = None) -> None:
        """A session of onnxruntime.

        Args:
            file: The graph.
            head: The class of the model.
            pad_id: The id of the padding.
            threads: How many compute; as many as of PyTorch when not given.

        Raises:
            InputError: onnxruntime is not installed, or cannot read the graph.
        """
        super().__init__()
        need_packages("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors: it warns of each constant that it folds away
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an error of its own for each kind of damage
            raise InputError(f"onnxruntime cannot read the graph ({reason_of(error)})", where=file) from error
        self._head, self._pad_id = head, pad_id
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]

    def forward(self, **packed: Unpack[PackedInputs]) -> Any:
        """The output of the model, on the device of its inputs."""
        device = packed["input_ids"].device
        padded = Batch(packed, {}).padded(self._pad_id)
        arrays = self._session.run(self._outputs, {name: padded[name].numpy() for name in self._inputs})
        outputs = {name: torch.from_numpy(array).to(device) for name, array in zip(self._outputs, arrays, strict=True)}
        return self._head.packed_output(outputs, packed)


def load_onnx_model(folder: Path, task: Task[Any], backend: Backend) -> OnnxModel:
    """The graph of an exported model.

    Raises:
        InputError: onnxruntime is not installed, or the model has no such graph, or not the one that was written.
    """
    file = graph_of(folder, PRECISION_OF[backend])
    check_sums(file.parent)
    return OnnxModel(file, task.head, pad_id=task.tokenizer.pad_id)
