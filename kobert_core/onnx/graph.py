"""From a model to a graph that runs anywhere: transformers' own padded encoder, with the model's head on it."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from kobert_core.models.heads import EncoderWithHead
from kobert_core.models.packed_encoder import use_packed_attention
from kobert_core.tasks.examples import Examples

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""Of the operators: onnxruntime knows these from version 1.14 on."""
PARITY_EXAMPLES = 64
MAX_FILE_BYTES = 2**31 - 2**20
"""What a file of ONNX can hold; the weights of a larger graph are in a second file beside it."""


class PaddedModel(nn.Module):
    """A model on padded sequences. Positions are counted from the first token on, whatever the ids are."""

    def __init__(self, model: EncoderWithHead) -> None:
        super().__init__()
        self.model = model
        config = model.encoder.config
        self.inputs = ["input_ids", "attention_mask"]
        if model.family.tells_types_apart(config):
            self.inputs.append("token_type_ids")
        self._first_position = config.pad_token_id + 1 if model.family.starts_after_padding else None

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """The outputs of the model's head by their names; all inputs are of shape (sequences, width)."""
        more: dict[str, torch.Tensor] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        if self._first_position is not None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device) + self._first_position
            more["position_ids"] = positions.expand(input_ids.shape)
        hidden = self.model.encoder(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state
        return self.model.padded_outputs(hidden, attention_mask)


@contextmanager
def padded(model: EncoderWithHead) -> Iterator[PaddedModel]:
    """The same model on padded sequences; while it is, it takes no packed ones."""
    if model.family.is_packed:
        model.encoder.set_attn_implementation("sdpa")
    try:
        yield PaddedModel(model).eval()
    finally:
        use_packed_attention(model.encoder)


def export_graph(model: EncoderWithHead, file: Path) -> None:
    """Write a model as a graph that takes any number of sequences of any length.

    Inputs are `input_ids`, `attention_mask` and, where the encoder looks at them, `token_type_ids`: int64, shape
    (batch, length). Outputs are those of `padded_outputs`.

    Traced with `dynamo=False`: the graphs of the newer exporter are as right for all families, but take four times as
    long to make, and are slower by a third.
    """
    import onnx

    # Two sequences of several tokens: a size of 1 would be taken for a constant.
    shape = (2, 16)
    with padded(model) as whole, torch.no_grad(), tempfile.TemporaryDirectory(dir=file.parent) as folder:
        example = tuple(torch.ones(shape, dtype=torch.int64) for _ in whole.inputs)
        outputs = whole(*example)
        axes = {name: {0: "batch", 1: "length"} for name in whole.inputs}
        axes |= {
            name: {0: "batch", 1: "length"} if output.shape[:2] == shape else {0: "batch"}
            for name, output in outputs.items()
        }
        traced = Path(folder) / file.name
        with _quiet_tracing():
            torch.onnx.export(
                whole,
                example,
                traced,
                input_names=whole.inputs,
                output_names=list(outputs),
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
        save_graph(onnx.load(traced), file)


@contextmanager
def _quiet_tracing() -> Iterator[None]:
    """Without what the tracer warns of: that it is the older one, and each branch that it takes for a constant. The
    branches are those of all lengths, as the tests of each family show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def save_graph(graph: onnx.ModelProto, file: Path) -> None:
    """Write a graph that was checked.

    Raises:
        onnx.checker.ValidationError: it is none that runs anywhere.
    """
    import onnx

    remove_graph(file)  # weights would be appended to those beside it
    apart = graph.ByteSize() > MAX_FILE_BYTES
    onnx.save_model(graph, file, save_as_external_data=apart, location=_weights_of(file).name)
    onnx.checker.check_model(os.fspath(file))


def names_of(file: Path) -> tuple[list[str], list[str]]:
    """What a graph takes, and what it gives."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    return [each.name for each in graph.input], [each.name for each in graph.output]


def size_of(file: Path) -> int:
    """The bytes of a graph, with those of its weights where they lie beside it."""
    return sum(each.stat().st_size for each in (file, _weights_of(file)) if each.is_file())


def remove_graph(file: Path) -> None:
    """Remove a graph, if it is there, and its weights."""
    for each in (file, _weights_of(file)):
        each.unlink(missing_ok=True)


def _weights_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.data")


@torch.inference_mode()
def largest_difference(model: nn.Module, other: nn.Module, examples: Examples) -> float:
    """How far the logits of two models are apart at most: infinite where one has no number.

    Compared are up to 64 examples of all lengths, in float32: the longest and the shortest alone, the others in batches
    that mix them.
    """
    order = np.argsort(examples.lengths, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), PARITY_EXAMPLES)).astype(np.int64))]
    mixed = [chosen[start::4] for start in range(min(4, len(chosen)))]
    largest = 0.0
    for indices in (chosen[-1:], chosen[:1], *mixed):
        inputs: Any = examples.batch(indices).inputs
        for ours, theirs in zip(model(**inputs), other(**inputs), strict=True):
            if ours is not None:
                largest = max(largest, _difference(ours, theirs))
    return largest


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    apart = (ours - theirs).abs()
    apart[ours == theirs] = 0.0  # both may be infinite
    return float(apart.nan_to_num(nan=torch.inf).max())
