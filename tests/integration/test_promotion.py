"""A real sweep whose trials pause and are promoted, stopped in between and resumed."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kobert_core.tasks import task_class
from kobert_core.training import train
from tests.fixtures.commands import tune_here
from tests.fixtures.outcomes import suggestions_of
from tests.fixtures.sweeps import (
    ending_all,
    records_of,
    start_sweep,
    stored_curves,
    sweep_to_its_end,
    wait_for,
    without_times,
)
from tests.fixtures.tracking import runs_of
from tests.fixtures.undisturbed import Until
from tuning.study import load_study

pytestmark = pytest.mark.slow
SCHEDULER = "scheduler={name: promotion, grace_percent: 10, reduction_factor: 2}"
ARGUMENTS = ("--trials", "10", "--set", SCHEDULER, "--set", "resources.concurrent=2")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the sweep `one`, which was interrupted while trials were paused, and resumed."""
    folder = tmp_path_factory.mktemp("promotion")
    process = start_sweep(folder, "one", *ARGUMENTS)
    with ending_all(process):
        assert wait_for(process, lambda: states(folder)["PAUSED"] >= 4)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130, (folder / "one.out").read_text()
    yield folder


def states(folder: Path) -> Counter[str]:
    return Counter(record["state"] for record in records_of(folder / "one").values())


def curve_of(record: dict[str, Any]) -> dict[int, float]:
    return {int(percent): value for percent, value in record["curve"].items()}


def test_a_promoted_trial_has_the_curve_of_one_that_never_paused(output: Path, cache: Path) -> None:
    sweep = output / "one"
    before, known, runs = records_of(sweep), suggestions_of(sweep), runs_of(output, "quickstart")
    paused = [trial for trial, record in before.items() if record["state"] == "PAUSED"]
    assert len(paused) >= 3 and states(output).keys() <= {"PAUSED", "INTERRUPTED", "COMPLETE"}
    assert tune_here("list", sweep, cwd=output).stdout.count(" paused ") == len(paused)
    for trial in paused:
        run, record = runs[f"one/{trial:02d}"], before[trial]
        assert (run.info.status, run.data.tags["state"]) == ("SCHEDULED", "PAUSED")
        assert known[trial][0] == "RUNNING" and known[trial][3] == curve_of(record)
        kept = {folder.name for folder in (sweep / "trials" / f"{trial:04d}" / "checkpoints").iterdir()}
        assert kept == {f"update-{record['update']:08d}", record["checkpoint"]}

    sweep_to_its_end(output, "one", *ARGUMENTS, "--resume")
    after, known, runs = records_of(sweep), suggestions_of(sweep), runs_of(output, "quickstart")
    assert len(after) == 10 and states(output).keys() == {"COMPLETE", "PRUNED"}
    for trial, record in after.items():
        assert known[trial][0] == record["state"] and known[trial][3] == curve_of(record)
        assert runs[f"one/{trial:02d}"].info.status == {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}[record["state"]]

    report = (sweep / "report.html").read_text(encoding="utf-8")
    assert "Trials paused and went on later" in report and "trials at once, at most" not in report

    promoted = [trial for trial in paused if after[trial]["progress"] > before[trial]["progress"]]
    assert promoted, "some of those that were paused went on"
    study, (stored, doubled) = load_study(sweep / "study.yaml"), stored_curves(output, "quickstart")
    assert doubled == 0
    for trial in promoted:
        config, runtime = study.train_config(after[trial]["values"]), Until(after[trial]["progress"])
        train(config, task_class(config.task)(config, cache=cache), runtime)
        assert len(runtime.reports) == len(after[trial]["curve"])
        for step, report in runtime.reports.items():
            assert without_times(report.metrics).items() <= stored[f"{trial}", step].items(), (trial, step)
