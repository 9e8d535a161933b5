"""The inputs of `../shared/cases`, which once went wrong, and what is right for each: its README says why."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kobert_core.io.checksums import sha256_file
from tests.fixtures.commands import TUNE, environment, tune_forked
from tests.fixtures.nodes import free_port

pytestmark = pytest.mark.slow  # `make cases` runs them
Check = Callable[[Path, Path], None]
"""Takes the folder of a case, and another one to write into."""
CASES: dict[str, Check] = {}


def case(name: str) -> Callable[[Check], Check]:
    """Registers what is right for a case."""

    def register(check: Check) -> Check:
        CASES[name] = check
        return check

    return register


def scored(data: Path, predictions: Path) -> tuple[float, float]:
    """EM and F1 of a file of answers, by the independent scorer that lies beside the case."""
    command = [sys.executable, data.parent / "score.py", data, predictions]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    exact, f1, missing = re.findall(r"EM ([\d.]+) F1 ([\d.]+) n \d+ missing (\d+)", said)[0]
    assert missing == "0", said
    return float(exact), float(f1)


def evaluated(model: Path, data: Path, work: Path) -> dict[str, float]:
    """What `evaluate` says of a model, after the answers that it writes were scored independently."""
    answers = work / f"answers-{model.name}-{data.stem}.json"
    done = tune_forked("evaluate", model, data, "--predictions", answers, "--json", cwd=work)
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert (said["exact_match"], said["f1"]) == pytest.approx(scored(data, answers), abs=1e-6)
    return said


def without_unanswerable(here: Path, work: Path) -> Path:
    """A model whose training file has an answer for each question, and so no threshold."""
    sets = ["--set", f"data.train={here / 'answerable.json'}", "--set", "data.test=null"]
    tune_forked("train", here / "study.yaml", *sets, "--output", work / "b", cwd=work)
    return work / "b"


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says why nothing was done. Warnings, and how a file was read, may stand beside it: the data is
    read in a thread."""
    *others, error = sorted(done.stderr.splitlines(), key=lambda line: line.startswith("error: "))
    told = all(line.startswith("WARNING ") or ": read as " in line for line in others)
    assert error.startswith("error: ") and told, done.stderr
    return error


