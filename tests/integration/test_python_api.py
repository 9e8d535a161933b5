"""Studies and sweeps from Python: docs/python.md is run as it stands, and what it makes is looked at."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from kobert_core.errors import InputError
from kobert_core.io.checksums import sealed
from tests.fixtures import pages
from tests.fixtures.commands import ROOT, environment
from tests.fixtures.sweeps import ending_all, progress_of, start_sweep, wait_for
from tuning import Study, Sweep
from tuning.study import load_study

PAGE = pages.page("docs/python.md")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the names of the page stand for after all its blocks were run in their order, in a folder of their own."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "search_spaces").symlink_to(ROOT / "search_spaces")
    before, names = Path.cwd(), dict[str, Any]()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "path", [str(ROOT), *sys.path])
        os.chdir(folder)
        try:
            for block in PAGE.code("python"):
                exec(block, names)
            yield names
        finally:
            os.chdir(before)


def test_the_page_comes_to_a_winner_whose_model_answers(page: dict[str, Any]) -> None:
    sweep, model = page["sweep"], page["model"]
    assert sweep.state == "finished" and "finished, 3 of 3 trials" in str(sweep)
    answers = model.predict(["재미있다", "지루하다"])
    assert answers.columns.tolist() == ["label", "name", "probability_0", "probability_1"] and len(answers) == 2
    assert np.allclose(answers.filter(like="probability_").sum(axis=1), 1)
    indexed = model.predict(pd.Series(["하나", "둘"], index=["a", "b"]))
    assert indexed.index.tolist() == ["a", "b"] and indexed["probability_0"].dtype == float
    batch = model.tokenizer(["재미있다"], return_tensors="pt")
    logits = model.model(**batch).logits.softmax(-1)[0].tolist()
    assert np.allclose(logits, answers.filter(like="probability_").iloc[0], atol=1e-5)
    with pytest.raises(InputError, match="row 2: empty text"):
        model.predict(["하나", " "])
    with pytest.raises(InputError, match="the frame: has no column 'text', but 'document'"):
        model.predict(pd.DataFrame({"document": ["하나"]}))
    assert (Path("best") / "model.safetensors").is_file()


def test_results_are_frames_with_one_row_each_and_typed_columns(page: dict[str, Any]) -> None:
    sweep = page["sweep"]
    frame, records = sweep.frame, list(sweep._table())
    assert frame["trial"].tolist() == [0, 1, 2] and frame["winner"].sum() == 1 and frame.columns.nlevels == 1
    assert frame["optim.backbone_lr"].tolist() == [record.values["optim.backbone_lr"] for record in records]
    assert frame["eval/accuracy"].tolist() == [record.metrics["eval/accuracy"] for record in records]
    assert "object" not in frame.dtypes.astype(str).tolist()
    assert str(frame["started"].dtype).startswith("datetime64")
    curves = sweep.curves.query("metric == 'eval/accuracy'")
    for record in records:
        mine = curves[curves["trial"] == record.trial]
        assert dict(zip(mine["progress"], mine["value"], strict=True)) == record.curve
    runs, answers = sweep.confirmations, sweep.predictions("holdout")
    assert len(runs) == 4 and set(runs["stage"]) == {"verdict"}
    for run in runs.itertuples():
        mine = answers[(answers["trial"] == run.trial) & (answers["seed"] == run.seed)]
        score = runs.loc[runs["run"] == run.run, "holdout/accuracy"].item()
        assert mine["score"].mean() == pytest.approx(score) and len(mine) == 40
    assert sweep.verdict.gain.low <= sweep.verdict.gain.high and sweep.verdict.winner == sweep.best.number
    assert str(sweep.verdict) == sweep.verdict.sentence and set(sweep.test.index) >= {"winner", "trial_0"}
    assert sweep.test.loc["winner", "test/accuracy"] <= 1 and set(sweep.test.dtypes) == {np.dtype(float)}
    with pytest.raises(InputError, match=r"no predictions of 'test'; ask the model"):
        sweep.predictions("test")


def test_a_frame_is_read_as_the_file_that_it_came_from(page: dict[str, Any]) -> None:
    study = page["study"]
    quickstart = Study.load("search_spaces/quickstart.yaml")
    assert study.data["text"].tolist() == quickstart.data["text"].tolist()
    assert study.dev["split"].value_counts().to_dict() == {"dev": 80, "holdout": 40}
    assert len(study.data) + len(study.dev) == len(page["reviews"]) and len(study.test) == len(page["held_out"])


def test_the_sweep_goes_on_from_the_command_line(page: dict[str, Any]) -> None:
    """Its study is a study file, with the frame's own file."""
    folder = page["sweep"].folder
    study = load_study(folder / "study.yaml")
    assert study == page["study"].config
    assert Path(str(study.data.train)).parent == Path("sweeps/frames").absolute()


