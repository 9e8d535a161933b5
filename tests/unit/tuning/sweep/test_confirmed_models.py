"""Of the runs that confirm a winner, a sweep keeps the models of what it exports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kobert_core.checkpoint import WEIGHTS, load_weights
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json
from kobert_core.io.checksums import check_sums
from kobert_core.pretrained import load_pretrained, save_model_files
from kobert_core.tasks import task_class
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.commands import ROOT
from tests.fixtures.tiny import SIZES
from tuning.study import StudyConfig, load_study
from tuning.sweep.confirm import Confirmation
from tuning.sweep.export import export_averaged
from tuning.sweep.extras import SeedScores
from tuning.sweep_dir.confirm_runs import ConfirmRuns, confirmed_models, model_of
from tuning.sweep_dir.layout import CHECKPOINTS, MODEL_FILES, TEST_SET_LOG, WINNER, confirm_folder, trial_folder
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

STEP = "update-00000001"


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    shape = f"model={{init: random, tokenizer_vocab_size: 1200, config: {json.dumps(SIZES)}}}"
    return load_study(ROOT / "search_spaces" / "quickstart.yaml", [shape])


@pytest.fixture(scope="module")
def judged(study: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with two runs of trial 3 and two of trial 0 that were judged, and one that chose."""
    sweep = tmp_path_factory.mktemp("sweeps") / "one"
    sweep.mkdir()
    runs, task = ConfirmRuns(sweep), task_class(study.task)(study.train_config({}))
    for stage, trial, seed in (
        ("choose", 3, 5),
        ("verdict", 3, 9),
        ("verdict", 0, 8),
        ("verdict", 3, 7),
        ("verdict", 0, 6),
    ):
        run = runs.get(stage, trial, seed)  # type: ignore[arg-type]
        run.state, run.progress = "COMPLETE", 100  # type: ignore[assignment]
        save_model_files(model_of(sweep, run), task)
        if stage == "verdict":
            run.checkpoint = STEP
            torch.manual_seed(seed)
            save_checkpoint(checkpoint_of(sweep, run.number), task.build_model(), {})
    runs.write()
    save_model_files(trial_folder(sweep, 3) / MODEL_FILES, task)
    return sweep


@pytest.fixture
def sweep(judged: Path, tmp_path: Path) -> Path:
    return shutil.copytree(judged, tmp_path / "one")


def checkpoint_of(sweep: Path, run: int) -> Path:
    return confirm_folder(sweep, run) / CHECKPOINTS / STEP


def close(sweep: Path, study: StudyConfig, winner: int) -> list[str]:
    """End the confirmation as a sweep does that exports this trial; what it says."""
    said: list[str] = []
    table = TrialTable(sweep, study.objective)
    confirmation = Confirmation(study, table, None, None, None, say=said.append)  # type: ignore[arg-type]
    confirmation.judged = [run for run in confirmation._runs if run.is_judged]
    confirmation.close(winner)
    atomic_write_json(sweep / WINNER, {"winner": {"trial": winner}, "test": {}})
    return said


def check_kept(sweep: Path, judged: Path, numbers: list[int]) -> None:
    """The models of these runs are those of their checkpoints, and no other weights are left."""
    models = confirmed_models(sweep)
    assert models == tuple(confirm_folder(sweep, number) / "model" for number in numbers)
    for number, model in zip(numbers, models, strict=True):
        expected, found = load_weights(checkpoint_of(judged, number)), load_pretrained(model).model.state_dict()
        assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert sorted(path.parent for path in sweep.rglob(WEIGHTS)) == list(models)
    assert not [run for run in ConfirmRuns(sweep) if run.checkpoint] and not list(sweep.rglob("*.complete*"))


def test_the_models_of_what_is_exported_are_kept(sweep: Path, judged: Path, study: StudyConfig) -> None:
    assert confirmed_models(sweep) == (), "it has not ended"
    assert close(sweep, study, 3) == []
    check_kept(sweep, judged, [1, 3])
    assert close(sweep, study, 3) == [], "a sweep that is resumed comes to the same"
    check_kept(sweep, judged, [1, 3])


