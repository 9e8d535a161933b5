"""What a student is given to learn from: the mean answer of its teacher's models, and nothing about the test file."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from kobert_core.checkpoint import WEIGHTS
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.inference import Predictor
from kobert_core.io.checksums import sha256_file
from kobert_core.pretrained import save_model_files, save_weights
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.tasks.labelled_texts.task import LabelledTexts
from tests.fixtures.tiny import SAMPLE, SIZES, tiny_config
from tuning.cli.distill import teach
from tuning.storage.store import Store
from tuning.study import dump_study, load_study
from tuning.sweep.distill import (
    TEACHER,
    Teacher,
    as_student,
    other_split,
    rows_of,
    shape_of,
    teachers_of,
    write_soft_labels,
)
from tuning.sweep_dir.home import copy_here, stored_sweep
from tuning.sweep_dir.layout import SOFT_LABELS, SOFT_LABELS_MADE_OF, STUDY
from tuning.sweep_dir.lock import sweep_lock
from tuning.sweep_dir.provenance import write_provenance
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord

MODEL = {"init": "random", "config": SIZES, "tokenizer_vocab_size": 1024}
STUDENT_STUDY = """\
schema_version: 1
name: student
task: nsmc
data: {{train: {train}}}
model: {{init: random, config: {{hidden_size: 32}}, tokenizer_vocab_size: 64}}
parameters: {{optim.backbone_lr: {{values: [1e-3]}}}}
"""
MORE = ["배우들 연기가 좋았다", "다시는 안 본다", "그저 그런 영화"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Two exported models with random weights, far from each other."""
    folder = tmp_path_factory.mktemp("models")
    task = task_class("nsmc")(tiny_config())
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = task.build_model()
        for weight in model.classifier.parameters():  # type: ignore[union-attr]
            weight.data.normal_()
        save_model_files(folder / str(seed), task)
        save_weights(folder / str(seed), type(task), model.state_dict())
    return folder / "1", folder / "2"


def student(**data: Any) -> LabelledTexts:
    return as_student(task_class("nsmc")(tiny_config(data=data)))


def table(path: Path, texts: list[str], **columns: list[Any]) -> Source:
    pandas.DataFrame({"document": texts} | columns).to_csv(path, sep="\t", index=False)
    return Source.of(path)


def test_it_says_the_mean_of_its_models(models: tuple[Path, ...]) -> None:
    task = student()
    rows = [{"text": text} for text in MORE]
    each = [Predictor.load(model).predict(rows) for model in models]
    expected = [
        [np.mean([said[at][f"probability_{name}"] for said in each]) for name in ("negative", "positive")]
        for at in range(len(MORE))
    ]
    said = Teacher(models, task).says(rows)
    np.testing.assert_allclose(said, expected)
    assert np.ptp([Teacher([model], task).says(rows) for model in models], axis=0).max() > 0.01


def test_its_score_on_dev_is_that_of_its_answers(models: tuple[Path, ...]) -> None:
    task = student()
    teacher = Teacher(models, task)
    likeliest = teacher.says(rows_of(task, "dev")).argmax(axis=1)
    assert teacher.score(task)["eval/accuracy"] == pytest.approx((likeliest == task.dev.labels).mean())


def test_it_is_asked_about_texts_to_train_on_and_others_and_never_about_the_test_file(
    models: tuple[Path, ...], tmp_path: Path
) -> None:
    test = table(tmp_path / "test.tsv", [MORE[1]], id=[1], label=[0])
    task = student(test=str(test))
    alike = [MORE[1].replace(" ", "  "), unicodedata.normalize("NFD", MORE[1])]
    write_soft_labels(task, models, [table(tmp_path / "more.tsv", [*MORE, *alike])], tmp_path)
    said = pandas.read_parquet(tmp_path / SOFT_LABELS)
    train = [row["text"] for row in rows_of(task, "train")]
    assert said["text"].tolist() == [*train, MORE[0], MORE[2]]
    assert list(said.columns) == ["text", "probability_negative", "probability_positive"]
    np.testing.assert_allclose(said[said.columns[1:]].sum(axis=1), 1, atol=1e-5)
    learner = tiny_config(distill={"soft_labels": str(tmp_path / SOFT_LABELS)})
    assert len(task_class("nsmc")(learner).train) == len(train) + 2


def test_rows_without_labels_that_cannot_be_used_are_told(models: tuple[Path, ...], tmp_path: Path) -> None:
    lines: list[str] = []
    more = table(tmp_path / "more.tsv", [*MORE, " "], id=[1, 2, 3, 4])
    write_soft_labels(student(max_bad_fraction=0.5), models, [more], tmp_path, say=lines.append)
    assert lines == ["set aside in more.tsv: 1 row(s), the first on line 5: empty text"]


