"""Graphs for onnxruntime beside PyTorch: the figures of docs/onnx.md.

    PYTHONPATH=. python benchmarks/onnx_models.py MODEL_DIR DATA [--seconds 20]

Makes the graphs of a copy of an exported model in float32, float16 and int8, by the examples of a labelled file that it
was not trained on, and prints what they take and score; then latencies, with transformers' own padded model as one
more. All take turns, so that what else runs on the machine slows all alike. The output is Markdown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kobert_core.data.batching import Batch
from kobert_core.data.source import Source
from kobert_core.onnx import latency
from kobert_core.onnx.files import FILES, FOLDER
from kobert_core.onnx.graph import padded
from kobert_core.onnx.latency import latencies
from kobert_core.onnx.session import OnnxModel
from kobert_core.pretrained import load_pretrained
from tuning.sweep.onnx import PYTORCH, Wanted, add_onnx_on_file, latency_table, told


class Padded(nn.Module):
    """transformers' encoder in PyTorch, with the padding that it needs."""

    def __init__(self, whole: Any, pad_id: int) -> None:
        super().__init__()
        self.whole, self.pad_id = whole, pad_id

    def forward(self, **packed: Any) -> dict[str, torch.Tensor]:
        batch = Batch(packed, {}).padded(self.pad_id)  # type: ignore[arg-type]
        outputs: dict[str, torch.Tensor] = self.whole(*(batch[name] for name in self.whole.inputs))
        return outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=latency.SECONDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "model"
        shutil.copytree(given.model, folder, ignore=shutil.ignore_patterns(FOLDER))
        source = Source.of([str(given.data)])
        latency.SECONDS = 0.0  # measured below, with one more
        report = add_onnx_on_file(folder, source, Wanted(fp16=True, int8=True), say=print)
        print("\n".join(told(report)).partition("\n\n| milliseconds")[0], flush=True)
        latency.SECONDS = given.seconds
        ours, other = load_pretrained(folder), load_pretrained(folder)
        task, its_model = ours.task, other.model
        files = {each.precision: folder / FOLDER / FILES[each.precision] for each in report.kept}
        run = partial(OnnxModel, head=task.head, pad_id=task.tokenizer.pad_id)
        with padded(its_model) as whole:  # type: ignore[arg-type]
            models: dict[str, Callable[[int], nn.Module]] = {
                PYTORCH: lambda threads: ours.model,
                "transformers, padded": lambda threads: Padded(whole, task.tokenizer.pad_id),
            }
            for file in files.values():
                models[f"{FOLDER}/{file.name}"] = lambda threads, file=file: run(file, threads=threads)
            found = latencies(models, dict.fromkeys(models, task.read(source)))
    print("", *latency_table(found), "", sep="\n")
    print(f"{report.processor}, {min(each.runs for each in found)} runs or more; load {os.getloadavg()[2]:.1f}.")


if __name__ == "__main__":
    main()
