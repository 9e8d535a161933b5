"""Several objectives: the first one decides, those with a bound must be kept, the others span a Pareto front."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState as OptunaState
from ruamel.yaml import YAML

from kobert_core.config import Objective
from kobert_core.errors import InputError
from search_spaces.distributions import Space
from tests.fixtures.commands import ROOT
from tests.unit.tuning.search.test_early_stopping import Running
from tests.unit.tuning.sweep.test_verdict import HIGH, LOW, SAME, runs_of
from tuning.search.optuna_study import open_optuna_study
from tuning.search.schedulers import make_scheduler
from tuning.search.searcher import OptunaSearcher
from tuning.study import SchedulerConfig, SearchConfig, StudyConfig, dump_study, load_study
from tuning.study.objectives import COSTS, Further, FurtherObjective, goals_in
from tuning.sweep.comparison import compare
from tuning.sweep.confirm import candidates_of
from tuning.sweep_dir.layout import JOURNAL
from tuning.sweep_dir.opening import refuse_other_study
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
LIST = "objective=[{metric: eval/accuracy}, {metric: cost/latency_ms}, {metric: cost/parameters, below: 1e6}]"
FIRST = Objective(metric="eval/accuracy")
LATENCY = FurtherObjective(metric="cost/latency_ms", mode="min")
SMALL = FurtherObjective(metric="cost/parameters", mode="min", below=1e6)
SPACE = Space.from_dict({"optim.backbone_lr": {"distribution": "log_uniform", "min": 1e-5, "max": 1e-3}})


def record(number: int, value: float, latency: float, parameters: float = 1e5, **more: Any) -> TrialRecord:
    metrics = {"eval/accuracy": value, "cost/latency_ms": latency, "cost/parameters": parameters}
    fields: dict[str, Any] = {"progress": 100, "curve": {100: value}, "checkpoint": "update-1"} | more
    return TrialRecord(number, fields.pop("state", TrialState.COMPLETE), {}, value=value, metrics=metrics, **fields)


def table_of(folder: Path, records: Iterable[TrialRecord], further: Further = (LATENCY, SMALL)) -> TrialTable:
    table = TrialTable(folder, FIRST, further)
    for each in records:
        table.put(each)
    return table


def test_a_list_names_them(tmp_path: Path) -> None:
    study = load_study(QUICKSTART, [LIST])
    assert study.objective == FIRST and study.further == (LATENCY, SMALL)
    assert study.objectives_in_words == "max eval/accuracy; min cost/latency_ms; cost/parameters below 1,000,000"
    dump_study(study, tmp_path / "study.yaml")
    assert load_study(tmp_path / "study.yaml") == study
    with pytest.raises(InputError, match="`objective` is not what this sweep began with"):
        refuse_other_study(load_study(QUICKSTART), study, tmp_path)


def test_the_example_of_the_docs_is_read() -> None:
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    example = YAML(typ="safe").load(page.partition("```yaml\n")[2].partition("```")[0])
    study = load_study(QUICKSTART, [f"objective={json.dumps(example['objective'])}"])
    assert study.objectives_in_words == "max eval/accuracy; min cost/latency_ms; cost/model_mb below 60"
    assert study.further == load_study(ROOT / "search_spaces" / "nsmc-small-and-good.yaml").further
    assert all(f"| `{name}` |" in page for name in COSTS)


def test_one_objective_stays_what_it_was() -> None:
    study = load_study(QUICKSTART)
    assert study.further == () and study.resolved()["objective"] == {"metric": "eval/accuracy", "mode": "max"}
    assert "further" not in study.resolved()
    assert load_study(QUICKSTART, ["objective=[{metric: eval/accuracy}]"]) == study


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("objective={metric: eval/accuracy, below: 3}", "write a list: the objective first"),
        ("objective=[{metric: eval/accuracy, above: 0.5}]", "`objective.0` decides which trial wins, and has no bound"),
        ("objective=[{metric: cost/latency_ms}]", "begin with one of the task's, such as eval/accuracy"),
        ("objective=[{metric: eval/accuracy}, {metric: eval/accuracy}]", 'names "eval/accuracy" once more'),
        ("objective=[{metric: eval/accuracy}, {metric: cost/latency, below: 2}]", "did you mean `cost/latency_ms`?"),
        ("objective=[{metric: eval/accuracy}, {metric: eval/loss}]", "`objective.1.mode` must be given"),
        ("objective=[{metric: eval/accuracy}, {metric: eval/f1, mode: max, below: 1}]", "goes with `mode: min`"),
        ("objective=[{metric: eval/accuracy}, {metric: eval/loss, below: 1, above: 0}]", "write two entries"),
        ("objective=[{metric: eval/accuracy}, {metric: cost/latency_ms, under: 1}]", "unknown key `objective.1.under`"),
        ("objective=[{metric: eval/accuracy}, 3]", "`objective.1` must be a mapping of keys to values"),
        ("search.algorithm=cmaes", "knows nothing of several objectives; take tpe, random or grid"),
        ("scheduler.name=pbt", "copies trials by one objective, and knows nothing of several objectives"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(override: str, said: str) -> None:
    first = [] if override.startswith("objective") else [LIST]
    with pytest.raises(InputError) as refused:
        load_study(QUICKSTART, [*first, "confirm=null", override])
    assert said in str(refused.value)


FOLDS = f"data={{train: {ROOT}/search_spaces/sample/train.tsv, folds: 3}}"


@pytest.mark.parametrize("override", [FOLDS, "scheduler.name=none", "search.algorithm=random"])
def test_what_goes_with_them(override: str) -> None:
    assert load_study(QUICKSTART, [LIST, "confirm=null", override]).further == (LATENCY, SMALL)


def test_a_trial_that_breaks_a_constraint_cannot_win(tmp_path: Path) -> None:
    large, small, stopped = record(0, 0.9, 9, 2e6), record(1, 0.7, 3), record(2, 0.8, 3, state=TrialState.PRUNED)
    table = table_of(tmp_path, [large, small, stopped])
    assert [each.trial for each in table.best(3)] == [1, 2, 0] and table.winner() == small
    assert table.breaks(large) == "cost/parameters below 1,000,000 (2,000,000)" and not table.breaks(small)
    assert table.why_no_winner() is None
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text(encoding="utf-8"))))
    assert [row["pareto_front"] for row in rows] == ["", "yes", ""]
    assert [row["breaks"] for row in rows] == ["cost/parameters below 1,000,000 (2,000,000)", "", ""]


def test_where_none_keeps_them_the_closest_is_named(tmp_path: Path) -> None:
    table = table_of(tmp_path, [record(0, 0.9, 9, 3e6), record(1, 0.5, 3, 1.5e6)])
    assert table.winner() is None and not table.front()
    assert table.why_no_winner() == (
        "no trial keeps all constraints (cost/parameters below 1,000,000): trial 1 comes closest, with "
        "cost/parameters 1,500,000"
    )
    assert not table.is_out_of_patience(1), "the search goes on until one does"


def test_the_front_is_optunas(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    points = np.round(generator.uniform(size=(60, 3)), 1)  # some are equal
    points[:, 1] = np.round(points[:, 0] + 0.3 * points[:, 1], 1)  # what is better takes longer
    states = generator.choice([TrialState.COMPLETE, TrialState.PRUNED], 60)
    records = [
        record(number, *point.tolist(), state=state)
        for number, (point, state) in enumerate(zip(points, states, strict=True))
    ]
    further = (LATENCY, SMALL.model_copy(update={"below": 0.5}))
    study = optuna.create_study(directions=["maximize", "minimize"])
    for each in records:
        complete = each.state == TrialState.COMPLETE
        values = [each.value, each.metrics["cost/latency_ms"]] if complete else None
        state = OptunaState.COMPLETE if complete else OptunaState.PRUNED
        trial = optuna.trial.create_trial(values=values, state=state)
        trial.set_constraint("size", each.metrics["cost/parameters"] - 0.5)
        study.add_trial(trial)
    front = {each.trial for each in table_of(tmp_path, records, further).front()}
    assert front == {trial.number for trial in study.best_trials} and 1 < len(front) < 20


class Sweep:
    """A search that is told of made-up trials: a larger rate is better and slower; every third trial is stopped."""

    def __init__(self, folder: Path, further: Further) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.further, self.search = folder, further, SearchConfig(seed=5, startup_trials=3)
        self.table = TrialTable(folder, FIRST, further)
        self.open()

    def open(self) -> None:
        how: dict[str, Any] = {"objective": FIRST, "search": self.search, "further": self.further}
        resume = (self.folder / JOURNAL).exists()
        self.study = open_optuna_study(self.folder, name="study", resume=resume, ledger=list(self.table), **how)
        more: dict[str, Any] = {"further": self.further, "record_of": self.table.__getitem__}
        self.bridge = OptunaSearcher(self.study, SPACE, self.search, FIRST, ledger=self.table, **more)

    def run(self, *, kill: str = "") -> None:
        """One more trial; the driver may be killed in its middle, or when only the ledger has its end."""
        config = self.bridge.suggest("a")
        assert config is not None
        number, rate = config["trial"], config["values"]["optim.backbone_lr"]  # type: ignore[index]
        for progress in (50, 100):
            value = 0.5 + 100 * rate * progress
            self.bridge.on_trial_result("a", {"progress": progress, "objective": value})
            curve = {done: 0.5 + 100 * rate * done for done in (50, 100) if done <= progress}
            told: dict[str, Any] = {"progress": progress, "curve": curve, "state": TrialState.RUNNING}
            now = record(number, value, 1 + 1e4 * rate, 2e9 * rate, **told)
            now.values = config["values"]  # type: ignore[assignment]
            self.table.put(now)
            if kill == "middle":
                return
            if number % 3 == 2:
                break
        now.state = TrialState.PRUNED if number % 3 == 2 else TrialState.COMPLETE
        self.table.put(now)
        self.bridge.on_trial_complete("a", None)
        if not kill:
            self.bridge.tell("a")

    def trials(self) -> list[Any]:
        return [(t.state, t.params, t.values, t.constraints, t.intermediate_values) for t in self.study.trials]


@pytest.mark.parametrize("further", [(LATENCY, SMALL), (SMALL,), (LATENCY,)], ids=["both", "constraint", "front"])
def test_a_killed_search_goes_on_to_the_same_suggestions(tmp_path: Path, further: Further) -> None:
    whole, cut = Sweep(tmp_path / "whole", further), Sweep(tmp_path / "cut", further)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of Optuna, that something was told twice
        for number in range(12):
            whole.run()
            kill = {3: "end", 5: "middle", 8: "end", 9: "middle"}.get(number, "")
            cut.run(kill=kill)
            if kill:
                cut.open()
            if kill == "middle":
                cut.run()
    assert cut.trials() == whole.trials()
    states = [trial.state for trial in whole.study.trials]
    assert states == [OptunaState.PRUNED if number % 3 == 2 else OptunaState.COMPLETE for number in range(12)]


def test_optuna_is_told_the_truth(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, (LATENCY, SMALL))
    for _ in range(3):
        sweep.run()
    assert sweep.study.metric_names == ["eval/accuracy", "cost/latency_ms"]
    complete, _, pruned = sweep.study.trials
    rate = complete.params["optim.backbone_lr"]
    assert complete.values == pytest.approx([0.5 + 1e4 * rate, 1 + 1e4 * rate])
    assert complete.constraints == pytest.approx({SMALL.name: (2e9 * rate - 1e6) / 1e6})
    assert pruned.values is None and not pruned.intermediate_values, "several objectives have no curves in Optuna"
    assert SMALL.name in pruned.constraints
    one = Sweep(tmp_path / "one", (SMALL,))
    for _ in range(3):
        one.run()
    assert one.study.trials[2].intermediate_values and one.study.trials[2].constraints.keys() == {SMALL.name}


def test_tpe_stays_where_constraints_are_kept(tmp_path: Path) -> None:
    """The best rates are too large: without the constraint the search goes there."""

    def largest_half(folder: str, further: Further) -> float:
        sweep = Sweep(tmp_path / folder, further)
        for _ in range(18):
            sweep.run()
        rates = [trial.params["optim.backbone_lr"] for trial in sweep.study.trials[6:]]
        return float(np.mean([2e9 * rate > 1e6 for rate in rates]))

    found = largest_half("free", ()), largest_half("bound", (SMALL,))
    assert found[0] > 0.4 > 0.2 > found[1], found


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_what_cannot_win_is_stopped_and_stops_nobody(name: str) -> None:
    def scheduler(earlier: Iterable[TrialRecord] = ()) -> Any:
        config = SchedulerConfig.model_validate({"name": name, "grace_percent": 10, "reduction_factor": 2})
        how: dict[str, Any] = {"metric": "objective", "mode": "max", "space": Space.from_dict({})}
        return make_scheduler(config, search=SearchConfig(), earlier=earlier, further=(SMALL,), **how)

    def decide(running: Any, number: int, value: float, parameters: float) -> str:
        trial: Any = Running(str(number), {"trial": number})
        result = {"progress": 10, "objective": value, "report/metrics/cost/parameters": parameters}
        tune: Any = SimpleNamespace(get_live_trials=lambda: [])
        running.on_trial_add(tune, trial)
        decision: str = running.on_trial_result(tune, trial, result)
        if decision == "STOP":
            running.on_trial_complete(tune, trial, result)
        return decision

    fresh = scheduler()
    assert decide(fresh, 0, 0.9, 2e6) == "CONTINUE", "a baseline is never stopped"
    assert [decide(fresh, number, 0.9, 2e6) for number in (1, 2, 3)] == ["STOP"] * 3
    assert decide(fresh, 4, 0.5, 1e5) == "CONTINUE", "the larger and better ones are no measure for it"
    ended = [record(number, 0.9, 9, 2e6, curve={10: 0.9}, state=TrialState.PRUNED) for number in (1, 2, 3)]
    assert decide(scheduler(ended), 4, 0.5, 1e5) == "CONTINUE", "nor are they after an interruption"


def test_the_recipe_is_no_winner_where_it_breaks_one(tmp_path: Path) -> None:
    from tuning.sweep.verdict import judge

    study = study_of()
    broken = "cost/parameters below 1,000,000 (2,000,000)"
    for ours, outcome in ((LOW, "worse"), (SAME, "tie")):
        theirs = HIGH if outcome == "worse" else SAME
        found = judge(study, 4, 0.9, runs_of(4, *ours), runs_of(0, *theirs), baseline_breaks=broken)
        assert (found.outcome, found.winner) == (outcome, 4)
        assert found.sentence.endswith(f": trial 4 is exported, since the recipe (trial 0) breaks {broken}")
    failed = judge(study, 4, 0.9, [], runs_of(0, *LOW), baseline_breaks=broken)
    assert (failed.outcome, failed.winner) == ("unconfirmed", 4)
    table = table_of(tmp_path, [record(0, 0.8, 9, 2e6), record(1, 0.9, 9, 2e6), record(2, 0.7, 3), record(3, 0.6, 2)])
    assert [each.trial for each in candidates_of(study, table)] == [2], "and none that breaks one is a candidate"


def study_of(*overrides: str) -> StudyConfig:
    return load_study(QUICKSTART, [LIST, *overrides])


def test_the_result_has_the_front_and_who_breaks_what(tmp_path: Path) -> None:
    table = table_of(tmp_path, [record(0, 0.8, 9, 2e6), record(1, 0.9, 5), record(2, 0.7, 3), record(3, 0.6, 4)])
    found = compare(table, study_of(), table.winner(), None).as_json()
    assert found["objectives"] == ["max eval/accuracy", "min cost/latency_ms"]
    assert found["front"] == [
        {"trial": 1, "values": {"eval/accuracy": 0.9, "cost/latency_ms": 5}},
        {"trial": 2, "values": {"eval/accuracy": 0.7, "cost/latency_ms": 3}},
    ]
    assert found["breaking"] == {"0": "cost/parameters below 1,000,000 (2,000,000)"}
    assert found["notes"] == ["trial 0, complete, breaks cost/parameters below 1,000,000 (2,000,000)"]
    alone = compare(TrialTable(tmp_path, FIRST), load_study(QUICKSTART), table[1], None).as_json()
    assert alone.keys() == {"baselines", "ties", "chance", "notes"}
    assert [goal.metric for goal in goals_in(study_of().further)] == ["cost/latency_ms"]
