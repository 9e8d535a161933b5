"""What a search learns from the sweeps of an MLflow experiment (sqlite): the same as from their folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from tests.fixtures.commands import tune_here
from tests.fixtures.sweeps import QUICKSTART
from tuning.search.warm_start import EarlierTrial, begun_with, in_words, read_earlier, take_earlier
from tuning.study import StudyConfig, dump_study, load_study
from tuning.sweep.tracking import run_params, sweep_params
from tuning.sweep_dir.layout import SPOOL, STUDY
from tuning.sweep_dir.trial_status import TrialState, run_end
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.tracking import Tracker, default_tracking_uri, experiment_of

STATES = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAILED, TrialState.INTERRUPTED]
EXPERIMENT = "experiments:/quickstart"


def earlier_sweep(folder: Path, *overrides: str, states: list[TrialState] = STATES, **params: str) -> StudyConfig:
    """A sweep's folder, and what MLflow has of it: trials that ended, one that failed, one that was interrupted; with
    `params` in the place of the sweep's own."""
    study = load_study(QUICKSTART, overrides)
    folder.mkdir()
    dump_study(study, folder / STUDY)
    table, metric = TrialTable.of(folder, study), study.objective.metric
    uri = default_tracking_uri(folder.parent)
    tracker = Tracker(spool=folder / SPOOL, uri=uri, experiment=study.name, sweep=folder.name)
    tracker.start_sweep(params=sweep_params(study) | params, tags={"task": study.task})
    for number, state in enumerate(states):
        values = study.example_values({"optim.backbone_lr": 10 ** -(3.3 - number / 5)})
        curve = {40: 0.3, 50: 0.5} if state != TrialState.COMPLETE else {50: 0.5 + number / 7, 100: 0.6}
        record = TrialRecord(number, state, values, progress=max(curve), value=max(curve.values()), curve=curve)
        table.put(record)
        tracker.start_trial(str(number), params=run_params(study.train_config(values)), tags={})
        best = -1.0
        for progress, value in curve.items():
            told = {metric: value, "progress": float(progress)}
            if value > best:
                best, told = value, told | {f"best/{metric}": value}
            tracker.log_metrics(str(number), told, step=3 * progress)
        status, tags = run_end(record)
        tracker.end_trial(str(number), status=status, tags=tags)
    tracker.start_trial("confirm/0/1001", params=run_params(study.train_config(values)), tags={})
    tracker.log_metrics("confirm/0/1001", {metric: 0.9, "progress": 100.0}, step=300)
    tracker.end_trial("confirm/0/1001", status="FINISHED", tags={})
    tracker.end_sweep(status="FINISHED")
    assert tracker.close(60) == 0 == tracker.refused
    return study


def warm(*overrides: str, given: object = EXPERIMENT) -> StudyConfig:
    return load_study(QUICKSTART, [f"search.warm_start=['{given}']", *overrides])


def unnamed(trials: list[EarlierTrial]) -> list[EarlierTrial]:
    return [replace(trial, sweep="") for trial in trials]


def test_an_experiment_tells_what_the_folders_of_its_sweeps_tell(output: Path) -> None:
    earlier_sweep(output / "first", "optim.max_grad_norm=0.5", "optim.weight_decay=0")
    norms = "parameters.optim.max_grad_norm={distribution: uniform, min: 0.1, max: 2.0}"
    decays = "parameters.optim.weight_decay={values: [0, 0.01]}"  # MLflow has 0.0
    of_folder = read_earlier(warm(norms, decays, given=output / "first"), output)
    found = read_earlier(warm(norms, decays), output)
    assert unnamed(found) == unnamed(of_folder)
    assert [(each.trial, each.value) for each in found] == [(0, 0.6), (1, None), (2, 0.5 + 2 / 7)]
    assert {each.params["optim.max_grad_norm"] for each in found} == {0.5}
    earlier_sweep(output / "second", states=[TrialState.COMPLETE])
    assert in_words(read_earlier(warm(), output)) == [
        "3 trials of first tell the search where to begin",
        "1 trial of second tells the search where to begin",
    ]
    narrow = "parameters.optim.backbone_lr={distribution: log_uniform, min: 6e-4, max: 1e-3}"
    assert [each.trial for each in read_earlier(warm(narrow, "search.points=[]"), output)] == [1]


def test_sweeps_that_tell_nothing_are_left_out_or_refused(output: Path) -> None:
    with pytest.raises(InputError, match=r"MLflow has no experiment `quickstart`; it has other, Default"):
        read_earlier(warm(), output)
    earlier_sweep(output / "f1", "objective={metric: eval/f1, mode: max}")
    with pytest.raises(InputError, match=r"another objective \(nsmc, max eval/f1\) than the study"):
        read_earlier(warm(), output)
    earlier_sweep(output / "copies", scheduler="pbt")
    with pytest.raises(InputError, match="changed their values in mid-run"):
        read_earlier(warm(), output)
    earlier_sweep(output / "broken", states=[TrialState.FAILED])
    with pytest.raises(InputError, match="changed their values in mid-run"):
        read_earlier(warm(), output)
    earlier_sweep(output / "good", states=[TrialState.COMPLETE])
    assert in_words(read_earlier(warm(), output)) == ["1 trial of good tells the search where to begin"]


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no MLflow store here yet"):
        read_earlier(warm(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_is_looked_up_where_the_study_has_its_runs_and_kept(output: Path, tmp_path: Path) -> None:
    earlier_sweep(output / "first")
    study = warm(f"tracking.uri='{default_tracking_uri(output)}'")
    folder = tmp_path / "elsewhere" / "second"
    folder.mkdir(parents=True)
    taken = take_earlier(folder, study, has_trials=False)
    (output / "mlflow.db").unlink()
    assert take_earlier(folder, study, has_trials=True) == begun_with(folder, study) == taken != []


def test_the_dry_run_tells_of_it(output: Path) -> None:
    earlier_sweep(output / "first")
    arguments = ("--output", output, "--set", f"search.warm_start=[{EXPERIMENT}]")
    dry = tune_here("sweep", QUICKSTART, "--dry-run", *arguments, cwd=output)
    assert "3 trials of first tell the search where to begin" in " ".join(dry.stdout.split())


@pytest.mark.parametrize(
    ("address", "name"),
    [("experiments:/my reviews", "my reviews"), ("sweeps/first", None), ("s3://experiments/first", None)],
)
def test_the_address_of_an_experiment(address: str, name: str | None) -> None:
    assert experiment_of(address) == name
    if name is not None:
        assert load_study(QUICKSTART, [f"search.warm_start=['{address}']"]).search.warm_start == (address,)
