"""The report of the README's sweep: written at its end, and by `kobert-tune report`."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.browser import DARK, need_browser, page_and_console
from tests.fixtures.commands import tune_forked
from tests.fixtures.report_page import ReportPage
from tuning.sweep_dir.confirm_runs import ConfirmRuns
from tuning.sweep_dir.reviews import read_review

SECTIONS = [
    "The winner",
    "Best so far, and what it took",
    "Learning curves",
    "The space",
    "Was stopping safe?",
    "Workers and seconds",
    "Right and wrong",
    "Worth reading",
    "Failures",
    "Data and environment",
    "Make the winner again",
]
MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def sweep(readme_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the README's sweep as it ended: another test extends that one."""
    copy = tmp_path_factory.mktemp("report") / "first"
    shutil.copytree(readme_work / "sweeps" / "first", copy)
    return copy


@pytest.fixture(scope="module")
def written(sweep: Path) -> ReportPage:
    """The page that the sweep wrote at its end."""
    return ReportPage((sweep / "report.html").read_text(encoding="utf-8"))


def result_of(sweep: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep / "winner.json").read_text(encoding="utf-8"))
    return found


def test_the_sweep_wrote_it_with_all_sections_and_logged_it(sweep: Path, written: ReportPage) -> None:
    from mlflow import MlflowClient

    assert written.headings == SECTIONS
    assert (sweep / "report.html").stat().st_size < MAX_BYTES
    client = MlflowClient(result_of(sweep)["tracking_uri"])
    experiment = client.get_experiment_by_name("quickstart")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert "report.html" in {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}


def test_its_numbers_are_those_of_the_trials_and_the_winner(sweep: Path, written: ReportPage) -> None:
    with open(sweep / "trials.csv", encoding="utf-8") as file:
        trials = list(csv.DictReader(file))
    table = written.table("All trials")
    assert table.column("trial") == [row["trial"] for row in trials]
    assert table.column("state") == [row["state"].lower() for row in trials]
    assert table.column("eval/accuracy") == [row["value"] for row in trials]
    assert [round(float(value), 3) for value in table.column("took")] == [float(row["seconds"]) for row in trials]
    for name in ("optim.backbone_lr", "optim.classifier_lr", "model.dropout", "optim.accumulation"):
        assert table.column(name) == [row[name] for row in trials]
    result = result_of(sweep)
    scores, winner = written.table("Scores on dev"), result["winner"]
    told = dict(zip(scores.column(""), [row[1] for row in scores.rows[1:]], strict=True))
    assert {name: float(value) for name, value in told.items()} == winner["metrics"] | result["test"]["winner"]
    spent = written.table("Seconds spent")
    total = next(row[2] for row in spent.rows if row[0] == "all trials")
    assert float(total) == pytest.approx(sum(float(row["seconds"]) for row in trials), abs=0.01)
    states = {row[0].removeprefix("trials, "): int(row[1]) for row in spent.rows if row[0].startswith("trials, ")}
    assert states == {state.lower(): count for state, count in result["states"].items()}
    best = written.table("When the best became better").column("eval/accuracy")
    assert float(best[-1]) == max(float(row["value"]) for row in trials)


def test_the_answers_are_those_of_the_runs_that_the_verdict_rests_on(sweep: Path, written: ReportPage) -> None:
    result = result_of(sweep)
    runs = [run for run in ConfirmRuns(sweep) if run.is_judged]
    folders = [sweep / "confirm" / "trials" / f"{run.number:04d}" for run in runs]
    of_winner = [folder for run, folder in zip(runs, folders, strict=True) if run.trial == result["winner"]["trial"]]
    reviews = [read_review(folder / "review.jsonl.gz") for folder in of_winner]
    assert len(reviews) == 3 and not (sweep / "review.jsonl.gz").exists()
    records = [record for review in reviews for record in review]
    matrix = [[int(count) for count in row[1:]] for row in written.table("Confusion matrix").rows[1:]]
    assert sum(map(sum, matrix)) == len(records)
    assert sum(matrix[n][n] for n in range(2)) == sum(record["score"] for record in records)
    worth = written.table("Answers worth reading")
    wrong = Counter(record["id"] for record in records if not record["score"])
    assert worth.column("seeds wrong") == [f"{seeds} of 3" for seeds in sorted(wrong.values(), reverse=True)][:30]


