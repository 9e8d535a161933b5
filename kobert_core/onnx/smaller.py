"""Graphs with weights of fewer bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kobert_core.onnx.graph import MAX_FILE_BYTES, remove_graph, save_graph, size_of

if TYPE_CHECKING:
    import onnx

LINEAR, LOOKUP = ("MatMul", "Gemm"), ("Gather",)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How weights become 8-bit integers, each channel with a scale of its own; what they are multiplied with becomes
    such while the graph runs (dynamic quantization)."""

    embeddings: bool = True
    """Whether they become integers too."""
    head: bool = True
    """Whether the last linear layer before each output does."""
    reduce_range: bool = True
    """Whether weights use 7 of the 8 bits. With all 8, sums of products overflow on processors without VNNI."""

    def __str__(self) -> str:
        """In words."""
        kept = [name for name, quantized in (("embeddings", self.embeddings), ("head", self.head)) if not quantized]
        bits = "7 of 8 bits" if self.reduce_range else "all 8 bits, for processors with VNNI alone"
        return ", ".join(["per channel", *(f"{name} in float32" for name in kept), bits])


LADDER = (
    Quantization(),
    Quantization(embeddings=False),
    Quantization(embeddings=False, head=False),
    Quantization(embeddings=False, head=False, reduce_range=False),
)
"""What is tried, in this order, until one loses little enough of the task's metric."""


def quantize(graph: Path, file: Path, how: Quantization) -> None:
    """Write a graph with weights that are 8-bit integers, by onnxruntime's dynamic quantization."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kept = [] if how.head else last_linear_layers(onnx.load(graph, load_external_data=False))
    remove_graph(file)
    with _quiet_quantization():
        quantize_dynamic(
            graph,
            file,
            op_types_to_quantize=[*LINEAR, *(LOOKUP if how.embeddings else ())],
            per_channel=True,
            reduce_range=how.reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            use_external_data_format=size_of(graph) > MAX_FILE_BYTES,
        )
    onnx.checker.check_model(str(file))


def last_linear_layers(graph: onnx.ModelProto) -> list[str]:
    """The names of the nodes that are the last linear layer before an output."""
    weights = {each.name for each in graph.graph.initializer}
    maker = {output: node for node in graph.graph.node for output in node.output}
    found: dict[str, None] = {}
    open_values = [output.name for output in graph.graph.output]
    while open_values:
        node = maker.get(open_values.pop())
        if node is None:
            continue
        if node.op_type in LINEAR and weights.intersection(node.input):
            found[node.name] = None
        else:
            open_values.extend(node.input)
    return list(found)


@contextmanager
def _quiet_quantization() -> Iterator[None]:
    """Without its advice to prepare a graph that the exporter has already prepared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def halve(graph: Path, file: Path) -> None:
    """Write a graph whose weights are in float16; its inputs and outputs stay what they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    save_graph(convert_float_to_float16(onnx.load(graph), keep_io_types=True), file)
