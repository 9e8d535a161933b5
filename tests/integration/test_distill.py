"""The sweep of the README teaches smaller models."""

from __future__ import annotations

import json
from pathlib import Path

import pandas

from kobert_core.families import layers_of
from kobert_core.inference import Predictor
from tests.fixtures.commands import ROOT, tune_forked
from tuning.sweep_dir.confirm_runs import confirmed_models
from tuning.sweep_dir.layout import SOFT_LABELS, STUDENTS, STUDY

SAMPLE = ROOT / "search_spaces" / "sample"
MORE = ["배우들 연기가 좋았다", "다시는 안 본다", "그저 그런 영화"]
STUDENT = """\
schema_version: 1
name: student
task: nsmc
data:
  {{train: {sample}/train.tsv, test: {sample}/test.tsv, dev_fraction: 0.25, holdout_fraction: 0.3333, max_length: 48}}
model: {{backbone: {teacher}/model}}
train: {{epochs: 1}}
optim: {{batch_size: 16, backbone_lr: 1e-3, classifier_lr: 1e-3}}
parameters: {{model.keep_layers: {{values: [1, 2]}}}}
search: {{algorithm: grid}}
scheduler: {{name: none}}
resources: {{concurrent: 1}}
"""


def test_a_confirmed_sweep_teaches_students_of_two_sizes(readme_work: Path, tmp_path: Path) -> None:
    teacher = readme_work / "sweeps" / "first"
    study, more = tmp_path / "student.yaml", tmp_path / "more.tsv"
    study.write_text(STUDENT.format(sample=SAMPLE, teacher=teacher), encoding="utf-8")
    more.write_text("document\n" + "".join(f"{text}\n" for text in MORE), encoding="utf-8")
    command = ["distill", teacher, "--student", study, "--unlabelled", more, "--json"]
    done = tune_forked(*command, cwd=tmp_path)
    sweep = tmp_path / "sweeps" / "student"
    said = pandas.read_parquet(sweep / SOFT_LABELS)
    assert len(said) == 360 + len(MORE) and said["text"].tolist()[-len(MORE) :] == MORE
    assert str(sweep / SOFT_LABELS) in (sweep / STUDY).read_text(encoding="utf-8")
    result = json.loads(done.stdout.splitlines()[-1])
    assert {size["model"] for size in result["students"]} == {"teacher", "keep_layers 1", "keep_layers 2"}
    sizes = {size["model"]: size for size in result["students"]}
    assert sizes["keep_layers 1"]["weights"] < sizes["keep_layers 2"]["weights"] < sizes["teacher"]["weights"]
    assert json.loads((sweep / STUDENTS).read_text(encoding="utf-8")) == result["students"]
    assert f"the teacher: {len(confirmed_models(teacher))} model(s) of first" in done.stderr
    assert len(confirmed_models(teacher)) == 3 and "warning:" not in done.stderr
    student = Predictor.load(sweep / "model")
    assert len(layers_of(student.model.encoder)) == result["winner"]["values"]["model.keep_layers"]  # type: ignore[arg-type]
    card = json.loads((sweep / "model" / "train_config.json").read_text(encoding="utf-8"))
    assert card["distill"]["soft_labels"] == SOFT_LABELS, "and not where it lay"


def test_another_split_than_the_teachers_is_told(readme_work: Path, tmp_path: Path) -> None:
    teacher, study = readme_work / "sweeps" / "first", tmp_path / "student.yaml"
    study.write_text(STUDENT.format(sample=SAMPLE, teacher=teacher), encoding="utf-8")
    overrides = ["--set", "data.labels={0: 나쁨, 1: 좋음}", "--set", "data.split_seed=7"]
    refused = tune_forked("distill", teacher, "--student", study, *overrides, cwd=tmp_path, code=2)
    assert (
        "`data.split_seed` is not that of first: the teacher knows texts of the student's dev split" in refused.stdout
    )
    assert (
        "probability_negative" in refused.stderr and "needs text, probability_나쁨, probability_좋음" in refused.stderr
    )
