"""Labels and names as people have them, from the file to the exported model and its predictions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kobert_core.errors import InputError
from kobert_core.pretrained import read_train_config
from tests.fixtures.commands import ROOT, UNCONFIRMED, tune_forked
from tuning.cli.predict import evaluate_file, predict_file
from tuning.study import load_study
from tuning.sweep.train_local import train_once

FLOATS = {"부정": "0.0", "중립": "1.0", "긍정": "2.0"}
"""What stands in `kor3-float.csv` for what stands in `kor3.csv`."""


def test_a_tab_or_line_end_in_the_name_of_a_class(shared: Path, tmp_path: Path) -> None:
    case = shared / "cases" / "06-label-name-with-tab" / "study.yaml"
    test = shared / "cases" / "common" / "test.tsv"
    train_once(load_study(case), say=lambda text: None, cache=tmp_path / "cache", output=tmp_path / "model")
    predicted = predict_file(tmp_path / "model", test, tmp_path / "p.tsv")
    assert (predicted.rows, predicted.set_aside) == (40, 0)
    header, *lines = (tmp_path / "p.tsv").read_text("utf-8").splitlines()
    names = ["부정", "긍정 (좋음)"]
    assert [name for name in header.split("\t") if "probability" in name] == [f"probability_{name}" for name in names]
    assert len(lines) == 40 and {line.split("\t")[header.split("\t").index("name")] for line in lines} <= set(names)
    assert json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))["id2label"] == {
        "0": "부정\n",
        "1": "긍정\t(좋음)",
    }
    assert evaluate_file(tmp_path / "model", test, say=pytest.fail)["examples"] == 40


@pytest.mark.parametrize(
    ("case", "file", "labels", "classes"),
    [
        ("kor3.yaml", "kor3.csv", None, {"부정": "부정", "중립": "중립", "긍정": "긍정"}),
        ("kor3-labellist.yaml", "kor3.csv", None, {"부정": "부정", "중립": "중립", "긍정": "긍정"}),
        ("kor3-nolabels.yaml", "kor3.csv", "infer", {"긍정": "긍정", "부정": "부정", "중립": "중립"}),
        ("kor3-nolabels.yaml", "kor3-float.csv", "infer", {"0": "0", "1": "1", "2": "2"}),
        (
            "kor3-nolabels.yaml",
            "kor3-float.csv",
            "{0: 부정, 1: 중립, 2: 긍정}",
            {"0": "부정", "1": "중립", "2": "긍정"},
        ),
        ("kor3.yaml", "missing-class.csv", None, {"부정": "부정", "중립": "중립", "긍정": "긍정"}),
    ],
)
def test_labels_of_own_files(
    shared: Path, tmp_path: Path, case: str, file: str, labels: str | None, classes: dict[str, str]
) -> None:
    own, test = shared / "cases" / "own-data", tmp_path / "test.csv"
    content = (own / "kor3-test.csv").read_text("utf-8")
    for label, number in FLOATS.items() if file == "kor3-float.csv" else ():
        content = content.replace(f",{label}\n", f",{number}\n")
    test.write_text(content, "utf-8")
    overrides = [f"data.train={own / file}", f"data.test={test}", "train.epochs=0.2"]
    study = load_study(own / case, overrides + ([f"data.labels={labels}"] if labels else []))
    torch.manual_seed(0)
    train_once(study, say=lambda text: None, cache=tmp_path / "cache", output=tmp_path / "model")
    assert list(read_train_config(tmp_path / "model").data.labels.items()) == list(classes.items())  # type: ignore[attr-defined]
    found = evaluate_file(tmp_path / "model", test, say=pytest.fail)
    assert (found["examples"], found["set_aside"]) == (180, 0)
    assert predict_file(tmp_path / "model", test, tmp_path / "p.jsonl").rows == 180
    records = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text("utf-8").splitlines()]
    assert all(classes[record["label"]] == record["name"] for record in records)


def test_without_labels_the_message_says_what_to_write(shared: Path, tmp_path: Path) -> None:
    study = load_study(shared / "cases" / "own-data" / "kor3-nolabels.yaml")
    with pytest.raises(InputError) as error:
        train_once(study, say=lambda text: None, cache=tmp_path / "cache")
    assert "label '긍정' is none of 0, 1 (`data.labels`)" in str(error.value)
    assert "the label column '감정' has '긍정' (248), '중립' (240), '부정' (232)" in str(error.value)
    assert str(error.value).endswith('`data.labels: ["긍정", "부정", "중립"]`, or with `data.labels: infer`')


@pytest.mark.slow
def test_a_sweep_with_names_of_any_characters_is_whole_in_mlflow(tmp_path: Path) -> None:
    sample = (ROOT / "search_spaces" / "sample" / "train.tsv").read_text("utf-8").splitlines()
    rows = [line.rsplit("\t", 1) for line in sample[1:]]
    content = "".join(f"{text}\t{'좋다 | `1`' if label == '1' else '나쁘다: a/b'}\n" for text, label in rows)
    (tmp_path / "a`b|c.tsv").write_text(f"{sample[0]}\n{content}", "utf-8")
    study = (ROOT / "search_spaces" / "quickstart.yaml").read_text("utf-8")
    (tmp_path / "study.yaml").write_text(study, "utf-8")
    sets = [f"data.train={tmp_path / 'a`b|c.tsv'}", "data.test=null", "data.labels=infer", "train.epochs=0.3"]
    options = [option for value in sets for option in ("--set", value)]
    name = 'v1.2 [red] "100%"'
    tune_forked("sweep", "study.yaml", "--trials", 2, "--name", name, *UNCONFIRMED, *options, cwd=tmp_path)
    sweep = tmp_path / "sweeps" / name
    assert not (sweep / "tracking.jsonl.dead.jsonl").exists()
    (model,) = _models(tmp_path / "sweeps" / "mlflow.db")
    assert model.name == "v1_2 [red] _100__" and str(model.status) == "READY"
    labels = {"나쁘다: a/b": "나쁘다: a/b", "좋다 | `1`": "좋다 | `1`"}
    runs = _client(tmp_path / "sweeps" / "mlflow.db").search_runs([model.experiment_id], "params.`data.labels` != ''")
    assert [json.loads(run.data.params["data.labels"]) for run in runs] == [labels, labels]
    assert "`` a`b|c.tsv ``" in (sweep / "model" / "README.md").read_text("utf-8")


def _client(store: Path):  # type: ignore[no-untyped-def]
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{store}")


def _models(store: Path):  # type: ignore[no-untyped-def]
    client = _client(store)
    return client.search_logged_models([each.experiment_id for each in client.search_experiments()])
