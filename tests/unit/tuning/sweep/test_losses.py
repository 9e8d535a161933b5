"""Whose fault it was that a trial ended with an error: its own, a user's, or that of processes around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState
from ray import cloudpickle
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from kobert_core.config import Objective
from kobert_core.errors import InputError
from search_spaces.distributions import Space
from tests.fixtures.sweeps import QUICKSTART
from tuning.search.optuna_study import open_optuna_study
from tuning.search.searcher import OptunaSearcher, Teller
from tuning.study import SearchConfig, load_study
from tuning.sweep.budget import Budget
from tuning.sweep.rounds import Rounds
from tuning.sweep.session import Session
from tuning.sweep.sweep import resume_lost_trials
from tuning.sweep.trial_recorder import TrialRecorder
from tuning.sweep_dir.layout import LEDGER
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.workers.failures import (
    MAX_LOSSES,
    TrialFailed,
    TrialRefused,
    in_one_line,
    is_infrastructure,
    was_infrastructure,
)

STUDY = load_study(QUICKSTART)
DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: Broker
\tactor_id: da58556a1411a22f617ff7da01000000
\tpid: 8601
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file."""
NO_MEMORY = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, \
ID: dc38) was 14.78GB used / 23.54GB limit (0.627817)
OOM kill reason: Memory usage 15691337728B exceeded threshold of 14498350080B (57.4% of 25276063744B limit)
Selected to kill: (Task: job ID=01000000, lease ID=0000, task name=ResourceTrainable.train, required resources={}, \
pid=22531, actual memory used=0.04GB, worker ID=4554)
]
Total non-selected idle workers: 1"""
OLD_LOSS = f"""Failure # 1 (occurred at 2026-11-26_10-33-09)
\x1b[36mray::ResourceTrainable.train()\x1b[39m (pid=8815, ip=192.0.2.2)
  File "tuning/trial.py", line 76, in _next_report
    kind, content = ray.get(exchange.take.remote(self._lease))
ray.exceptions.ActorDiedError: {DIED}
"""
OLD_NO_GROUP = """Failure # 1 (occurred at 2026-11-26_10-33-09)
\x1b[36mray::ResourceTrainable.train()\x1b[39m (pid=8815, ip=192.0.2.2)
ray.exceptions.RayTaskError(RuntimeError): \x1b[36mray::Exchange.submit()\x1b[39m (pid=8601, ip=192.0.2.2)
RuntimeError: the worker group was lost: no more
"""
OLD_FAILURE = """Failure # 1 (occurred at 2026-11-26_10-33-09)
\x1b[36mray::ResourceTrainable.train()\x1b[39m (pid=8815, ip=192.0.2.2)
    raise RuntimeError(content)
RuntimeError: Traceback (most recent call last):
  File "tuning/worker_group.py", line 199, in serve
    value = function(runtime, **arguments)
kobert_core.training.NonFiniteError: after step 3 train/loss is nan
"""
OLD_LOST_AGAIN_AND_AGAIN = """Failure # 1 (occurred at 2026-11-26_10-33-09)
\x1b[36mray::ResourceTrainable.train()\x1b[39m (pid=8815, ip=192.0.2.2)
RuntimeError: the trial's workers were lost (failure 4): the worker group was lost: The actor died unexpectedly
"""


class Bench:
    """A recorder with all that hangs on it, but for Ray and MLflow."""

    def __init__(self, folder: Path, *trials: TrialRecord) -> None:
        self.folder, self.said, self.stopped = folder, list[str](), list[object]()
        self.table = TrialTable(folder, STUDY.objective)
        for record in trials:
            self.table.put(record)
        groups: Any = SimpleNamespace(
            stop_all=lambda: self.stopped.append("all"),
            stop_owned_by=self.stopped.append,
            settle=lambda: self.stopped.append("settled"),
        )
        self.session = Session()
        self.budget = Budget(STUDY, lambda: 1, lambda: None, folder=folder, least_free=lambda: 0, session=self.session)
        self.rounds = Rounds(self.table, groups, self.budget, self.session, patience=2, say=self.said.append)
        self.ends = dict[str, str]()
        tracker: Any = SimpleNamespace(end_trial=lambda trial, status, tags: self.ends.update({trial: status}))
        disk: Any = SimpleNamespace(for_ended=lambda live: 0)
        self.recorder = TrialRecorder(STUDY, self.table, tracker, self.rounds, self.budget, disk)

    def end(self, number: int, error: Exception) -> Any:
        """A trial ends with this error, as Ray Tune tells it."""
        trial = trial_with(self.folder, number, error)
        self.recorder.on_trial_error(0, [], trial)
        return trial


def trial_with(folder: Path, number: int, error: Exception) -> Any:
    """A trial of Ray Tune that ended with this error, which is on the disk as Tune leaves it."""
    pickled, text = folder / "error.pkl", folder / "error.txt"
    pickled.write_bytes(cloudpickle.dumps(error))
    text.write_text(f"Failure # 1 (occurred at 2026-11-26)\n{error}\n")
    return SimpleNamespace(
        trial_id=f"id{number}",
        config={"trial": number, "values": {}},
        pickled_error_file=str(pickled),
        error_file=str(text),
    )


def raised(error: Exception) -> Exception:
    """What a caller sees of an error that an actor raised."""
    lines = f"ray::ResourceTrainable.train()\n{type(error).__name__}: {error}"
    return RayTaskError("train", lines, error, proctitle="ray::Trial", pid=1, ip="x").as_instanceof_cause()


def running(number: int, **values: Any) -> TrialRecord:
    return TrialRecord(number, "RUNNING", {}, **values)


@pytest.mark.parametrize(
    "error", [ActorDiedError(), raised(ActorDiedError()), raised(RuntimeError("no group is left"))]
)
def test_a_trial_that_lost_processes_is_interrupted_and_another_round_follows(tmp_path: Path, error: Exception) -> None:
    bench = Bench(tmp_path, running(0, curve={10: 0.5}, progress=10), running(1))
    bench.end(0, error)
    bench.end(1, error)
    assert bench.table.states() == {"INTERRUPTED": 2} and bench.table[0].curve == {10: 0.5}
    assert bench.ends == {"0": "KILLED", "1": "KILLED"} and bench.session.failures == []
    assert bench.rounds.stop_all() and bench.rounds.stop_all() and bench.stopped == [0, 1, "all"]
    assert bench.rounds.another()
    assert len(bench.said) == 1 and bench.said[0].endswith(": going on from the checkpoints")
    assert bench.stopped[-1] == "settled" and not bench.rounds.stop_all()
    assert not bench.rounds.another(), "the next round lost nothing"


def test_out_of_patience_no_trial_begins_and_those_that_began_come_to_their_end(tmp_path: Path) -> None:
    whole = [TrialRecord(number, "COMPLETE", {}, value=1 - number) for number in range(3)]
    bench = Bench(tmp_path, *whole, running(3))
    assert not bench.rounds.takes_new_trials and not bench.rounds.stop_all()
    bench.end(3, raised(TrialFailed("Traceback")))
    assert bench.rounds.stop_all() and not bench.budget.is_over and not bench.rounds.another()


def test_what_the_training_function_raised_fails_the_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path, running(0), running(1, curve={10: 0.5}))
    bench.end(0, raised(TrialFailed("Traceback\nKeyError: 'a row'")))
    bench.end(1, raised(TrialRefused("model.backbone: these weights do not fit")))
    assert [record.state for record in bench.table] == ["FAILED", "FAILED"]
    assert [record.reason for record in bench.table] == [
        "Traceback\nKeyError: 'a row'",
        "model.backbone: these weights do not fit",
    ]
    assert len(bench.session.failures) == 2 and not bench.rounds.stop_all() and not bench.rounds.another()


def test_an_input_error_before_any_report_ends_the_sweep_and_frees_its_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path, running(0), running(1))
    bench.end(1, raised(TrialRefused("model.backbone: these weights do not fit; name others")))
    assert bench.rounds.stop_all() and bench.ends == {"1": "FAILED"}
    with pytest.raises(InputError, match="these weights do not fit; name others"):
        bench.rounds.another()
    assert not (tmp_path / LEDGER).exists()


def test_a_sweep_that_loses_processes_again_and_again_gives_up_unless_trials_come_further(tmp_path: Path) -> None:
    bench = Bench(tmp_path, running(0))
    for _ in range(2 * MAX_LOSSES):
        bench.session.count_report()
        bench.end(0, ActorDiedError())
        assert bench.rounds.another()
    for _ in range(MAX_LOSSES - 1):
        bench.end(0, ActorDiedError())
        assert bench.rounds.another()
    bench.end(0, ActorDiedError())
    assert not bench.rounds.another()
    assert bench.budget.gave_up is not None and "no trial has come any further" in bench.budget.gave_up


def test_a_process_that_takes_this_ones_place_is_in_the_same_sitting(tmp_path: Path) -> None:
    with open(tmp_path / "session", "w+b", buffering=0) as file:
        before = Session(begin=time.monotonic() - 100, descriptor=file.fileno())
        before.count_failure("KeyError: 'a row'")
        for _ in range(12):
            before.count_report()
        before.count_loss()
        after = Session(descriptor=file.fileno())
        after.read()
        assert after == before and (after.losses, after.reports, after.failures) == (1, 12, ["KeyError: 'a row'"])
        assert not after.ended


def test_a_process_that_the_memory_monitor_ended_is_one_line(tmp_path: Path) -> None:
    bench = Bench(tmp_path, running(3))
    bench.rounds.trial_of[22531] = 3
    with bench.rounds.noting_losses():
        try:
            raise OutOfMemoryError(NO_MEMORY)
        except OutOfMemoryError as error:  # as Ray Tune has it
            raise RuntimeError(f"Caught unexpected exception: {error}") from error
    assert bench.rounds.another()
    assert bench.said == [
        "trial 3: Ray's memory monitor ended the process `ResourceTrainable`, since 14.78 of 23.54 GB of the machine's "
        "memory were in use: a smaller `optim.batch_size`, `optim.max_tokens` or `resources.concurrent` takes less: "
        "going on from the checkpoints"
    ]


def test_an_error_of_the_driver_itself_is_no_loss(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(KeyError), bench.rounds.noting_losses():
        raise KeyError("a bug")
    assert is_infrastructure(ActorDiedError()) and in_one_line(DIED) == "the process `Broker` has died"


@pytest.mark.parametrize(
    ("reason", "goes_on"),
    [(OLD_LOSS, True), (OLD_NO_GROUP, True), (OLD_FAILURE, False), (OLD_LOST_AGAIN_AND_AGAIN, False), ("", False)],
)
def test_a_trial_that_an_older_version_failed_for_its_loss_goes_on(tmp_path: Path, reason: str, goes_on: bool) -> None:
    assert was_infrastructure(reason) == goes_on
    space = Space.from_dict({"optim.backbone_lr": {"min": 0.0, "max": 1.0}})
    search, objective = SearchConfig(algorithm="random"), Objective(metric="eval/accuracy", mode="max")
    opened: Callable[[], Any] = lambda: open_optuna_study(  # noqa: E731
        tmp_path, name="study", objective=objective, search=search, resume=True, ledger=table
    )
    table = TrialTable(tmp_path, objective)
    searcher = OptunaSearcher(opened(), space, search, objective)
    values = [searcher.suggest(trial_id)["values"] for trial_id in ("a", "b")]
    searcher.on_trial_complete("a", error=True)
    searcher.tell("a")
    table.put(TrialRecord(0, "FAILED", values[0], reason=reason))
    table.put(TrialRecord(1, "RUNNING", values[1]))

    resume_lost_trials(table)
    study = opened()
    again = OptunaSearcher(study, space, search, objective, ledger=table)
    first, second = again.suggest("c"), again.suggest("d")
    if goes_on:
        assert TrialTable(tmp_path, objective)[0].state == "INTERRUPTED"
        assert (first, second) == ({"trial": 0, "values": values[0]}, {"trial": 1, "values": values[1]})
        again.on_trial_result("c", {"progress": 50, "objective": 0.5})
        again.on_trial_complete("c", {"progress": 100, "objective": 0.6})
        again.tell("c")
    else:
        assert table[0].state == "FAILED" and first == {"trial": 1, "values": values[1]} and second["trial"] == 2
    assert study.trials[0].state == TrialState.FAIL, "Optuna cannot take it back"


def test_optuna_hears_of_failures_only(tmp_path: Path) -> None:
    space = Space.from_dict({"optim.backbone_lr": {"min": 0.0, "max": 1.0}})
    search, objective = SearchConfig(algorithm="random"), Objective(metric="eval/accuracy", mode="max")
    study = open_optuna_study(tmp_path, name="study", objective=objective, search=search, resume=False)
    searcher = OptunaSearcher(study, space, search, objective)
    for number, error in enumerate([raised(ActorDiedError()), raised(TrialFailed("Traceback"))]):
        trial = trial_with(tmp_path, number, error)
        searcher.suggest(trial.trial_id)
        searcher.on_trial_complete(trial.trial_id, error=True)
        Teller(searcher).on_trial_error(0, [], trial)
    searcher.put_back()
    assert [trial.state for trial in study.trials] == [TrialState.WAITING, TrialState.FAIL]
