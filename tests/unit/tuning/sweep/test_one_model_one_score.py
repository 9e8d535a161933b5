"""The sweep's test reading, the export, `evaluate` and `predict` are of one model; and its score is never lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from kobert_core.errors import InputError
from kobert_core.evaluation import evaluate
from kobert_core.io.atomic import check_output
from kobert_core.pretrained import keep_chosen, load_pretrained, save_model_files, save_weights
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks.question_answering.task import Korquad
from kobert_core.tasks.text_classification.task import Nsmc
from kobert_core.training import train
from tests.fixtures.disks import Mount, make_read_only
from tests.fixtures.questions import articles, config_of, official, write
from tests.fixtures.tiny import tiny_config
from tuning.cli.predict import evaluate_file, predict_file
from tuning.study import load_study
from tuning.sweep.comparison import Comparison
from tuning.sweep.export import model_card
from tuning.sweep_dir.layout import TEST_SET_LOG
from tuning.sweep_dir.test_set_log import read_before, record_reading
from tuning.sweep_dir.trial_table import TrialRecord
from tuning.workers.checkpoint_tasks import evaluate_checkpoint

CPU = torch.device("cpu")


def trained(folder: Path, *, every: int | None) -> tuple[Path, Report]:
    """A run's files under `folder`, as a trial has them, its export in `export`, and what it reported last."""
    config = config_of(write(folder / "train.json", articles(0, 12, every=every)))
    task, reports = Korquad(config), []
    runtime = LocalRuntime(device=CPU, checkpoints=folder / "checkpoints", on_report=reports.append)
    model = train(config, task, runtime)
    save_model_files(folder / "files", task)
    shutil.copytree(folder / "files", folder / "export")
    keep_chosen(folder / "export", Korquad, reports[-1].metrics)
    save_weights(folder / "export", Korquad, model.state_dict())
    return folder / "export", reports[-1]


@pytest.mark.parametrize("every", [3, None], ids=["threshold from dev", "no threshold"])
def test_the_sweeps_test_score_is_that_of_the_export_and_of_its_written_answers(
    tmp_path: Path, every: int | None
) -> None:
    """On a file where half of the questions have no answer, so that a threshold of its own would say another thing."""
    model, last = trained(tmp_path, every=every)
    test_file = write(tmp_path / "test.json", articles(50, 4, every=2))
    assert ("eval/null_threshold" in last.metrics) == (every is not None)
    by_sweep = evaluate_checkpoint(
        LocalRuntime(device=CPU),
        model=str(tmp_path / "files"),
        cache=str(tmp_path / "cache"),
        checkpoint=str(last.checkpoint),
        metrics=last.metrics,
        file=str(test_file),
    )
    result = evaluate_file(model, test_file, tmp_path / "answers.json", say=pytest.fail)
    answers = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    predict_file(model, test_file, tmp_path / "answers.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["id"]: row["prediction_text"] for row in rows} == answers
    expected = official(test_file, answers)
    assert expected["questions"] == 40 and result["set_aside"] == 0
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert {name: value for name, value in by_sweep.items() if name != "test/loss"} == {
        f"test/{name}": value for name, value in result.items() if name not in ("loss", "set_aside", "earlier_readings")
    }
    assert result["best_f1"] > result["f1"], "or this file shows nothing"
    assert any(answers.values()) and all(answers.values()) == (every is None)


def test_a_test_score_of_a_threshold_that_was_tuned_on_it_is_not_believed(tmp_path: Path) -> None:
    """Older versions left such ones in the record of a sweep and in its result."""
    weights, tuned = {"winner": "trial 0, update-1"}, {"test/f1": 59.0, "test/null_threshold": 0.07}
    note = {"file": Path("test.json"), "sha256": "ab" * 32, "by": "sweep", "weights": weights}
    record_reading(tmp_path, **note, metrics={"winner": tuned})
    assert read_before(tmp_path, sha256="ab" * 32, weights=weights) is None
    record_reading(tmp_path, **note, metrics={"winner": {"test/f1": 18.0}})
    assert read_before(tmp_path, sha256="ab" * 32, weights=weights) == {"winner": {"test/f1": 18.0}}
    assert read_before(tmp_path, sha256="cd" * 32, weights=weights) is None

    study = load_study(Path(__file__).parents[4] / "search_spaces" / "quickstart.yaml")
    record = TrialRecord(0, "COMPLETE", {}, metrics={"eval/f1": 30.0})
    assert "59" not in model_card(tmp_path, study, record, {"winner": tuned}, Comparison())
    assert "| test/f1 | 18 |" in model_card(tmp_path, study, record, {"winner": {"test/f1": 18.0}}, Comparison())


def test_a_model_is_scored_in_the_precision_that_it_was_compared_in(tmp_path: Path) -> None:
    reports: list[Report] = []
    config = tiny_config(train={"precision": "bf16"}, data={"dev": tiny_config().data.train})
    task = Nsmc(config)
    model = train(config, task, LocalRuntime(device=CPU, on_report=reports.append))
    save_model_files(tmp_path / "model", task)
    save_weights(tmp_path / "model", Nsmc, model.state_dict())
    loaded = load_pretrained(tmp_path / "model")
    found = evaluate(loaded.model, loaded.task, loaded.task.read(config.data.train), LocalRuntime(device=CPU))
    assert found == {name: reports[-1].metrics[name] for name in found}


def test_a_score_is_told_where_the_reading_cannot_be_recorded(tmp_path: Path, mount_small_disk: Mount) -> None:
    task = Nsmc(tiny_config())
    disk = mount_small_disk(tmp_path / "disk", 4000)
    save_model_files(disk / "model", task)
    save_weights(disk / "model", Nsmc, task.build_model().state_dict())
    said: list[str] = []
    first = evaluate_file(disk / "model", task.data.train, say=said.append)
    assert said == []
    make_read_only(disk)
    again = evaluate_file(disk / "model", task.data.train, say=said.append)
    assert again == first | {"earlier_readings": 1}
    assert said == [
        f"note: this reading could not be recorded ({disk / 'model' / TEST_SET_LOG}: Read-only file system)",
    ]


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    """Before the model is even looked at, which here is not there."""
    file, nowhere = tmp_path / "file", tmp_path / "nowhere"
    file.touch()
    with pytest.raises(InputError, match=r"file/out\.tsv: cannot be written \(Not a directory\)"):
        predict_file(nowhere, file, file / "out.tsv")
    with pytest.raises(InputError, match=r"cannot be written \(Is a directory\)"):
        evaluate_file(nowhere, file, tmp_path, say=pytest.fail)
    check_output(tmp_path / "not" / "yet" / "out.tsv")
    assert sorted(tmp_path.iterdir()) == [file]