def test_another_verdict_leaves_no_models_of_the_one_before(sweep: Path, study: StudyConfig) -> None:
    close(sweep, study, 3)
    close(sweep, study, 0)
    assert confirmed_models(sweep) == () and not list(sweep.rglob(WEIGHTS))


SCORES = SeedScores(
    task="nsmc",
    models=2,
    metric="eval/accuracy",
    mode="max",
    mean=0.75,
    ensemble={"eval/accuracy": 0.8, "eval/loss": 0.5},
    averaged={"eval/accuracy": 0.5, "eval/loss": 0.7},
)


def test_the_mean_of_their_weights_is_exported(sweep: Path, judged: Path, study: StudyConfig, tmp_path: Path) -> None:
    record, output = TrialRecord(3, "COMPLETE", {}, metrics={"eval/accuracy": 0.9}), tmp_path / "soup"
    close(sweep, study, 3)
    with pytest.raises(InputError, match="has not scored the averaged weights of several seeds"):
        export_averaged(sweep, study, record, output)
    atomic_write_json(sweep / WINNER, {"winner": {"trial": 3}, "test": {}, "seeds": SCORES.as_json()})
    (sweep / TEST_SET_LOG).touch()
    export_averaged(sweep, study, record, output)
    first, second = (load_weights(checkpoint_of(judged, number)) for number in (1, 3))
    for name, tensor in load_pretrained(output).model.state_dict().items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "the weights are the mean of those of 2 runs with its values and other seeds" in card
    assert "| eval/accuracy | 0.5 |" in card and "| eval/accuracy, each run alone, on average | 0.75 |" in card
    assert "0.9" not in card, "a score of other weights"
    check_sums(output)
    (output / TEST_SET_LOG).write_text("another reading\n", encoding="utf-8")
    check_sums(output)


def test_the_scores_in_words() -> None:
    told, averaged, ensemble = SCORES.lines(Path("sweeps/a b"))
    assert told == (
        "the 2 confirmed seeds on dev: eval/accuracy 0.7500 on average, their ensemble 0.8000, "
        "their averaged weights 0.5000 (no better)"
    )
    assert averaged.endswith("kobert-tune export 'sweeps/a b' --averaged --output MODEL_DIR")
    assert ensemble.endswith("kobert-tune distill 'sweeps/a b' --student STUDY")
    assert len(list(replace(SCORES, task="korquad").lines(Path("sweeps/a")))) == 2, "none can learn from it"


def test_a_sweep_without_confirmation_has_none(tmp_path: Path) -> None:
    assert confirmed_models(tmp_path) == ()
    atomic_write_json(tmp_path / WINNER, {"winner": {"trial": 0}, "test": {}})
    assert confirmed_models(tmp_path) == ()


def before_the_weights(model: Path) -> None:
    (model.parent / ".model.complete.abc.tmp").mkdir()


def between_the_folders(model: Path) -> None:
    shutil.copytree(model, model.with_name("model.complete"))
    for file in list(model.iterdir())[::2]:
        file.unlink()
    (model / WEIGHTS).unlink(missing_ok=True)


def before_the_ledger(model: Path) -> None:
    pass


@pytest.mark.parametrize("kill", [before_the_weights, between_the_folders, before_the_ledger])
def test_after_a_kill_the_models_are_whole(
    sweep: Path, judged: Path, study: StudyConfig, kill: Callable[[Path], None]
) -> None:
    ledger = (sweep / "confirm" / "runs.json").read_bytes()
    if kill is not before_the_weights:
        close(sweep, study, 3)
        (sweep / "confirm" / "runs.json").write_bytes(ledger)
    kill(confirm_folder(sweep, 1) / "model")
    assert close(sweep, study, 3) == []
    check_kept(sweep, judged, [1, 3])


def test_a_damaged_checkpoint_costs_its_model_alone(sweep: Path, judged: Path, study: StudyConfig) -> None:
    weights = checkpoint_of(sweep, 1) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (said,) = close(sweep, study, 3)
    assert said.startswith("the model of trial 3 with seed 9 was not kept: ") and "corrupt" in said
    check_kept(sweep, judged, [3])
