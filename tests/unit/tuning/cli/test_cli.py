"""The command line's surface, and that bad input is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kobert_core.errors import InputError
from tests.fixtures.commands import ROOT, tune, tune_here
from tuning.cli.app import app
from tuning.sweep_dir.names import sweep_name

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", {"--set", "--output", "--profile"}),
        (
            "sweep",
            {"--set", "--trials", "--name", "--output", "--address", "--resume", "--dry-run", "--json"},
        ),
        ("export", {"--onnx", "--int8", "--fp16", "--max-drop"}),
        ("onnx", {"--data", "--int8", "--fp16", "--max-drop", "--json"}),
        ("predict", {"--output", "--backend"}),
        ("evaluate", {"--json", "--predictions", "--backend"}),
        ("export", {"--output", "--trial", "--register", "--alias", "--data", "--force"}),
        ("promote", {"--version", "--alias", "--data", "--force", "--tracking-uri", "--json"}),
        ("describe", {"--study", "--task", "--model", "--json", "--html"}),
        ("ui", {"--host", "--port"}),
        ("list", {"--output", "--sort", "--json"}),
        ("logs", {"--follow"}),
        ("sync", {"--tracking-uri", "--json"}),
    ],
)
def test_every_command_teaches_its_options(command: str, options: set[str]) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert all(option in shown.stdout for option in options)


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "ray", "mlflow", "optuna", "transformers", "sklearn", "pandas", "plotly"}
    code = f"import sys, tuning.cli.app; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("kobert-tuning ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.batchsize=8", "did you mean `batch_size`"),
        ("data.train=nowhere.tsv", "nowhere.tsv: the file cannot be read (No such file or directory)"),
        ("model.dropout=0.1", "parameters"),
        ("objective.metric=eval/acuracy", "eval/accuracy"),
        ("train.eval_percent=30", "must divide 100"),
        ("tracking.uri=https://me:secret@host", "a password or token does not belong into a study file"),
        ("search.storage=postgresql://me:secret@host/db", "a password or token does not belong into a study file"),
        ("resources.cpus_per_worker=100000", "a trial asks for 1 worker(s) with 100000 CPUs"),
    ],
)
def test_a_wrong_study_is_one_line(tmp_path: Path, override: str, message: str) -> None:
    done = tune_here("sweep", QUICKSTART, "--dry-run", "--set", override, cwd=tmp_path, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "nowhere.yaml"], "nowhere.yaml"),
        (["export", "nowhere", "--output", "model"], "this is no folder of a sweep"),
        (["evaluate", "nowhere", "data.tsv"], "this is no folder of an exported model"),
        (["logs", "nowhere", "0"], "this is no folder of a sweep"),
        (["sync", "nowhere"], "there are no records of a sweep here"),
        (["ui", "nowhere"], "this is no folder of a sweep"),
        (["sweep", QUICKSTART, "--name", "../out"], "cannot be the name of a sweep"),
    ],
    ids=str,
)
def test_what_is_not_there_is_one_line(tmp_path: Path, arguments: list[object], message: str) -> None:
    done = tune_here(*arguments, cwd=tmp_path, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["sweep", QUICKSTART, "--dry-run", "--set", "train.eval_percent=30"], ["evaluate", "nowhere", "x.tsv"]],
)
def test_a_process_prints_no_more_than_the_line(tmp_path: Path, arguments: list[object]) -> None:
    done = tune(*arguments, cwd=tmp_path, code=2)
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)


@pytest.mark.parametrize("name", ["../up", "/abs", ".hidden", "a/b", "", "-flag", "line\nbreak"])
def test_a_name_cannot_lead_out_of_the_output_folder(name: str) -> None:
    with pytest.raises(InputError):
        sweep_name(name)


def test_a_dry_run_reads_everything_and_leaves_no_sweep(tmp_path: Path) -> None:
    done = tune_here("sweep", QUICKSTART, "--dry-run", cwd=tmp_path)
    for line in ("360 examples", "80 examples", "160 examples", "184 steps of 16 examples", "log_uniform"):
        assert line in done.stdout
    assert "40 examples, which no trial is chosen by" in done.stdout
    assert "6 compare the best trial with the baseline" in done.stdout
    assert [path.name for path in (tmp_path / "sweeps").iterdir()] == ["cache"]


def test_bad_rows_are_listed_with_their_lines(tmp_path: Path) -> None:
    rows = (QUICKSTART.parent / "sample" / "train.tsv").read_text(encoding="utf-8").splitlines()
    rows[7] += "\textra"
    rows[20] = rows[20][:-1] + "5"
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = tune_here("sweep", QUICKSTART, "--dry-run", "--set", f"data.train={tmp_path / 'train.tsv'}", cwd=tmp_path)
    assert "line 8: 4 fields instead of 3" in done.stdout and "line 21: label '5'" in done.stdout


def test_train_repeats_itself_bit_for_bit(tmp_path: Path) -> None:
    arguments = ["train", QUICKSTART, "--set", "train.epochs=0.5", "--set", "train.eval_percent=50"]
    one, other = (run(*arguments, cwd=tmp_path) for run in (tune, tune_here))

    def steady(text: str) -> list[str]:
        return [word for word in text.split() if not word.startswith("train/examples_per_second")]

    assert "100% step 12" in one.stdout
    assert steady(one.stdout) == steady(other.stdout)


def test_train_exports_a_model_that_evaluates_alike(tmp_path: Path) -> None:
    tune_here("train", QUICKSTART, "--set", "train.epochs=1", "--output", "model", cwd=tmp_path)
    (tmp_path / "model" / "model.safetensors").stat()
    scored = tune_here("evaluate", "model", QUICKSTART.parent / "sample" / "test.tsv", cwd=tmp_path)
    assert "accuracy" in scored.stdout and "examples" in scored.stdout
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    corrupt = tune_here("evaluate", "model", QUICKSTART.parent / "sample" / "test.tsv", cwd=tmp_path, code=2)
    assert "its SHA-256 is not the one written" in corrupt.stderr