def rows_of(sweep: Path) -> list[dict[str, str]]:
    with open(sweep / "trials.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@case("01")
def one_model_has_one_score_on_a_file(here: Path, work: Path) -> None:
    tune_forked("sweep", here / "study.yaml", "--name", "a", "--output", work, cwd=work)
    test = json.loads((work / "a" / "winner.json").read_text(encoding="utf-8"))["test"]["winner"]
    said = evaluated(work / "a" / "model", here / "test.json", work)
    assert (said["exact_match"], said["f1"]) == (test["test/exact_match"], test["test/f1"])
    evaluated(without_unanswerable(here, work), here / "test.json", work)


@case("02")
def every_question_counts(here: Path, work: Path) -> None:
    model = without_unanswerable(here.parent / "01-no-answer-threshold", work)
    good, wrong = (evaluated(model, here / f"{name}.json", work) for name in ("good", "one_offset_wrong"))
    assert good["questions"] == wrong["questions"] == 140
    assert (good["exact_match"], good["f1"]) == (wrong["exact_match"], wrong["f1"]), "no offset is looked at"


@case("03")
def a_resume_does_not_begin_anew(here: Path, work: Path) -> None:
    study, begin = here.parent / "common" / "study.yaml", work / "here"
    elsewhere = work / "elsewhere"
    begin.mkdir()
    elsewhere.mkdir()
    common = [study, "--set", "resources.concurrent=1", "--name", "s", "--output", work / "out"]
    storage = ["--set", "search.storage=sqlite:///optuna.db"]
    tune_forked("sweep", *common, *storage, "--trials", "2", cwd=begin)
    before = (work / "out" / "s" / "trials.csv").read_bytes()
    refused = tune_forked("sweep", *common, *storage, "--trials", "4", "--resume", cwd=elsewhere, code=2)
    assert "optuna.db" in refusal(refused)
    (begin / "optuna.db").unlink()
    tune_forked("sweep", *common, *storage, "--trials", "4", "--resume", cwd=begin, code=2)
    assert (work / "out" / "s" / "trials.csv").read_bytes() == before


@case("04")
def a_resume_on_other_data_is_refused(here: Path, work: Path) -> None:
    for name in ("study.yaml", "train.tsv"):
        shutil.copy(here.parent / "common" / name, work)
    sweep = ["sweep", work / "study.yaml", "--set", "search.algorithm=random", "--name", "s", "--output", work / "out"]
    tune_forked(*sweep, "--trials", "1", cwd=work)
    before = (work / "out" / "s" / "trials.csv").read_bytes()
    lines = (work / "train.tsv").read_text(encoding="utf-8").splitlines()
    turned = [line[:-1] + str(1 - int(line[-1])) if 0 < number <= 40 else line for number, line in enumerate(lines)]
    (work / "train.tsv").write_text("\n".join(turned) + "\n", encoding="utf-8")
    refused = tune_forked(*sweep, "--trials", "2", "--resume", cwd=work, code=2)
    assert "train.tsv" in refusal(refused)
    assert (work / "out" / "s" / "trials.csv").read_bytes() == before


@case("05")
def what_training_accepts_is_predicted(here: Path, work: Path) -> None:
    study = here.parent / "common" / "study.yaml"
    sets = ["--set", "data.max_bad_fraction=0.2", "--set", "train.epochs=1"]
    tune_forked("train", study, *sets, "--output", work / "m", cwd=work)
    done = tune_forked("predict", work / "m", here / "two_empty.tsv", "--output", work / "p.jsonl", cwd=work)
    assert len((work / "p.jsonl").read_text(encoding="utf-8").splitlines()) == 38
    assert done.stderr.count("empty text") == 2
    said = json.loads(
        tune_forked("evaluate", work / "m", here / "two_empty.tsv", "--json", cwd=work).stdout.splitlines()[-1]
    )
    assert (said["examples"], said["set_aside"]) == (38, 2)


@case("06")
def a_name_of_two_lines_is_a_column(here: Path, work: Path) -> None:
    tune_forked("train", here / "study.yaml", "--output", work / "m", cwd=work)
    tune_forked("predict", work / "m", here.parent / "common" / "test.tsv", "--output", work / "p.tsv", cwd=work)
    header, *rows = (work / "p.tsv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 40
    assert {line.count("\t") for line in rows} == {header.count("\t")}
    assert "probability_긍정 (좋음)" in header.split("\t")


@case("08")
def what_cannot_train_is_refused_by_the_dry_run(here: Path, work: Path) -> None:
    study = here.parent / "common" / "study.yaml"
    shape = "{hidden_size: 33, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}"
    for override, said in (
        ("model.class_weights=[1.0, 2.0, 3.0]", "3 weights for 2 classes"),
        (f"model.config={shape}", "33"),
        ("parameters.data.max_length={values: [32, 600]}", "600"),
    ):
        fixed = ["--set", "data.max_length=null"] if "max_length" in override else []
        done = tune_forked("sweep", study, "--dry-run", *fixed, "--set", override, cwd=work, code=2)
        assert said in refusal(done)


@case("09")
def a_point_is_trained_once(here: Path, work: Path) -> None:
    study = here / "study.yaml"
    assert "3 trials (all points)" in tune_forked("sweep", study, "--dry-run", cwd=work).stdout
    for algorithm in ("grid", "tpe"):
        tune_forked(
            "sweep", study, "--set", f"search.algorithm={algorithm}", "--name", algorithm, "--output", work, cwd=work
        )
        tried = [float(row["optim.backbone_lr"]) for row in rows_of(work / algorithm)]
        assert sorted(tried) == [1e-3, 2e-3, 4e-3]


@case("10")
def an_export_says_what_its_weights_were_trained_with(here: Path, work: Path) -> None:
    tune_forked("sweep", here / "study.yaml", "--name", "p", "--output", work, cwd=work)
    exported = [work / "p" / "model", work / "e"]
    tune_forked("export", work / "p", "--trial", "0", "--output", exported[1], cwd=work)
    winner = json.loads((work / "p" / "winner.json").read_text(encoding="utf-8"))["winner"]["trial"]
    rows = {int(row["trial"]): row for row in rows_of(work / "p")}
    for folder, trial in zip(exported, (winner, 0), strict=True):
        config = json.loads((folder / "train_config.json").read_text(encoding="utf-8"))["optim"]
        for name in ("backbone_lr", "classifier_lr"):
            assert config[name] == float(rows[trial][f"optim.{name}"])


@case("12")
def a_percent_sign_leads_nowhere_else(here: Path, work: Path) -> None:
    study = here.parent / "common" / "study.yaml"
    for name in ("o_%41", "o_A", "o_50%25"):
        (work / name).mkdir()
    for name in ("o_%41", "o_50%25"):
        options = ["--trials", "1", "--set", "train.epochs=1", "--name", "a", "--output", work / name]
        done = tune_forked("sweep", study, *options, cwd=work)
        assert "did not reach MLflow" not in done.stdout
        assert (work / name / "mlflow.db").is_file()
        tune_forked("sync", work / name / "a", cwd=work)
    assert list((work / "o_A").iterdir()) == []


@case("14")
def a_model_is_not_trained_in_vain(here: Path, work: Path) -> None:
    train = ["train", here.parent / "common" / "study.yaml", "--set", "train.epochs=1", "--output", work / "m"]
    tune_forked(*train, cwd=work)
    sums = sha256_file(work / "m" / "SHA256SUMS")
    refused = tune_forked(*train, cwd=work, code=2)
    assert "step" not in refused.stdout and "the output is not empty" in refusal(refused)
    assert sha256_file(work / "m" / "SHA256SUMS") == sums
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        return
    read_only = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    evaluate = [*TUNE, "evaluate", work / "m", here.parent / "common" / "test.tsv"]
    command = ["unshare", "--mount", "sh", "-c", read_only, "sh", work / "m", *evaluate]
    done = subprocess.run([*map(str, command)], cwd=work, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
    assert "note: this reading could not be recorded" in done.stderr and "Traceback" not in done.stderr


@case("15")
def nobody_at_an_address_is_one_line(here: Path, work: Path) -> None:
    study = here.parent / "common" / "study.yaml"
    done = tune_forked("sweep", study, "--address", f"127.0.0.1:{free_port()}", cwd=work, code=2)
    assert "no Ray cluster can be reached" in refusal(done)


@case("own-data")
def labels_of_users_are_taken(here: Path, work: Path) -> None:
    short = ["--set", "train.epochs=1"]
    for study in ("kor3", "kor3-labellist"):
        tune_forked("train", here / f"{study}.yaml", *short, "--output", work / study, cwd=work)
        said = tune_forked("evaluate", work / study, here / "kor3-test.csv", "--json", cwd=work).stdout
        assert json.loads(said.splitlines()[-1])["set_aside"] == 0
    refused = tune_forked("sweep", here / "kor3-nolabels.yaml", "--dry-run", cwd=work, code=2)
    assert "data.labels" in refusal(refused)
    inferred = tune_forked("sweep", here / "kor3-nolabels.yaml", "--dry-run", "--set", "data.labels=infer", cwd=work)
    assert "긍정" in inferred.stdout
    rare = ["--set", f"data.train={here / 'missing-class.csv'}"]
    assert "warning" in tune_forked("sweep", here / "kor3.yaml", "--dry-run", *rare, cwd=work).stdout.lower()


def test_every_case_has_what_is_right_for_it(shared: Path) -> None:
    there = {folder.name.partition("-")[0] for folder in (shared / "cases").glob("[0-9]*-*")}
    assert there == set(CASES) - {"own-data"}


@pytest.mark.parametrize("name", CASES)
def test_a_case_comes_out_right(name: str, shared: Path, tmp_path: Path) -> None:
    (here,) = (shared / "cases").glob(name if name == "own-data" else f"{name}-*")
    CASES[name](here, tmp_path)
