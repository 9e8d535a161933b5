"""`list` and `logs`: what is shown of sweeps, in which order, and until when."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kobert_core.errors import InputError
from tests.fixtures.commands import ROOT
from tuning.cli.app import app
from tuning.study import dump_study, load_study
from tuning.sweep_dir.layout import STUDY
from tuning.sweep_dir.lock import sweep_lock
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

LR, SCHEDULE = "optim.backbone_lr", "optim.schedule"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Four trials as a sweep writes them down, less being better."""
    folder = tmp_path / "sweeps" / "made"
    folder.mkdir(parents=True)
    study = load_study(ROOT / "search_spaces" / "quickstart.yaml", ["objective.metric=eval/loss", "objective.mode=min"])
    dump_study(study, folder / STUDY)
    table = TrialTable(folder, study.objective)
    for record in (
        TrialRecord(0, "COMPLETE", {LR: 3e-3, SCHEDULE: "linear"}, 100, value=0.6, seconds=5.0),
        TrialRecord(1, "PRUNED", {LR: 1e-3}, 50, value=0.1, seconds=9.0),
        TrialRecord(2, "FAILED", {LR: 2e-3, SCHEDULE: "constant"}, reason="Traceback\nValueError: [bold]no[/]"),
        TrialRecord(3, "COMPLETE", {LR: 4e-3}, 100, value=0.5, seconds=7.0, metrics={"eval/accuracy": 0.75}),
    ):
        table.put(record)
    return folder


def listed(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["list", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_sweeps_best_value_stands_beside_its_trial_and_state(sweep: Path) -> None:
    said = listed("--output", sweep.parent)
    assert "2 complete, 1 failed, 1 pruned  best eval/loss 0.1000 (trial 1, pruned at 50%)" in said
    (found,) = json.loads(listed("--output", sweep.parent, "--json"))["sweeps"]
    assert found["best"]["trial"] == 1 and found["states"] == {"COMPLETE": 2, "PRUNED": 1, "FAILED": 1}
    assert (found["sweep"], found["cut_off"]) == (str(sweep), False)
    assert json.loads(listed("--output", sweep, "--json")) == {"sweeps": []}


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("trial", [0, 1, 2, 3]),
        ("value", [1, 3, 0, 2]),  # as the winner is chosen; then those without
        ("loss", [1, 3, 0, 2]),
        ("seconds", [1, 3, 0, 2]),
        ("state", [0, 3, 2, 1]),
        (LR, [1, 2, 0, 3]),
        ("backbone_lr", [1, 2, 0, 3]),
        (SCHEDULE, [2, 0, 1, 3]),
        ("eval/accuracy", [3, 0, 1, 2]),
    ],
)
def test_trials_are_sorted(sweep: Path, key: str, order: list[int]) -> None:
    assert [trial["trial"] for trial in json.loads(listed(sweep, "--sort", key, "--json"))["trials"]] == order
    lines = listed(sweep, "--sort", key).splitlines()
    assert [int(line.split()[0]) for line in lines if line.split()[0].isdigit()] == order


def test_what_a_user_wrote_is_shown_as_it_is(sweep: Path) -> None:
    assert "[bold]no[/]" in listed(sweep)


@pytest.mark.parametrize(
    ("arguments", "said"), [(["SWEEP", "--sort", "backbone"], "did you mean"), (["--sort", "value"], "SWEEP_DIR")]
)
def test_what_cannot_be_sorted_is_told(sweep: Path, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["list", *(str(sweep) if each == "SWEEP" else each for each in arguments)])
    assert isinstance(done.exception, InputError) and said in str(done.exception)


@pytest.fixture
def log(sweep: Path) -> Path:
    """Of a trial that runs."""
    table_of(sweep).put(TrialRecord(4, "RUNNING", {}))
    log = sweep / "trials" / "0004" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("first\n", encoding="utf-8")
    return log


def table_of(sweep: Path) -> TrialTable:
    return TrialTable(sweep, load_study(sweep / STUDY).objective)


def test_a_log_is_followed_until_its_trial_ends(sweep: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = iter([b"\xeb\x81", b"\x9d\n", b"last"])  # a line that is being written, cut inside of a character

    def goes_on(_: float) -> None:
        with open(log, "ab") as file:
            file.write(next(pieces))
        if log.read_bytes().endswith(b"last"):
            table_of(sweep).put(TrialRecord(4, "PRUNED", {}, progress=50))

    monkeypatch.setattr(time, "sleep", goes_on)
    with sweep_lock(sweep):
        done = CliRunner().invoke(app, ["logs", str(sweep), "4", "--follow"])
    assert (done.exit_code, done.stdout) == (0, "first\n끝\nlast")
    assert done.stderr == "trial 4, pruned at 50%\n"


def test_a_trial_that_has_not_begun_is_waited_for(sweep: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = sweep / "trials" / "0005" / "log.txt"

    def begins_and_ends(_: float) -> None:
        if 5 not in table_of(sweep):
            table_of(sweep).put(TrialRecord(5, "RUNNING", {}))
            later.parent.mkdir(parents=True)
            later.write_text("began\n")
        else:
            table_of(sweep).put(TrialRecord(5, "COMPLETE", {}, progress=100))

    monkeypatch.setattr(time, "sleep", begins_and_ends)
    with sweep_lock(sweep):
        done = CliRunner().invoke(app, ["logs", str(sweep), "5", "--follow"])
        assert (done.exit_code, done.stdout, done.stderr) == (0, "began\n", "trial 5, complete\n")
        with pytest.raises(InputError, match="there is no trial 999"):  # it has no so many to begin
            raise CliRunner().invoke(app, ["logs", str(sweep), "999", "--follow"]).exception  # type: ignore[misc]
    with pytest.raises(InputError, match="there is no trial 6"):  # nobody begins it
        raise CliRunner().invoke(app, ["logs", str(sweep), "6", "--follow"]).exception  # type: ignore[misc]


def test_a_log_goes_on_after_a_loss(sweep: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that is interrupted while its sweep runs goes on in the next round."""
    states = iter(["INTERRUPTED", "RUNNING", "COMPLETE"])

    def goes_on(_: float) -> None:
        with open(log, "ab") as file:
            file.write(b"more\n")
        table_of(sweep).put(TrialRecord(4, next(states), {}, progress=100))

    monkeypatch.setattr(time, "sleep", goes_on)
    with sweep_lock(sweep):
        done = CliRunner().invoke(app, ["logs", str(sweep), "4", "--follow"])
    assert (done.exit_code, done.stdout) == (0, "first\nmore\nmore\nmore\n")


def test_a_log_of_a_sweep_that_was_killed_is_not_followed_for_ever(sweep: Path, log: Path) -> None:
    done = CliRunner().invoke(app, ["logs", str(sweep), "4", "--follow"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "first\n", "trial 4, running at 0%\n")


def test_ctrl_c_ends_following(sweep: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` lets a process ignore it
    try:
        with sweep_lock(sweep):
            done = CliRunner().invoke(app, ["logs", str(sweep), "4", "--follow"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.exit_code, done.stdout, done.stderr) == (130, "first\n", "")