def test_what_is_there_is_not_made_again_unless_something_else_is_asked_for(
    models: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, more = student(), [table(tmp_path / "more.tsv", MORE)]
    write_soft_labels(task, models, more, tmp_path)
    first = (tmp_path / SOFT_LABELS).read_bytes()
    with monkeypatch.context() as without:
        without.setattr(Teacher, "says", None)
        write_soft_labels(student(), models, more, tmp_path)
    assert (tmp_path / SOFT_LABELS).read_bytes() == first
    (tmp_path / SOFT_LABELS_MADE_OF).write_text("{", encoding="utf-8")
    write_soft_labels(student(), models, more, tmp_path)
    assert (tmp_path / SOFT_LABELS).read_bytes() == first
    write_soft_labels(task, models[:1], more, tmp_path)
    assert (tmp_path / SOFT_LABELS).read_bytes() != first


def test_parts_are_kept_when_it_is_cut_off(
    models: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.sweep.distill.ROWS_AT_ONCE", 100)
    asked: list[int] = []
    says = Teacher.says

    def until_the_third_part(self: Teacher, rows: list[dict[str, str]]) -> np.ndarray:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(rows))
        return says(self, rows)

    task = student()
    with monkeypatch.context() as cut_off, pytest.raises(KeyboardInterrupt):
        cut_off.setattr(Teacher, "says", until_the_third_part)
        write_soft_labels(task, models, [], tmp_path)
    asked.clear()
    monkeypatch.setattr(Teacher, "says", lambda self, rows: asked.append(len(rows)) or says(self, rows))
    write_soft_labels(task, models, [], tmp_path)
    assert asked == [100, 60]
    texts = pandas.read_parquet(tmp_path / SOFT_LABELS)["text"].tolist()
    assert texts == [row["text"] for row in rows_of(task, "train")]


def test_a_teacher_of_something_else_is_refused(models: tuple[Path, ...]) -> None:
    others = student(labels={"0": "나쁨", "1": "좋음"})
    with pytest.raises(InputError) as error:
        Teacher(models, others)
    assert str(models[0]) in str(error.value) and "needs text, probability_나쁨, probability_좋음" in str(error.value)


def test_a_folder_of_a_model_is_its_own_teacher(models: tuple[Path, ...]) -> None:
    assert teachers_of(models[0]) == (models[0],)


def test_a_sweep_that_has_begun_keeps_its_answers(models: tuple[Path, ...], tmp_path: Path) -> None:
    write_soft_labels(student(), models, [], tmp_path)
    first = (tmp_path / SOFT_LABELS).read_bytes()
    (tmp_path / STUDY).touch()
    with pytest.raises(InputError, match="the students of this sweep learn from other answers"):
        write_soft_labels(student(), models[:1], [], tmp_path)
    assert (tmp_path / SOFT_LABELS).read_bytes() == first


def test_a_teacher_of_another_task_is_refused_before_it_is_asked(models: tuple[Path, ...]) -> None:
    data = {"train": "none.tsv", "labels": ["negative", "positive"]}
    of_many = as_student(
        task_class("multilabel")(parse_train_config({"task": "multilabel", "data": data, "model": MODEL}))
    )
    with pytest.raises(InputError, match="one of `task: nsmc`, and its student of `task: multilabel`"):
        Teacher(models, of_many)


def test_a_folder_that_is_no_model_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of an exported model"):
        teachers_of(tmp_path)


def test_a_student_has_a_name_beside_its_teacher() -> None:
    assert shape_of(TrialRecord(trial=0, state=TrialState.COMPLETE, values={})) != TEACHER


def test_a_teacher_whose_data_is_gone_may_know_the_dev_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    train = table(tmp_path / "data" / "train.tsv", MORE, id=[1, 2, 3], label=[0, 1, 0])
    study = tmp_path / "study.yaml"
    study.write_text(STUDENT_STUDY.format(train=train), encoding="utf-8")
    sweep = tmp_path / "sweep"
    dump_study(load_study(study), sweep / STUDY)
    assert other_split(sweep, load_study(study)) is None
    moved = str(shutil.copy(str(train), tmp_path / "moved.tsv"))
    Path(str(train)).unlink()
    told = other_split(sweep, load_study(study, [f"data.train={moved}"]))
    assert told == "whether sweep was trained on texts of the student's dev split is not known"


def test_a_sweep_in_an_object_store_teaches(
    models: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.sweep_dir.home.node_folder", lambda: tmp_path / "node")
    train = table(tmp_path / "train.tsv", MORE, id=[1, 2, 3], label=[0, 1, 0])
    (tmp_path / "study.yaml").write_text(STUDENT_STUDY.format(train=train), encoding="utf-8")
    study, home = load_study(tmp_path / "study.yaml"), f"file://{tmp_path}/bucket"
    sweep = tmp_path / "driver" / "one"
    with stored_sweep(home, sweep, resume=False, tracking_uri="", say=print) as commits:
        dump_study(study, sweep / STUDY)
        write_provenance(sweep, study)
        commits.commit()
    moved = str(shutil.copy(str(train), tmp_path / "moved.tsv"))
    Path(str(train)).unlink()
    for model in models:  # the second is that of a later winner
        Store.at(home).upload_folder(model, "one/model")
        teacher = copy_here(f"{home}/one")
        (found,) = teachers_of(teacher)
        assert sha256_file(found / WEIGHTS) == sha256_file(model / WEIGHTS)
        assert teachers_of(copy_here(f"{home}/one")) == (found,)
    assert other_split(teacher, load_study(tmp_path / "study.yaml", [f"data.train={moved}"])) is None
    other = str(table(tmp_path / "other.tsv", MORE[:2], id=[1, 2], label=[0, 1]))
    told = other_split(teacher, load_study(tmp_path / "study.yaml", [f"data.train={other}"]))
    assert told is not None and told.startswith("`data.train` is not that of one")


def test_a_sweep_is_taught_by_one_process_at_a_time(models: tuple[Path, ...], tmp_path: Path) -> None:
    path, folder = tmp_path / "study.yaml", tmp_path / "sweeps" / "student"
    path.write_text(STUDENT_STUDY.format(train=SAMPLE / "train.tsv"), encoding="utf-8")
    study = load_study(path, ["distill.soft_labels=."])
    with pytest.raises(InputError, match="there is no sweep to go on with"):
        teach(study, folder, models[0], [], resume=True, say=print)
    folder.mkdir(parents=True)
    with sweep_lock(folder), pytest.raises(InputError, match="another process runs this sweep"):
        teach(study, folder, models[0], [], resume=False, say=print)
    assert not list(folder.glob(f"{SOFT_LABELS}*"))
