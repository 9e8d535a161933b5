"""Graphs in an exported model's folder: which are kept, what the card and the commands say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from kobert_core.config import Objective
from kobert_core.errors import InputError
from kobert_core.inference import Predictor
from kobert_core.io.checksums import check_sums
from kobert_core.onnx import latency
from kobert_core.pretrained import load_pretrained, read_train_config, save_model_files, save_weights
from kobert_core.tasks import task_class
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.questions import articles, config_of, write
from tests.fixtures.tiny import SAMPLE, SIZES, tiny_config
from tuning.cli.app import app
from tuning.study import load_study
from tuning.study.file import dump_study
from tuning.sweep import onnx
from tuning.sweep.onnx import SECTION, points_lost
from tuning.sweep_dir.layout import CHECKPOINTS, MODEL_FILES, TEST_SET_LOG, trial_folder
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

TEST = SAMPLE / "test.tsv"


@pytest.fixture(autouse=True)
def _few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "RUNS", 5)
    monkeypatch.setattr(latency, "THREADS", (1,))


@pytest.fixture
def model(tmp_path: Path, cache: Path) -> Path:
    """A model with random weights, large enough that it does not give the same label to all."""
    task = task_class("nsmc")(tiny_config(), cache=cache)
    torch.manual_seed(0)
    network = task.build_model()
    torch.nn.init.normal_(network.classifier.weight, std=3.0)
    save_model_files(tmp_path / "model", task)
    save_weights(tmp_path / "model", type(task), network.state_dict())
    (tmp_path / "model" / "README.md").write_text("# A model\n\nIts card.\n", encoding="utf-8")
    return tmp_path / "model"


def tuned(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "120"})
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


def test_graphs_are_made_told_and_run(model: Path, tmp_path: Path) -> None:
    done = tuned("onnx", model, "--data", TEST, "--int8", "--fp16", "--max-drop", 5, "--json")
    report = json.loads(done.stdout)
    assert {"fp32", "fp16", "int8"} == {each["precision"] for each in report["tried"] if each["kept"]}
    assert report["difference"] < 1e-4 and report["opset"] == 18
    check_sums(model / "onnx")
    assert {file.name for file in (model / "onnx").iterdir()} == {
        *("model.onnx", "model_fp16.onnx", "model_int8.onnx", "report.json", "SHA256SUMS")
    }
    card = (model / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# A model\n\nIts card.\n\n## ONNX\n\nOpset 18, for onnxruntime alone")
    assert "| `onnx/model_int8.onnx` | int8, per channel, 7 of 8 bits |" in card and "p50 / p99" in card
    assert '"by":"onnx"' in (model / TEST_SET_LOG).read_text()
    by_torch = json.loads(tuned("evaluate", model, TEST, "--json").stdout)
    by_graph = json.loads(tuned("evaluate", model, TEST, "--json", "--backend", "onnx").stdout)
    assert by_graph["earlier_readings"] == 2
    for name in ("accuracy", "f1", "loss"):
        assert by_graph[name] == pytest.approx(by_torch[name], abs=1e-5)
    for backend in ("torch", "onnx", "onnx-int8", "onnx-fp16"):
        tuned("predict", model, TEST, "--output", tmp_path / f"{backend}.jsonl", "--backend", backend)
    given = {each: (tmp_path / f"{each}.jsonl").read_text(encoding="utf-8") for each in ("torch", "onnx", "onnx-int8")}
    labels = {each: [json.loads(line)["label"] for line in text.splitlines()] for each, text in given.items()}
    assert labels["onnx"] == labels["torch"] and given["onnx-int8"] != given["torch"]
    with pytest.raises(InputError, match="there are graphs already; remove the folder to make them again"):
        tuned("onnx", model, "--data", TEST)
    with pytest.raises(InputError, match="nothing is called `tensorrt` that runs models; use torch, onnx, onnx-fp16"):
        tuned("evaluate", model, TEST, "--backend", "tensorrt")
    (model / "onnx" / "model.onnx").write_bytes(b"altered")
    with pytest.raises(InputError, match=r"model\.onnx: the file is damaged, or was altered"):
        load_pretrained(model, backend="onnx")


def test_a_predictor_answers_from_a_graph(model: Path) -> None:
    with pytest.raises(InputError, match="this model has no such graph; make it with `kobert-tune onnx MODEL_DIR"):
        Predictor.load(model, backend="onnx")
    tuned("onnx", model, "--data", TEST)
    rows = [{"text": text} for text in ("정말 재미있어요", "별로", "시간이 아까웠다 " * 20)]
    ours, theirs = Predictor.load(model).predict(rows), Predictor.load(model, backend="onnx").predict(rows)
    for one, other in zip(ours, theirs, strict=True):
        assert one == {name: pytest.approx(value, abs=1e-5) for name, value in other.items()}


def test_what_loses_too_much_is_told_and_not_kept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drops = iter([0.5, 0.5, 0.1])
    monkeypatch.setattr(onnx, "points_lost", lambda *_: next(drops))
    done = tuned("onnx", model, "--data", TEST, "--int8")
    assert "not kept, int8, per channel, 7 of 8 bits: 0.50 points of eval/accuracy lost, and may be 0.3" in done.stderr
    card = (model / "README.md").read_text(encoding="utf-8")
    assert card.count("| not kept | int8") == 2
    assert "| `onnx/model_int8.onnx` | int8, per channel, embeddings in float32, head in float32" in card
    monkeypatch.setattr(onnx, "points_lost", lambda *_: 0.5)
    for file in (model / "onnx").iterdir():
        file.unlink()
    (model / "onnx").rmdir()
    tuned("onnx", model, "--data", TEST, "--int8", "--fp16", code=1)
    assert {file.name for file in (model / "onnx").iterdir()} == {"model.onnx", "report.json", "SHA256SUMS"}
    card = (model / "README.md").read_text(encoding="utf-8")
    assert card.count(SECTION) == 1 and card.count("| not kept |") == 5, "the earlier section is gone"


def test_a_graph_with_other_logits_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "TOLERANCE", 1e-12)
    with pytest.raises(
        InputError, match=r"the graph's logits differ from those of PyTorch by \S+e-\d+, and may by 1e-12"
    ):
        tuned("onnx", model, "--data", TEST)
    assert not (model / "onnx").exists() and "ONNX" not in (model / "README.md").read_text()


def test_points_are_hundredths_of_the_whole_or_percent_of_an_error(cache: Path, tmp_path: Path) -> None:
    nsmc = task_class("nsmc")(tiny_config(), cache=cache)
    korquad = task_class("korquad")(config_of(write(tmp_path / "train.json", articles(0, 3))), cache=cache)
    accuracy, f1, loss = Objective(metric="eval/accuracy"), Objective(metric="eval/f1"), Objective(metric="eval/loss")
    loss = loss.model_copy(update={"mode": "min"})
    assert points_lost(nsmc, accuracy, 0.9, 0.897) == pytest.approx(0.3)
    assert points_lost(korquad, f1, 80.0, 79.5) == pytest.approx(0.5)
    assert points_lost(nsmc, loss, 0.5, 0.51) == pytest.approx(2.0)
    assert points_lost(nsmc, accuracy, 0.9, 0.91) < 0 == points_lost(nsmc, loss, 0.0, 0.0)


def test_a_section_is_put_in_the_place_of_the_earlier_one(model: Path) -> None:
    tuned("onnx", model, "--data", TEST)
    card = model / "README.md"
    report = onnx_report(model)
    card.write_text(f"# A\n\n{SECTION}\n\nold\n\n## Licence\n\nApache\n", encoding="utf-8")
    onnx.put_on_card(card, report)
    text = card.read_text(encoding="utf-8")
    assert text.startswith("# A\n\n## ONNX\n\nOpset") and text.endswith("\n\n## Licence\n\nApache\n")
    assert "old" not in text


def onnx_report(model: Path) -> Any:
    values = json.loads((model / "onnx" / "report.json").read_text(encoding="utf-8"))
    values.pop("versions")
    values["tried"] = [onnx.Tried(**each) for each in values["tried"]]
    values["latencies"] = [latency.Latency(**each) for each in values["latencies"]]
    return onnx.OnnxReport(**values)


def test_a_trial_is_exported_with_graphs(tmp_path: Path) -> None:
    """By the dev split of the sweep's study, with a tokenizer that was trained."""
    shape = f"model={{init: random, tokenizer_vocab_size: 1200, config: {json.dumps(SIZES)}}}"
    quickstart = Path(__file__).resolve().parents[4] / "search_spaces" / "quickstart.yaml"
    study = load_study(quickstart, [shape, "confirm=null"])
    sweep = tmp_path / "sweeps" / "first"
    sweep.mkdir(parents=True)
    dump_study(study, sweep / "study.yaml")
    values = study.example_values()
    task = task_class(study.task)(study.train_config(values))
    here = trial_folder(sweep, 0)
    save_model_files(here / MODEL_FILES, task)
    save_checkpoint(here / CHECKPOINTS / "update-00000001", task.build_model(), {})
    TrialTable(sweep, study.objective).put(TrialRecord(0, "COMPLETE", values, checkpoint="update-00000001"))
    done = tuned("export", sweep, "--trial", 0, "--output", tmp_path / "model", "--onnx")
    assert "exported to" in done.stdout and "model.onnx: " in done.stdout
    check_sums(tmp_path / "model")
    check_sums(tmp_path / "model" / "onnx")
    report = onnx_report(tmp_path / "model")
    assert (report.data, report.examples) == ("train.tsv", str(task.dev))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "trial 0" in card and SECTION in card
    assert read_train_config(tmp_path / "model").task == "nsmc"
    assert Predictor.load(tmp_path / "model", backend="onnx").predict([{"text": "좋다"}])
