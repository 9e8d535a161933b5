"""What `--json` promises of every command that has it: stdout is one JSON object on one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.fixtures.commands import ROOT, UNCONFIRMED, tune_forked
from tuning.cli.app import app

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
TEST_FILE = ROOT / "search_spaces" / "sample" / "test.tsv"
TRAIN_FILE = TEST_FILE.with_name("train.tsv")
"""How often the sweep's model has read the test file is looked at elsewhere."""
CASES = {
    "list": (["list", "--output", "SWEEPS"], {"sweeps"}),
    "list SWEEP": (["list", "SWEEP", "--sort", "value"], {"sweep", "objective", "states", "cut_off", "best", "trials"}),
    "doctor": (["doctor", QUICKSTART, "--output", "SWEEPS"], {"findings"}),
    "sync": (["sync", "SWEEP"], {"sweep", "sent", "left", "reason", "refused", "dead_letters"}),
    "describe": (
        ["describe", TEST_FILE, "--task", "nsmc", "--model", "MODEL"],
        {"examples", "classes", "set_aside", "set_aside_places", "tokens"},
    ),
    "sweep": (["sweep", QUICKSTART, "--dry-run"], {"study", "sweep", "splits", "facts", "trials", "warnings"}),
    "compare": (
        ["compare", "SWEEP", "MODEL", "--data", TRAIN_FILE],
        {"file", "objective", "models", "pairs", "note"},
    ),
    "reproduce": (
        ["reproduce", "SWEEP"],
        {"sweep", "trial", "metric", "recorded", "again", "drift", "same_weights", "is_exact"},
    ),
    "evaluate": (["evaluate", "MODEL", TEST_FILE], {"accuracy", "loss", "examples", "set_aside", "earlier_readings"}),
}
ELSEWHERE = {"status", "promote", "onnx", "distill", "plan"}
"""They need a cluster, a registered model or time: see `test_cluster_commands.py`, `test_sweep.py`, `test_onnx.py`,
`test_distill.py`, `test_plan.py`."""


@pytest.mark.parametrize("case", CASES)
def test_stdout_is_one_object(readme_work: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    sweep = readme_work / "sweeps" / "first"
    places = {"SWEEPS": sweep.parent, "SWEEP": sweep, "MODEL": readme_work / "best"}
    arguments, keys = CASES[case]
    done = CliRunner().invoke(app, [str(places.get(str(each), each)) for each in (*arguments, "--json")])
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert keys <= json.loads(line).keys()
    assert capfd.readouterr().out == "", "nor do libraries print past Python"


def test_every_command_that_has_it_is_looked_at() -> None:
    having = {name for name, command in commands() if any("--json" in option.opts for option in command.params)}
    assert having == {case.split()[0] for case in CASES} | ELSEWHERE


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    yield from group.commands.items()  # type: ignore[misc]


@pytest.mark.slow
def test_stdout_of_a_sweep_is_one_object_and_tells_what_stands_beside_the_winner(tmp_path: Path) -> None:
    """Three trials that learn nothing give the same answers."""
    overrides = ["optim.backbone_lr=1e-9", "optim.classifier_lr=1e-9", "train.epochs=1"]
    overrides += [
        "parameters={optim.weight_decay: {values: [0.0, 0.01, 0.1]}}",
        "search={algorithm: grid}",
        "optim.warmup_ratio=0.0",
    ]
    arguments = [part for override in overrides for part in ("--set", override)]
    done = tune_forked(
        "sweep", QUICKSTART, "--name", "chance", "--trials", 3, "--json", *UNCONFIRMED, *arguments, cwd=tmp_path
    )
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    winner = json.loads((tmp_path / "sweeps" / "chance" / "winner.json").read_text())
    card = (tmp_path / "sweeps" / "chance" / "model" / "README.md").read_text()
    assert result["chance"] == {"value": 0.5, "by": "always the largest class"}
    assert [record["trial"] for record in result["baselines"]] == [0]
    assert result["baselines"][0]["state"] == "COMPLETE"
    assert winner["notes"] == result["notes"]
    *notes, same = result["notes"]
    assert result["ties"] == [0, 1, 2] and notes == [
        "3 trials have the same best value; the first of them is taken",
        "trial 0, complete: no better than always the largest class (0.5000)",
    ]
    assert same in [f"the winner answers `{name}` to all 120 rows of dev" for name in ("negative", "positive")]
    for note in result["notes"]:
        assert f"note: {note}" in done.stderr and f"**Note:** {note}." in card