def test_a_finished_sweep_is_not_run_again_and_another_study_is_refused(page: dict[str, Any]) -> None:
    study, folder = page["study"], page["sweep"].folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
    assert study.run("first").state == "finished"
    now = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
    assert now == before
    other = Study.load(folder / "study.yaml", {"train.epochs": 3})
    with pytest.raises(InputError, match="`train` is not what this sweep began with"):
        other.run("first")


def test_it_is_shown_as_html_that_runs_nothing(page: dict[str, Any]) -> None:
    html = page["sweep"]._repr_html_()
    assert "winner: trial" in html and "verdict:" in html and html.count("<tr") == 4
    assert "<table>" in page["study"]._repr_html_() and "the frame" not in page["study"]._repr_html_()
    assert page["sweep"].report()._repr_html_().startswith("<iframe srcdoc=")


def test_tensorboard_has_the_same_curves(page: dict[str, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from tuning.tracking import Listener
    from tuning.tracking.backends import TensorBoard

    folder = page["sweep"].folder
    listener = Listener(folder / "tracking.jsonl", [TensorBoard(Path("board"))], say=pytest.fail, heard=Path("heard"))
    listener.close()
    for number, curve in page["sweep"].curves.query("metric == 'eval/accuracy'").groupby("trial"):
        events = EventAccumulator(str(Path("board") / f"{number:04d}"))
        events.Reload()
        found = {event.step: event.value for event in events.Scalars("eval/accuracy")}
        assert found == pytest.approx(dict(zip(curve["step"], curve["value"], strict=True)))


def test_blocks_of_other_languages_are_what_they_say(page: dict[str, Any], tmp_path: Path) -> None:
    (tracking,) = (YAML(typ="safe", pure=True).load(text) for text in PAGE.code("yaml"))
    study = Study.load("search_spaces/quickstart.yaml", {"tracking": tracking["tracking"]})
    assert study.config.tracking.backends == ("tensorboard", "wandb")
    (packages,) = map(tomllib.loads, PAGE.code("toml"))
    groups = {"kobert_tuning.tasks", "kobert_tuning.encoders", "kobert_tuning.searchers"}
    assert packages["project"]["entry-points"].keys() == groups


def test_a_sweep_can_be_awaited(page: dict[str, Any]) -> None:
    async def wait() -> Any:
        return await page["sweep"]

    assert asyncio.run(wait()).state == "finished"


def test_what_the_driver_cannot_use_is_told_here(page: dict[str, Any]) -> None:
    study = Study.load("search_spaces/quickstart.yaml", {"resources.cpus_per_worker": 9999})
    with pytest.raises(InputError, match="9999"):
        study.run("too-large", show=False)
    assert Sweep(Path("sweeps/too-large").absolute(), study.config).state == "failed"
    with pytest.raises(InputError, match=r"`\.\./x` cannot be the name of a sweep"):
        study.run("../x")


@pytest.mark.slow
def test_what_the_command_line_runs_is_stopped_from_python(tmp_path: Path) -> None:
    process = start_sweep(tmp_path, "first", "--set", "train.epochs=60")
    with ending_all(process):
        assert wait_for(process, lambda: progress_of(tmp_path / "first") > 0)
        sweep = Sweep.open(tmp_path / "first")
        assert sweep.state == "running" and sweep.best.value is not None
        with pytest.raises(TimeoutError, match="still runs"):
            sweep.wait(0.1)
        assert sweep.stop().state == "interrupted"
        assert process.wait(timeout=60) == 130


def test_notes_on_the_winner_are_shown(readme_work: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(readme_work / "sweeps" / "first", tmp_path / "first")
    result = json.loads((folder / "winner.json").read_text(encoding="utf-8"))
    del result["sha256"]
    (folder / "winner.json").write_text(json.dumps(sealed(result | {"notes": ["no better than chance"]})), "utf-8")
    sweep = Sweep.open(folder)
    assert str(sweep).endswith("\nnote: no better than chance")
    assert "<br>note: no better than chance" in sweep._repr_html_()


def test_what_the_command_line_ran_is_opened_too(readme_work: Path) -> None:
    sweep = Sweep.open(readme_work / "sweeps" / "first")
    assert sweep.state == "finished" and len(sweep.frame) == 8 and len(sweep.trials) == 8
    assert sweep.best.load().predict("재미있다")["name"].item() in ("positive", "negative")
    with pytest.raises(InputError, match="this is no folder of a sweep"):
        Sweep.open(readme_work)
    with pytest.raises(InputError, match="there is no sweep here"):
        Sweep.open(f"file://{readme_work}/sweeps/first")