def test_the_verdict_comes_first_with_its_numbers_and_runs(sweep: Path, written: ReportPage) -> None:
    verdict = result_of(sweep)["verdict"]
    assert verdict["sentence"] in written.paragraphs
    numbers = written.table("The numbers of the verdict")
    told = dict(zip(numbers.column(""), numbers.column("value"), strict=True))
    assert float(told["gain, low"]) == verdict["gain"]["low"] and told["outcome"] == verdict["outcome"]
    again, runs = written.table("Trained again with other seeds"), list(ConfirmRuns(sweep))
    assert again.column("run") == [f"trial {run.trial}, seed {run.seed}" for run in runs]
    expected = [f"{run.holdout['holdout/accuracy']!r}" if run.holdout else "–" for run in runs]
    assert again.column("holdout/accuracy") == expected


def test_the_command_that_it_names_trains_the_winner(sweep: Path) -> None:
    import html
    import re
    import shlex

    from tuning.study import load_study

    page = (sweep / "report.html").read_text(encoding="utf-8")
    (command,) = re.findall(r"<code>(kobert-tune train .*?)</code>", page, re.DOTALL)
    _, _, study, _, override, *_ = shlex.split(html.unescape(command).replace("\\\n", ""))
    assert load_study(study, [override]).example_values() == result_of(sweep)["winner"]["values"]


def test_the_command_writes_it_of_a_sweep_that_runs(sweep: Path, tmp_path: Path) -> None:
    done = tune_forked("report", sweep, "--output", tmp_path / "page.html", cwd=tmp_path)
    assert done.stdout == f"report: {tmp_path / 'page.html'}\n"
    running = tmp_path / "running"
    shutil.copytree(sweep, running)
    ledger = json.loads((running / "trials.json").read_text(encoding="utf-8"))
    del ledger[-1]["sha256"]
    ledger[-1]["state"] = "RUNNING"
    (running / "trials.json").write_text(json.dumps(ledger), encoding="utf-8")
    tune_forked("report", running, cwd=tmp_path)
    page = ReportPage((running / "report.html").read_text(encoding="utf-8"))
    assert page.headings[0] == "The best so far" and "Worth reading" not in page.headings
    assert any("the state so far" in told for told in page.paragraphs)


def test_what_is_no_sweep_is_refused_in_one_line(sweep: Path, tmp_path: Path) -> None:
    refused = tune_forked("report", tmp_path, cwd=tmp_path, code=2)
    assert "this is no folder of a sweep" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "report.html").exists()
    broken = tmp_path / "broken"
    shutil.copytree(sweep, broken)
    for review in broken.glob("confirm/trials/*/review.jsonl.gz"):
        review.write_bytes(b"\x1f\x8b what is this")
    refused = tune_forked("report", broken, cwd=tmp_path, code=2)
    assert "review.jsonl.gz: the file cannot be read" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_a_browser_without_a_network_draws_all_of_it(sweep: Path, written: ReportPage) -> None:
    """On a phone's width, in the dark."""
    need_browser()
    shown, console = page_and_console((sweep / "report.html").as_uri(), DARK, width=390, budget_ms=10_000)
    assert console == []
    figures = shown.count("<figure")
    assert f'data-drawn="{figures}"' in shown and figures >= 9
    assert shown.count('class="main-svg"') >= figures
    assert all(link.startswith(("#", "data:")) for link in written.links)
    assert {link[1:] for link in written.links if link.startswith("#")} <= written.ids
    assert written.focusable == len(written.tables) + figures
    for table in written.tables:
        assert table.caption and set(table.scopes) == {"col", "row"}
        assert {len(row) for row in table.rows} == {len(table.rows[0])}
