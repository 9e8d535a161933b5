"""Graphs of every task and family: what onnxruntime makes of them is what the model says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kobert_core.errors import InputError
from kobert_core.evaluation import predict
from kobert_core.families import FAMILIES
from kobert_core.models.heads import EncoderWithHead
from kobert_core.onnx import files, graph, latency
from kobert_core.onnx.graph import OPSET, export_graph, largest_difference, padded, size_of
from kobert_core.onnx.session import OnnxModel
from kobert_core.onnx.smaller import LADDER, Quantization, halve, last_linear_layers, quantize
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import task_class
from kobert_core.tasks.base import Task
from tests.fixtures.encoders import classification, entities, make_encoder, questions

CONFIGS = {"nsmc": (classification, ".tsv"), "korquad": (questions, ".json"), "tokens": (entities, ".tsv")}
WIDE = {"initializer_range": 0.2}
"""Weights so large that logits are of the size that training gives them."""
OUTPUTS = {
    "nsmc": {"logits"},
    "korquad": {"start_logits", "end_logits", "trim_start_logits", "trim_end_logits"},
    "tokens": {"logits"},
}


def made(name: str, family: str, folder: Path, **values: Any) -> tuple[Task[Any], EncoderWithHead, Path]:
    """A task, a new model of it, and its graph."""
    config_of, suffix = CONFIGS[name]
    encoder = make_encoder(family, folder / "hub", **WIDE | values)
    task = task_class(name)(config_of(encoder, folder / f"data{suffix}"))
    torch.manual_seed(0)
    model = task.build_model().eval()
    export_graph(model, folder / "model.onnx")
    return task, model, folder / "model.onnx"


def session(task: Task[Any], file: Path) -> OnnxModel:
    return OnnxModel(file, task.head, pad_id=task.tokenizer.pad_id)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_graph_gives_the_logits_of_the_model_at_every_shape(family: str, name: str, tmp_path: Path) -> None:
    task, model, file = made(name, family, tmp_path)
    content = onnx.load(file)
    onnx.checker.check_model(content, full_check=True)
    assert [(each.domain, each.version) for each in content.opset_import] == [("", OPSET)]
    takes_types = family in ("bert", "electra")
    assert [each.name for each in content.graph.input] == [
        *("input_ids", "attention_mask"),
        *["token_type_ids"] * takes_types,
    ]
    for each in content.graph.input:
        assert [size.dim_param for size in each.type.tensor_type.shape.dim] == ["batch", "length"]
    assert {each.name for each in content.graph.output} == OUTPUTS[name]
    assert largest_difference(model, session(task, file), task.train) < 1e-4
    alone = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    with padded(model) as whole, torch.inference_mode():
        for batch, width in [(1, 3), (1, task.longest), (2, 7), (7, 16), (33, 33), (3, task.longest)]:
            lengths = np.maximum(generator.integers(3, width + 1, batch), width * (np.arange(batch) == 0))
            mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
            ids = np.where(mask, generator.integers(5, len(task.tokenizer), mask.shape), task.tokenizer.pad_id)
            types = mask * (np.arange(width) > width // 2)
            given = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if takes_types else {})
            expected = whole(**{key: torch.from_numpy(array) for key, array in given.items()})
            found = dict(zip(expected, alone.run(list(expected), given), strict=True))
            for key, each in expected.items():
                tokens = torch.from_numpy(mask).bool() if each.shape[:2] == mask.shape else slice(None)
                torch.testing.assert_close(torch.from_numpy(found[key])[tokens], each[tokens], rtol=0, atol=1e-4)
    rows = task.train.batch(np.arange(2)).inputs
    with torch.inference_mode():
        assert torch.isfinite(model(**rows)[1]).any(), "the model takes packed sequences again"


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_task_scores_is_the_same_from_the_graph(name: str, tmp_path: Path) -> None:
    task, model, file = made(name, "bert", tmp_path)
    runtime = LocalRuntime(device=torch.device("cpu"))
    ours = predict(model, task, task.dev, runtime)
    theirs = predict(session(task, file), task, task.dev, runtime)
    assert ours.keys() == theirs.keys()
    for key, expected in ours.items():
        np.testing.assert_allclose(theirs[key], expected, rtol=0, atol=1e-4)
    assert task.score(task.dev, theirs) == pytest.approx(task.score(task.dev, ours), abs=1e-4)


def test_a_pooled_mean_leaves_padding_out(tmp_path: Path) -> None:
    task, model, file = made("nsmc", "modernbert", tmp_path, classifier_pooling="mean")
    assert model.takes_mean and len(set(task.train.lengths.tolist())) > 1
    assert largest_difference(model, session(task, file), task.train) < 1e-4


def test_a_head_of_our_own_is_in_the_graph(tmp_path: Path) -> None:
    encoder = make_encoder("bert", tmp_path / "hub", **WIDE)
    task = task_class("nsmc")(classification(encoder, tmp_path / "data.tsv", pooling="mean"))
    model = task.build_model().eval()
    export_graph(model, tmp_path / "model.onnx")
    assert largest_difference(model, session(task, tmp_path / "model.onnx"), task.train) < 1e-4


def test_questions_without_a_boundary_head_have_two_outputs(tmp_path: Path) -> None:
    encoder = make_encoder("bert", tmp_path / "hub", **WIDE)
    task = task_class("korquad")(questions(encoder, tmp_path / "data.json", boundary_head=False))
    model = task.build_model().eval()
    export_graph(model, tmp_path / "model.onnx")
    assert {each.name for each in onnx.load(tmp_path / "model.onnx").graph.output} == {"start_logits", "end_logits"}
    assert largest_difference(model, session(task, tmp_path / "model.onnx"), task.train) < 1e-4


@pytest.mark.parametrize(("family", "name"), [("bert", "nsmc"), ("roberta", "tokens"), ("deberta-v2", "korquad")])
def test_smaller_graphs_run_and_say_nearly_the_same(family: str, name: str, tmp_path: Path) -> None:
    task, model, file = made(name, family, tmp_path, vocab_size=10_000)
    halve(file, tmp_path / "half.onnx")
    half = largest_difference(model, session(task, tmp_path / "half.onnx"), task.train)
    assert 1e-5 < half < 0.05 and size_of(tmp_path / "half.onnx") < 0.7 * size_of(file)
    kinds = {each.type.tensor_type.elem_type for each in onnx.load(tmp_path / "half.onnx").graph.output}
    assert kinds == {onnx.TensorProto.FLOAT}
    sizes = []
    for how in LADDER[:3]:
        quantize(file, tmp_path / "small.onnx", how)
        assert largest_difference(model, session(task, tmp_path / "small.onnx"), task.train) < 1.0, str(how)
        sizes.append(size_of(tmp_path / "small.onnx"))
    assert sizes[0] < 0.6 * size_of(file) and sizes[0] < sizes[1]


def test_the_head_and_the_embeddings_can_be_left_as_they_are(tmp_path: Path) -> None:
    _, _, file = made("korquad", "bert", tmp_path)
    heads = last_linear_layers(onnx.load(file))
    assert len(heads) == 3, "start and end are one layer, and each trim has one"
    quantize(file, tmp_path / "small.onnx", Quantization(embeddings=False, head=False))
    small = onnx.load(tmp_path / "small.onnx")
    assert {node.name for node in small.graph.node if node.op_type in ("MatMul", "Gemm")} >= set(heads)
    kinds = {each.name: each.data_type for each in small.graph.initializer}
    assert onnx.TensorProto.FLOAT in {kind for name, kind in kinds.items() if "word_embeddings" in name}
    assert [str(how) for how in LADDER] == [
        "per channel, 7 of 8 bits",
        "per channel, embeddings in float32, 7 of 8 bits",
        "per channel, embeddings in float32, head in float32, 7 of 8 bits",
        "per channel, embeddings in float32, head in float32, all 8 bits, for processors with VNNI alone",
    ]


def test_weights_that_no_file_holds_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, model, file = made("nsmc", "bert", tmp_path)
    whole = size_of(file)
    monkeypatch.setattr(graph, "MAX_FILE_BYTES", 10_000)
    monkeypatch.setattr("kobert_core.onnx.smaller.MAX_FILE_BYTES", 10_000)
    export_graph(model, tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.data").is_file() and size_of(tmp_path / "large.onnx") == pytest.approx(whole, 0.2)
    assert largest_difference(model, session(task, tmp_path / "large.onnx"), task.train) < 1e-4
    halve(tmp_path / "large.onnx", tmp_path / "half.onnx")
    quantize(tmp_path / "large.onnx", tmp_path / "small.onnx", LADDER[0])
    for name, most in (("half", 0.05), ("small", 1.0)):
        assert (tmp_path / f"{name}.onnx.data").is_file()
        assert largest_difference(model, session(task, tmp_path / f"{name}.onnx"), task.train) < most


def test_a_graph_that_gives_no_number_is_infinitely_far(tmp_path: Path) -> None:
    task, model, _ = made("nsmc", "bert", tmp_path)
    broken = task.build_model().eval()
    broken.load_state_dict(model.state_dict())
    broken.classifier.weight.data.fill_(torch.nan)
    assert largest_difference(model, broken, task.train) == np.inf
    assert largest_difference(model, model, task.train) == 0


def test_latencies_are_of_all_models_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, model, file = made("nsmc", "bert", tmp_path)
    monkeypatch.setattr(latency, "RUNS", 10)
    models = {"PyTorch": lambda threads: model, "graph": lambda threads: session(task, file)}
    found = latency.latencies(models, dict.fromkeys(models, task.dev))
    assert [(each.model, each.threads, each.batch) for each in found] == [
        (name, threads, batch) for threads in (1, 2) for batch in (1, 32) for name in models
    ]
    assert all(0 < each.p50_ms <= each.p99_ms and each.runs == 10 for each in found)
    assert torch.get_num_threads() == 1


def test_a_package_that_is_missing_or_a_torn_graph_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn.onnx").write_bytes(b"no graph")
    task = task_class("nsmc")
    with pytest.raises(InputError, match=r"torn\.onnx: onnxruntime cannot read the graph \(.*\)"):
        OnnxModel(tmp_path / "torn.onnx", task.head, pad_id=0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the package `onnxruntime` is not installed; pip install 'kobert-tuning"):
        OnnxModel(tmp_path / "torn.onnx", task.head, pad_id=0)
