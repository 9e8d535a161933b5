"""Trials that go wrong in every way, beside good ones: they are told, and nobody else is the worse for it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.drills.conftest import Drill
from tests.fixtures.commands import tune
from tests.fixtures.sweeps import records_of, reported_curves, sweep_to_its_end
from tests.fixtures.tracking import client_of
from tuning.sweep_dir.layout import TABLE

pytestmark = pytest.mark.slow
FAULTS = {1: "nan", 2: "little memory", 3: "exception", 4: "hang~once", 5: "hang", 6: "no memory"}
REASONS = {
    1: "NonFiniteError: after step",
    3: "KeyError: 'a row that is not there'",
    5: "gave no sign of life for 30 s",
    6: "the memory of a worker does not hold a single example",
}
"""Of those that must fail, by trial; words in the last line of why."""


def settings(seeds: list[int], **values: Any) -> list[str]:
    """Trials with these seeds that differ in nothing else, but for those with an own `batch_size`."""
    sizes = values.pop("sizes", {})
    points = [{"train.seed": seed, "optim.batch_size": sizes.get(seed, 16)} for seed in seeds]
    study = {
        "parameters": {
            "train.seed": {"distribution": "int", "min": 0, "max": 99},
            "optim.batch_size": {"values": [4, 16]},
        },
        "search": {"algorithm": "random", "points": points},
        "optim": {"effective_batch_size": 16, "backbone_lr": 1e-3, "classifier_lr": 1e-3},
        "scheduler": {"name": "none"},
        "train": {"epochs": 2},
        "resources": {"max_failures": 1, "timeout": "30s"},
        "budget": {"trials": len(seeds)} | values,
    }
    return [part for name, value in study.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def test_bad_trials_beside_good_ones(drill: Drill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8. NaN, out of memory, exception and hang in trials, beside good ones."""
    seeds = list(range(8))
    sweep_to_its_end(tmp_path, "whole", *settings(seeds, sizes={2: 4}))
    sweep_to_its_end(tmp_path, "bad", *settings(seeds), "--set", "tracking.experiment=bad", faults=FAULTS)
    whole, bad = (reported_curves(tmp_path / name) for name in ("whole", "bad"))
    good = {key: metrics for key, metrics in whole.items() if int(key[0]) not in REASONS}
    records = records_of(tmp_path / "bad")
    drill.lost("metrics of good trials", sum(bad.get(key) != metrics for key, metrics in good.items()), of=len(good))
    wrong = [n for n in seeds if records[n]["state"] != ("FAILED" if n in REASONS else "COMPLETE")]
    drill.lost("states", len(wrong), of=len(seeds))

    with open(tmp_path / "bad" / TABLE, encoding="utf-8") as file:
        rows = {int(row["trial"]): row for row in csv.DictReader(file)}
    client = client_of(tmp_path)
    runs = client.search_runs([client.get_experiment_by_name("bad").experiment_id])
    tags = {run.data.tags.get("kobert_tune.trial"): run.data.tags for run in runs}
    monkeypatch.setenv("COLUMNS", "500")
    listed = tune("list", tmp_path / "bad", cwd=tmp_path).stdout
    silent = [
        (n, where)
        for n, words in REASONS.items()
        for where, text in (("table", rows[n]["reason"]), ("MLflow", tags[str(n)].get("reason", "")), ("list", listed))
        if words not in text
    ]
    drill.lost("reasons", len(silent), of=3 * len(REASONS))
    drill.lost("runs left open", sum(run.info.status == "RUNNING" for run in runs), of=len(runs))
    assert tags["2"]["micro_batch"] == "4" and records[2]["micro_batch"] == 4
    assert "out of memory after step 0: 8 examples" in (tmp_path / "bad/trials/0002/log.txt").read_text()
    winner = json.loads((tmp_path / "bad" / "winner.json").read_text(encoding="utf-8"))["winner"]["trial"]
    assert winner not in REASONS


def test_a_spent_budget_of_failures_ends_the_sweep_which_can_go_on(drill: Drill, tmp_path: Path) -> None:
    """8. A sweep that gives up after two failures of four trials, and goes on when their cause is gone."""
    study = settings([0, 1, 2, 3], failed_trials=1)
    printed = sweep_to_its_end(
        tmp_path, "given-up", *study, "--set", "resources.concurrent=1", code=1, faults={0: "exception", 1: "exception"}
    )
    assert "2 trial(s) have failed since it was started, more than `budget.failed_trials: 1` allows" in printed
    assert "2 of them so: KeyError" in printed
    assert "go on with: kobert-tune" in printed
    before = records_of(tmp_path / "given-up")
    sweep_to_its_end(tmp_path, "given-up", *study, "--resume")
    after = records_of(tmp_path / "given-up")
    drill.lost("trials that had failed", sum(after[n]["state"] != "FAILED" for n in (0, 1)), of=2)
    drill.lost("trials that were to come", sum(after[n]["state"] != "COMPLETE" for n in (2, 3)), of=2)
    assert {n for n, record in before.items() if record["state"] == "FAILED"} == {0, 1}


def test_an_input_error_in_training_ends_the_sweep_unless_other_trials_trained(tmp_path: Path) -> None:
    one_by_one = ("--set", "resources.concurrent=1", "--set", "train.epochs=1")
    printed = sweep_to_its_end(tmp_path, "one", *settings([0, 1]), code=2, faults={0: "input", 1: "input"})
    assert printed.splitlines()[-1] == "error: model.backbone: these weights do not fit; name others", printed
    sweep_to_its_end(tmp_path, "one", *settings([0, 1, 2]), *one_by_one, faults={1: "input"})  # the name was free
    records = records_of(tmp_path / "one")
    assert [record["state"] for record in records.values()] == ["COMPLETE", "FAILED", "COMPLETE"]
    assert records[1]["reason"] == "model.backbone: these weights do not fit; name others"
    client = client_of(tmp_path)
    runs = client.search_runs([client.get_experiment_by_name("quickstart").experiment_id])
    parents = [run for run in runs if "kobert_tune.trial" not in run.data.tags]
    assert sorted(run.info.status for run in parents) == ["FAILED", "FINISHED"], "the second sweep has its own run"
    assert "RUNNING" not in {run.info.status for run in runs}
