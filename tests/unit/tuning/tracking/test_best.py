"""MLflow ranks the trials of a sweep as the sweep does: by their best evaluations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.fixtures.sweeps import QUICKSTART
from tests.fixtures.tracking import dump, history, open_tracker, runs_of, spool_of
from tuning.study import load_study
from tuning.sweep.tracking import log_results
from tuning.sweep.trial_recorder import TrialRecorder
from tuning.sweep_dir.trial_status import TrialState, run_end
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.tracking import default_tracking_uri, send_spool

STUDY = load_study(QUICKSTART)
ROUNDS = SimpleNamespace(trial_of={}, come_further=lambda: None)


def report(recorder: TrialRecorder, trial: int, progress: int, accuracy: float, *, is_best: bool) -> None:
    """An evaluation, as Ray Tune brings it to the recorder."""
    metrics = {"eval/accuracy": accuracy, "eval/loss": 1 - accuracy}
    said = {"progress": progress, "step": progress, "metrics": metrics, "is_best": is_best, "micro_batch": None}
    result = {"report": said | {"checkpoint": f"update-{progress}"}, "objective": accuracy}
    told = SimpleNamespace(config={"trial": trial, "values": {}})
    recorder.on_trial_result(0, [], cast(Any, told), result)


def test_the_best_evaluation_of_a_trial_is_reported_once(output: Path) -> None:
    table = TrialTable(output / "sweep", STUDY.objective)
    table.folder.mkdir()
    table.put(TrialRecord(0, TrialState.RUNNING, {}))
    for _ in range(2):  # the second time is that of a resumed trial, which repeats what its checkpoint knows
        tracker = open_tracker(output)
        recorder = TrialRecorder(STUDY, table, tracker, cast(Any, ROUNDS), cast(Any, None), cast(Any, None))
        report(recorder, 0, 10, 0.7, is_best=True)
        report(recorder, 0, 20, 0.9, is_best=True)
        report(recorder, 0, 30, 0.6, is_best=False)
        assert tracker.close(60) == 0 == tracker.refused
    run = runs_of(output)["first/00"]
    assert run.data.metrics["eval/accuracy"] == 0.6
    best = {"best/eval/accuracy": 0.9, "best/eval/loss": 1 - 0.9, "best/progress": 20}
    assert {name: value for name, value in run.data.metrics.items() if name.startswith("best/")} == best
    assert [point[:2] for point in history(output, run, "best/eval/accuracy")] == [(10, 0.7), (20, 0.9)]


def judge(output: Path, *records: TrialRecord, winner: int, test: dict[str, float]) -> dict[str, dict[str, str]]:
    """The tags `rank` and `winner` of the trials, once a sweep with these (more) trials has come to its end."""
    table, tracker = TrialTable(output / "sweep", STUDY.objective), open_tracker(output)
    table.folder.mkdir(exist_ok=True)
    for record in records:
        table.put(record)
        tracker.start_trial(str(record.trial), params={}, tags={})
        status, tags = run_end(record)
        tracker.end_trial(str(record.trial), status=status, tags=tags)
    assert table.winner() == table[winner]
    log_results(tracker, STUDY, table, table[winner], {"winner": test, "trial_0": {"test/accuracy": 0.5}})
    assert tracker.close(60) == 0 == tracker.refused
    return {
        name: {key: value for key, value in run.data.tags.items() if key in ("rank", "winner")}
        for name, run in runs_of(output).items()
        if name.startswith("first/")
    }


def test_the_winner_is_tagged_and_another_one_takes_its_place(output: Path) -> None:
    records = [
        TrialRecord(0, "COMPLETE", {}, value=0.7, logged_step=30),
        TrialRecord(1, "PRUNED", {}, value=0.75, logged_step=10),
        TrialRecord(2, "COMPLETE", {}, value=0.8, logged_step=30),
        TrialRecord(3, "COMPLETE", {}, value=0.8, logged_step=30),  # as good as the winner, and later
        TrialRecord(4, "FAILED", {}, value=0.9, logged_step=30, reason="nan"),
    ]
    first = {
        "first/00": {"rank": "4"},
        "first/01": {"rank": "3"},
        "first/02": {"rank": "1", "winner": "true"},
        "first/03": {"rank": "2"},
        "first/04": {},
    }
    assert judge(output, *records, winner=2, test={"test/accuracy": 0.75}) == first
    assert judge(output, winner=2, test={"test/accuracy": 0.75}) == first, "the same sweep, resumed"
    more = [TrialRecord(number, "COMPLETE", {}, value=value) for number, value in enumerate((0.85, *[0.1] * 6), 5)]
    second = judge(output, *more, winner=5, test={"test/accuracy": 0.8})
    assert [name for name, tags in second.items() if "winner" in tags] == ["first/05"]
    assert (second["first/05"]["rank"], second["first/02"]["rank"], second["first/01"]["rank"]) == ("01", "02", "04")

    runs = runs_of(output)
    for trial, accuracy in (("first/00", 0.5), ("first/02", 0.75), ("first/05", 0.8)):
        assert [point[1] for point in history(output, runs[trial], "test/accuracy")] == [accuracy]
    assert {run.info.status for name, run in runs.items() if name in ("first/00", "first/02")} == {"FINISHED"}
    before = dump(output)
    spool_of(output).with_name("tracking.jsonl.state.json").unlink()
    assert (
        send_spool(spool_of(output), uri=default_tracking_uri(output)).left == 0
    )  # it ends the sweep, and changes no trial
    assert before.pop("first") and {name: run for name, run in dump(output).items() if name != "first"} == before
