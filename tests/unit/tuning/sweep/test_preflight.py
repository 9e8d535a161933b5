"""What would fail in every trial is told before one starts, and what is probably a mistake: in one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kobert_core.errors import InputError
from tests.fixtures.commands import ROOT
from tuning.cli.app import app
from tuning.study import StudyConfig, load_study
from tuning.sweep.preflight import check_study, cpus_here, survey, this_machine
from tuning.sweep.train_local import train_once
from tuning.sweep_dir.opening import open_sweep_dir, refuse_used

SAMPLE = ROOT / "search_spaces" / "sample"
STUDY = f"""
schema_version: 1
name: small
task: nsmc
data: {{train: {SAMPLE}/train.tsv, dev_fraction: 0.25}}
model:
  init: random
  tokenizer_vocab_size: 1000
  config: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}}
optim: {{batch_size: 64}}
train: {{epochs: 1, eval_percent: 100}}
parameters:
  data.max_length: {{values: [32, 64]}}
  model.dropout: {{min: 0.0, max: 0.5}}
  optim.backbone_lr: {{min: 1e-4, max: 1e-3}}
budget: {{trials: 2}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., StudyConfig]:
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return lambda *overrides: load_study(tmp_path / "study.yaml", overrides)


def dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = [word for override in overrides for word in ("--set", override)]
    result = CliRunner().invoke(app, ["sweep", "study.yaml", "--dry-run", *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_one_searched_value_that_no_model_takes_is_found_among_those_that_do(
    study: Callable[..., StudyConfig], cache: Path
) -> None:
    check_study(study(), cache)
    with pytest.raises(InputError, match=r'600 tokens are longer .* 512 .*searched: \{"data.max_length": 600\}'):
        check_study(study("parameters.data.max_length={values: [32, 64, 600]}"), cache)
    with pytest.raises(InputError, match="not a multiple of the number of attention heads"):
        check_study(study("model.config.hidden_size=33"), cache)
    with pytest.raises(InputError, match=r"optim\.betas"):
        study("optim.betas=[1.5, 0.9]")


def test_a_dry_run_tells_what_is_in_the_data(study: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = dry_run(tmp_path, monkeypatch, "parameters.model.attention_dropout={min: 0.0, max: 0.5}")
    assert "classes in train          180 negative, 180 positive" in shown
    assert "dev texts in train        0 of 120 (0.00%)" in shown
    assert "\n  model.attention_dropout uniform" in shown, "the longest label: all values begin behind it"
    assert "\n  model.dropout           uniform" in shown
    assert "0.00% at 32, 0.00% at 64 tokens (data.max_length)" in shown
    assert "trial(s) at once" in shown
    assert "warning" not in shown


def test_a_dry_run_is_one_object(study: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = (SAMPLE / "train.tsv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.tsv").write_text("\n".join([*rows, "9999\t\t1"]) + "\n", encoding="utf-8")
    options = ["--json", "--set", "data.train=train.tsv"]
    result = CliRunner().invoke(app, ["sweep", "study.yaml", "--dry-run", *options], catch_exceptions=False)
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert found["splits"] == {"train": {"examples": 360, "items": 360}, "dev": {"examples": 120, "items": 120}}
    assert (found["steps"], found["examples_per_step"], found["trials"]) == (6, 64, 2)
    assert found["facts"]["classes in train"] == "180 negative, 180 positive"
    assert found["set_aside"] == [f"{tmp_path / 'train.tsv'}: line {len(rows) + 1}: empty text"]
    assert found["study"]["name"] == "small" and found["warnings"] == []
    assert "trial(s) at once" in result.stderr


def test_a_dry_run_warns_in_a_line_each(study: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = dry_run(
        tmp_path,
        monkeypatch,
        "parameters.data.max_length={values: [4, 32]}",
        f"data.test={SAMPLE}/train.tsv",
        "data.max_leak=1",
        "tracking.uri=http://127.0.0.1:9",
        "data.labels={'0': bad, '1': good, '2': mixed}",
    )
    warnings = [line for line in shown.splitlines() if line.startswith("warning: ")]
    for part in (
        "the test file has the same content as the train file",
        "train has no row of the class `mixed`",
        "texts cut off: 100.00% at `data.max_length: 4`, which is probably too short",
        "no MLflow server answers at http://127.0.0.1:9",
    ):
        assert sum(part in line for line in warnings) == 1, shown


def test_what_this_machine_has_not_is_refused_at_once(
    study: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_many = this_machine()["GPU"] + 1
    for override in ("resources.cpus_per_worker=100000", f"resources={{workers: {too_many:g}, gpus_per_worker: 1}}"):
        with pytest.raises(InputError, match="a trial asks for"):
            dry_run(tmp_path, monkeypatch, override)
    with pytest.raises(InputError, match="a trial asks for"):
        CliRunner().invoke(
            app,
            ["sweep", "study.yaml", "--set", "resources.cpus_per_worker=100000"],
            catch_exceptions=False,
        )
    assert not (tmp_path / "sweeps").exists()


def test_the_cpus_of_a_container_are_those_that_it_may_use(tmp_path: Path) -> None:
    count = cpus_here(tmp_path / "no container")
    for content, expected in (
        ("max 100000", count),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("9900000 100000", count),
    ):
        (tmp_path / "cpu.max").write_text(f"{content}\n")
        assert cpus_here(tmp_path / "cpu.max") == expected


def run_train(study: StudyConfig, cache: Path, **how: Path) -> tuple[list[str], list[str]]:
    said, warned = list[str](), list[str]()
    train_once(study, say=said.append, warn=warned.append, cache=cache, **how)  # type: ignore[arg-type]
    return said, warned


def test_train_looks_at_its_output_before_the_first_step(
    study: Callable[..., StudyConfig], cache: Path, tmp_path: Path
) -> None:
    used, file = tmp_path / "used", tmp_path / "file"
    used.mkdir()
    (used / "mine").touch()
    file.touch()
    for output, message in (
        (used, "the output is not empty"),
        (file, "the output is not empty"),
        (file / "model", "nothing can be written here"),
        (Path("/proc/model"), "nothing can be written here"),
    ):
        said = list[str]()
        with pytest.raises(InputError, match=message):
            train_once(study(), say=said.append, warn=said.append, cache=cache, output=output)
        assert said == []
    with pytest.raises(InputError, match="nothing can be written here"):
        run_train(study(), cache, trace=file / "trace.json")


def test_what_was_trained_is_kept_though_its_output_was_taken_meanwhile(
    study: Callable[..., StudyConfig], cache: Path, tmp_path: Path
) -> None:
    output, said = tmp_path / "model", list[str]()

    def say(text: str) -> None:
        said.append(text)
        output.mkdir(exist_ok=True)
        (output / "of somebody else").touch()

    train_once(study(), say=say, warn=said.append, cache=cache, output=output)
    assert said[-1] == f"exported to {output}-2"
    assert (tmp_path / "model-2" / "model.safetensors").is_file()
    assert [path.name for path in output.iterdir()] == ["of somebody else"]


def test_train_warns_of_what_is_probably_a_mistake(study: Callable[..., StudyConfig], cache: Path) -> None:
    gpus = this_machine()["GPU"]
    _, warned = run_train(study("resources.gpus_per_worker=1", "parameters.data.max_length={value: 4}"), cache)
    assert [line for line in warned if "is probably too short" in line]
    assert bool([line for line in warned if "no GPU is here" in line]) == (gpus == 0)
    _, warned = run_train(study(), cache)
    assert warned == []


def test_a_used_name_is_refused_as_the_sweep_would_refuse_it(study: Callable[..., StudyConfig], tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "small"
    refuse_used(folder)
    with open_sweep_dir(study(), folder, resume=False):
        refuse_used(folder)  # it runs: that is another line
        (folder / "trials.json").write_text("[]")
    with pytest.raises(InputError, match="the sweep name `small` is in use"):
        refuse_used(folder)
    (folder / ".lock").write_text("running")  # as a kill leaves it
    refuse_used(folder)


def test_a_survey_of_a_study_is_that_of_all_searched_lengths(study: Callable[..., StudyConfig], cache: Path) -> None:
    checked = study("parameters.data.max_length={min: 6, max: 40}")
    facts, _ = survey(check_study(checked, cache), cache)
    told = dict(facts)["texts cut off"]
    assert told.endswith("0.00% at 40 tokens (data.max_length)") and not told.startswith("0.00%")
