"""The bridge between Ray Tune and Optuna, driven as Ray Tune drives it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from kobert_core.config import Objective
from kobert_core.errors import InputError
from search_spaces.distributions import Space
from tuning.search.optuna_study import open_optuna_study, refuse_other_search
from tuning.search.searcher import OptunaSearcher
from tuning.study import SearchConfig
from tuning.sweep_dir.layout import JOURNAL
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord

SPACE = Space.from_dict(
    {
        "optim.backbone_lr": {"distribution": "log_uniform", "min": 1e-5, "max": 1e-3},
        "optim.schedule": {"values": ["linear", "constant"]},
        "optim.warmup_ratio": {"distribution": "uniform", "min": 0.0, "max": 0.3, "when": {"optim.schedule": "linear"}},
    }
)
OBJECTIVE = Objective(metric="eval/accuracy", mode="max")


def searcher(folder: Path, search: SearchConfig | None = None, space: Space = SPACE, **how: Any) -> OptunaSearcher:
    search = search or SearchConfig(seed=3, startup_trials=4)
    study = open_optuna_study(folder, name="study", objective=OBJECTIVE, search=search, resume=True)
    return OptunaSearcher(study, space, search, OBJECTIVE, **how)


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return open_optuna_study(folder, name="study", objective=OBJECTIVE, search=SearchConfig(), resume=True).trials


def result(progress: int, objective: float) -> dict[str, Any]:
    return {"progress": progress, "objective": objective}


def finish(bridge: OptunaSearcher, trial_id: str, *curve: float) -> None:
    points = [result(10 * (i + 1), value) for i, value in enumerate(curve)]
    for point in points[:-1]:
        bridge.on_trial_result(trial_id, point)
    end(bridge, trial_id, points[-1])


def end(bridge: OptunaSearcher, trial_id: str, last: dict[str, Any] | None = None, *, error: bool = False) -> None:
    """As Ray Tune and, after the ledger, `Teller` say it."""
    bridge.on_trial_complete(trial_id, last, error=error)
    bridge.tell(trial_id)


def test_states_and_curves_are_the_truth(tmp_path: Path) -> None:
    bridge = searcher(tmp_path)
    for trial_id in "abcd":
        bridge.suggest(trial_id)
    finish(bridge, "a", *(0.5, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6))
    finish(bridge, "b", 0.4, 0.3)
    bridge.on_trial_result("c", result(10, 0.5))
    end(bridge, "c", error=True)
    end(bridge, "d", error=True)
    complete, pruned, crashed, never = trials(tmp_path)
    assert (complete.state, complete.value) == (OptunaState.COMPLETE, 0.9), "its value is that of its best checkpoint"
    assert complete.intermediate_values[100] == 0.6 and len(complete.intermediate_values) == 10
    assert pruned.state == OptunaState.PRUNED and pruned.intermediate_values == {10: 0.4, 20: 0.3}
    assert crashed.state == never.state == OptunaState.FAIL


def test_the_newest_mean_of_folds_is_the_value_of_a_trial(tmp_path: Path) -> None:
    """Told by the search, or after a kill from the ledger."""
    bridge = searcher(tmp_path, newest_counts=True)
    for trial_id in "ab":
        bridge.suggest(trial_id)
    curve = {50: 0.9, 100: 0.7}
    bridge.on_trial_result("a", result(50, 0.9))
    end(bridge, "a", result(100, 0.7))
    ledger = [TrialRecord(number, TrialState.COMPLETE, {}, curve=curve) for number in range(2)]
    how: dict[str, Any] = {"name": "study", "objective": OBJECTIVE, "search": SearchConfig(), "resume": True}
    study = open_optuna_study(tmp_path, **how, ledger=ledger, newest_counts=True)
    assert [trial.value for trial in study.trials] == [0.7, 0.7]


def test_interrupted_trials_come_back_with_their_numbers_values_and_curves(tmp_path: Path) -> None:
    bridge = searcher(tmp_path)
    first, second = bridge.suggest("a"), bridge.suggest("b")
    finish(bridge, "a", *([0.5] * 10))
    bridge.on_trial_result("b", result(10, 0.4))
    bridge.put_back()
    assert [trial.state for trial in trials(tmp_path)] == [OptunaState.COMPLETE, OptunaState.WAITING]
    again = searcher(tmp_path)
    assert again.suggest("x") == second != first
    again.on_trial_result("x", result(10, 0.4))  # a resumed run repeats the report of its checkpoint
    end(again, "x", result(20, 0.3))
    resumed = trials(tmp_path)[1]
    assert resumed.state == OptunaState.PRUNED and resumed.intermediate_values == {10: 0.4, 20: 0.3}


def test_out_of_patience_only_interrupted_trials_begin(tmp_path: Path) -> None:
    first = searcher(tmp_path)
    suggested = first.suggest("a")
    first.put_back()
    study = open_optuna_study(tmp_path, name="study", objective=OBJECTIVE, search=SearchConfig(), resume=True)
    bridge = OptunaSearcher(study, SPACE, SearchConfig(), OBJECTIVE, takes_new_trials=lambda: False)
    assert bridge.suggest("b") == suggested and bridge.suggest("c") is None


def test_a_killed_driver_leaves_no_trial_running(tmp_path: Path) -> None:
    suggested = searcher(tmp_path).suggest("a")
    again = searcher(tmp_path)
    assert again.suggest("b") == suggested
    assert len(trials(tmp_path)) == 1


@pytest.mark.parametrize("state", ["COMPLETE", "PRUNED", "FAILED"])
def test_an_end_that_only_the_ledger_knows_is_told(tmp_path: Path, state: TrialState) -> None:
    """The driver was killed after it wrote the ledger, and before it told Optuna."""
    (tmp_path / "whole").mkdir()
    curve = {10 * i: 0.1 * i for i in range(1, 11 if state == "COMPLETE" else 3)}
    whole, cut = searcher(tmp_path / "whole"), searcher(tmp_path)
    for bridge in (whole, cut):
        values, other = bridge.suggest("a")["values"], bridge.suggest("b")["values"]
        for progress, value in list(curve.items())[:-1]:
            bridge.on_trial_result("a", result(progress, value))
    whole.on_trial_result("a", result(*list(curve.items())[-1]))
    end(whole, "a", error=state == "FAILED")
    ledger = [TrialRecord(0, state, values, curve=curve), TrialRecord(1, "RUNNING", other)]
    search = SearchConfig(seed=3)
    study = open_optuna_study(tmp_path, name="study", objective=OBJECTIVE, search=search, resume=True, ledger=ledger)
    told, expected = study.trials[0], trials(tmp_path / "whole")[0]
    assert (told.state, told.values, told.intermediate_values) == (
        expected.state,
        expected.values,
        expected.intermediate_values,
    )


@pytest.mark.parametrize("startup", [1, 10])
def test_a_driver_killed_at_any_line_of_the_journal_asks_for_the_same_values(tmp_path: Path, startup: int) -> None:
    search = SearchConfig(seed=3, startup_trials=startup, points=({"optim.backbone_lr": 1e-4}, {}))

    def ask_four(folder: Path) -> list[dict[str, Any]]:
        bridge = searcher(folder, search)
        for number in range(sum(trial.state.is_finished() for trial in bridge._study.trials), 4):
            bridge.suggest(str(number))
            finish(bridge, str(number), *([0.1 * number] * 10))
        return [trial.params for trial in trials(folder)]

    whole = tmp_path / "whole"
    whole.mkdir()
    expected = ask_four(whole)
    lines = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    asked = [number for number, line in enumerate(lines) if b"param_name" in line or b'"op_code":4' in line]
    for place in asked:
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(b"".join(lines[:place]) + lines[place][: len(lines[place]) // 2])
        assert ask_four(folder) == expected, place
    assert len(asked) >= 10


def test_a_dead_drivers_journal_lock_is_taken_over(tmp_path: Path) -> None:
    searcher(tmp_path)
    journal = tmp_path / JOURNAL
    (tmp_path / f"{JOURNAL}.lock").symlink_to(journal)
    begin = time.monotonic()
    assert searcher(tmp_path).suggest("a")["trial"] == 0
    assert time.monotonic() - begin < 20, "Optuna itself takes it after 30 s"


@pytest.mark.parametrize("algorithm", ["tpe", "random", "cmaes"])
def test_a_resumed_search_goes_on_as_if_it_had_not_stopped(tmp_path: Path, algorithm: str) -> None:
    """One trial at a time: the same suggestions, whether or not the study was reopened in between."""
    search = SearchConfig(algorithm=algorithm, seed=5, startup_trials=3)
    space = (
        SPACE
        if algorithm != "cmaes"
        else Space.from_dict(
            {
                name: {"distribution": "uniform", "min": 0.0, "max": 1.0}
                for name in ("optim.warmup_ratio", "model.dropout")
            }
        )
    )

    def run(folder: Path, reopen: bool) -> list[dict[str, Any]]:
        folder.mkdir()
        bridge, suggested = searcher(folder, search, space), []
        for number in range(8):
            if reopen:
                bridge = searcher(folder, search, space)
            config = bridge.suggest(str(number))
            suggested.append(config["values"])
            finish(bridge, str(number), *([0.1 * number] * 10))
        return suggested

    undisturbed = run(tmp_path / "one", reopen=False)
    assert run(tmp_path / "two", reopen=True) == undisturbed
    assert len({str(values) for values in undisturbed}) == 8


def test_another_seed_gives_other_values(tmp_path: Path) -> None:
    values = []
    for seed in (1, 2, 2**32 - 1):
        (tmp_path / str(seed)).mkdir()
        values.append(searcher(tmp_path / str(seed), SearchConfig(seed=seed)).suggest("a")["values"])
    assert values[0] != values[1] != values[2]


def test_points_come_first_and_a_partial_one_is_completed(tmp_path: Path) -> None:
    points = ({"optim.backbone_lr": 5e-5, "optim.schedule": "constant"}, {"optim.backbone_lr": 1e-4})
    bridge = searcher(tmp_path, SearchConfig(points=points))
    assert bridge.suggest("a")["values"] == {"optim.backbone_lr": 5e-5, "optim.schedule": "constant"}
    second = bridge.suggest("b")["values"]
    assert second["optim.backbone_lr"] == 1e-4 and second["optim.schedule"] in ("linear", "constant")


def test_a_condition_decides_whether_a_parameter_is_searched(tmp_path: Path) -> None:
    bridge = searcher(tmp_path)
    for number in range(12):
        values = bridge.suggest(str(number))["values"]
        assert ("optim.warmup_ratio" in values) == (values["optim.schedule"] == "linear")
        finish(bridge, str(number), *([0.5] * 10))


def test_a_grid_tries_every_point_once(tmp_path: Path) -> None:
    space = Space.from_dict(
        {"optim.batch_size": {"values": [16, 32]}, "optim.layer_decay": {"values": [0.9, 0.95, 1.0]}}
    )
    bridge = searcher(tmp_path, SearchConfig(algorithm="grid"), space)
    seen = set()
    for number in range(6):
        seen.add(tuple(bridge.suggest(str(number))["values"].values()))
        finish(bridge, str(number), *([0.5] * 10))
    assert len(seen) == 6


def test_less_is_better_with_mode_min(tmp_path: Path) -> None:
    objective = Objective(metric="eval/loss", mode="min")
    search = SearchConfig()
    study = open_optuna_study(tmp_path, name="study", objective=objective, search=search, resume=False)
    bridge = OptunaSearcher(study, SPACE, search, objective)
    bridge.suggest("a")
    finish(bridge, "a", *(0.9, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5))
    assert study.best_value == 0.3


def test_a_new_sweep_never_takes_over_the_study_of_another(tmp_path: Path) -> None:
    search = SearchConfig(storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    open_optuna_study(tmp_path, name="same", objective=OBJECTIVE, search=search, resume=False)
    with pytest.raises(InputError, match="the storage has a study `same` already"):
        refuse_other_search(tmp_path, name="same", search=search, resume=False, ledger=None)
    with pytest.raises(InputError, match="the Optuna study cannot be opened"):
        open_optuna_study(tmp_path, name="same", objective=OBJECTIVE, search=search, resume=False)


def test_a_waiting_trial_that_tune_removes_is_pruned_if_it_had_begun(tmp_path: Path) -> None:
    bridge = searcher(tmp_path)
    for trial_id in "ab":
        bridge.suggest(trial_id)
    bridge.on_trial_result("a", result(10, 0.5))
    end(bridge, "a")  # Ray Tune gives no result for a trial that does not run at the moment
    end(bridge, "b")
    assert [trial.state for trial in trials(tmp_path)] == [OptunaState.PRUNED, OptunaState.FAIL]
