"""One real sweep of the quickstart study from the command line, and everything that a user does with it after."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy import stats

from kobert_core.checkpoint import WEIGHTS
from kobert_core.data.batching import Batch
from kobert_core.evaluation import evaluate_on_dev
from kobert_core.pretrained import load_pretrained
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import task_class
from tests.fixtures.browser import listed_columns, listed_runs, need_browser, page_html
from tests.fixtures.commands import ROOT, TUNE, UNCONFIRMED, environment, tune, tune_forked
from tests.fixtures.hub import TOKEN, hub
from tests.fixtures.mlflow_server import wait_until_it_answers
from tests.fixtures.nodes import free_port
from tests.fixtures.sweeps import ONE_AT_A_TIME
from tuning.search.warm_start import read_earlier
from tuning.study import load_study
from tuning.sweep_dir.confirm_runs import confirmed_models
from tuning.sweep_dir.layout import confirm_folder
from tuning.sweep_dir.reviews import read_review

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


@pytest.fixture(scope="module")
def sweep(readme_work: Path) -> dict[str, Any]:
    """The sweep of the README: 8 trials of the quickstart."""
    folder = readme_work / "sweeps" / "first"
    result: dict[str, Any] = json.loads((folder / "winner.json").read_text(encoding="utf-8"))
    return result | {"folder": folder}


def records(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((sweep["folder"] / "trials.json").read_text())
    return found


def test_trials_end_in_states_that_add_up(sweep: dict[str, Any]) -> None:
    assert sum(sweep["states"].values()) == 8
    assert set(sweep["states"]) == {"COMPLETE", "PRUNED"}
    assert all(record["progress"] == 100 for record in records(sweep) if record["state"] == "COMPLETE")
    assert all(record["progress"] < 100 for record in records(sweep) if record["state"] == "PRUNED")
    with open(sweep["folder"] / "trials.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(8))
    assert rows[0]["optim.backbone_lr"] == "0.001"


def test_the_winner_is_what_runs_with_other_seeds_say(sweep: dict[str, Any]) -> None:
    verdict, complete = sweep["verdict"], [record for record in records(sweep) if record["state"] == "COMPLETE"]
    assert (
        sweep["winner"]["trial"]
        == verdict["winner"]
        == {"better": verdict["candidate"], "tie": 0, "worse": 0}[verdict["outcome"]]
    )
    best = max((record for record in complete if record["trial"]), key=lambda each: (each["value"], -each["trial"]))
    assert (verdict["candidate"], verdict["baseline"]) == (best["trial"], 0)
    runs = json.loads((sweep["folder"] / "confirm" / "runs.json").read_text(encoding="utf-8"))
    judged = [run for run in runs if run["stage"] == "verdict"]
    assert {(run["state"], run["progress"]) for run in runs} == {("COMPLETE", 100)}
    assert Counter(run["trial"] for run in judged) == {verdict["candidate"]: 3, 0: 3}
    assert len({run["seed"] for run in runs}) == len(runs) == verdict["runs"] + verdict["chosen_by"]
    for trial, mean in verdict["means"].items():
        scores = [run["holdout"]["holdout/accuracy"] for run in judged if run["trial"] == int(trial)]
        assert mean == pytest.approx(sum(scores) / 3)
    assert {run["holdout"]["holdout/examples"] for run in judged} == {40}
    assert verdict["value"] == records(sweep)[verdict["candidate"]]["value"]
    assert verdict["sentence"] in (sweep["folder"] / "model" / "README.md").read_text(encoding="utf-8")
    kept = [confirm_folder(sweep["folder"], run["number"]) for run in judged if run["trial"] == verdict["winner"]]
    assert confirmed_models(sweep["folder"]) == tuple(folder / "model" for folder in kept)
    assert {path.parent for path in (sweep["folder"] / "confirm").glob(f"**/{WEIGHTS}")} == {f / "model" for f in kept}
    assert sweep["seeds"]["mean"] == pytest.approx(
        sum(run["value"] for run in judged if run["trial"] == verdict["winner"]) / 3
    )
    of_runs = {f"trial_{run['trial']}_seed_{run['seed']}" for run in judged}
    assert set(sweep["test"]) == {"winner", "trial_0"} | of_runs


def test_each_review_of_the_holdout_says_what_its_run_scores(sweep: dict[str, Any]) -> None:
    runs = json.loads((sweep["folder"] / "confirm" / "runs.json").read_text(encoding="utf-8"))
    for run in (run for run in runs if run["stage"] == "verdict"):
        review = read_review(sweep["folder"] / "confirm" / "trials" / f"{run['number']:04d}" / "review.jsonl.gz")
        assert sum(record["score"] for record in review) / len(review) == run["holdout"]["holdout/accuracy"]
        assert sum(run["pseudo_values"]) / len(run["pseudo_values"]) == pytest.approx(
            run["holdout"]["holdout/accuracy"]
        )


def test_only_the_best_few_trials_and_trial_0_keep_a_checkpoint(sweep: dict[str, Any]) -> None:
    kept = {record["trial"] for record in records(sweep) if record["checkpoint"]}
    assert {0, sweep["winner"]["trial"]} <= kept and len(kept) <= 4
    for record in records(sweep):
        found = list((sweep["folder"] / "trials" / f"{record['trial']:04d}").glob(f"checkpoints/*/{WEIGHTS}"))
        assert [path.parent.name for path in found] == ([record["checkpoint"]] if record["checkpoint"] else [])


def test_optuna_was_told_the_truth(sweep: dict[str, Any]) -> None:
    storage = JournalStorage(JournalFileBackend(str(sweep["folder"] / "optuna_journal.log")))
    study = optuna.load_study(study_name="first", storage=storage)
    states = {record["trial"]: record["state"] for record in records(sweep)}
    for trial in study.trials:
        assert trial.state.name == states[trial.number]
        assert trial.intermediate_values
        curve = list(trial.intermediate_values.values())
        if trial.state == TrialState.PRUNED:
            assert max(trial.intermediate_values) < 100
        else:
            assert list(trial.intermediate_values) == list(range(10, 101, 10))
            assert trial.value == max(curve)
    assert {TrialState.PRUNED, TrialState.COMPLETE} == {trial.state for trial in study.trials}


def test_mlflow_has_the_parent_and_a_child_a_trial(sweep: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(sweep["tracking_uri"])
    experiment = client.get_experiment_by_name("quickstart")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags and "confirm" not in run.data.tags]
    assert [run.info.status for run in parents] == ["FINISHED"] and len(children) == 8
    confirming = [run for run in runs if "confirm" in run.data.tags]
    assert {run.info.status for run in confirming} == {"FINISHED"}
    assert len(confirming) == sweep["verdict"]["runs"] + sweep["verdict"]["chosen_by"]
    assert {run.data.tags["mlflow.parentRunId"] for run in confirming} == {parents[0].info.run_id}
    on_holdout = [run.data.metrics["holdout/accuracy"] for run in confirming if run.data.tags["confirm"] == "verdict"]
    assert sorted(on_holdout) == sorted(
        run["holdout"]["holdout/accuracy"]
        for run in json.loads((sweep["folder"] / "confirm" / "runs.json").read_text())
        if run["stage"] == "verdict"
    )
    by_trial = {int(run.data.tags["trial"]): run for run in children}
    for record in records(sweep):
        run = by_trial[record["trial"]]
        assert run.info.status == {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}[record["state"]]
        assert (run.data.tags.get("pruned") == "true") == (record["state"] == "PRUNED")
        assert run.info.run_name == f"first/{record['trial']:02d}" and run.data.tags["state"] == record["state"]
        assert record["state"].capitalize() in run.data.tags["mlflow.note.content"]
        assert len(run.inputs.dataset_inputs) == 2
        assert float(run.data.params["optim.backbone_lr"]) == record["values"]["optim.backbone_lr"]
        history = client.get_metric_history(run.info.run_id, "eval/accuracy")
        assert max(point.value for point in history) == record["value"]
        assert max(point.step for point in history) == record["step"]
    assert {"train/loss", "eval/loss", "eval/accuracy", "train/examples_per_second", "optim/backbone_lr"} <= by_trial[
        0
    ].data.metrics.keys()
    assert {inputs.tags[0].value for inputs in parents[0].inputs.dataset_inputs} == {
        "training",
        "validation",
        "testing",
    }
    won = by_trial[sweep["winner"]["trial"]]
    description = parents[0].data.tags["mlflow.note.content"]
    assert description.startswith(f"**{sweep['verdict']['sentence']}**") and won.data.tags["rank"] == "1"
    assert f"**Winner: trial {sweep['winner']['trial']}**" in description and "--resume" in description
    assert [run.info.run_id for run in children if run.data.tags.get("winner")] == [won.info.run_id]
    for record in records(sweep):
        found = by_trial[record["trial"]].data.metrics
        assert {name: found[f"best/{name}"] for name in record["metrics"]} == record["metrics"]
        assert found["best/progress"] == record["best_progress"]
    for run, name in ((won, "winner"), (by_trial[0], "trial_0")):
        assert {key: run.data.metrics[key] for key in sweep["test"][name]} == sweep["test"][name]
    names = {artifact.path for artifact in client.list_artifacts(parents[0].info.run_id)}
    assert {"study.yaml", "trials.csv", "environment.txt", "winner.json"} <= names
    models = client.search_logged_models([experiment.experiment_id])
    assert len(models) == 1 and models[0].source_run_id == by_trial[sweep["winner"]["trial"]].info.run_id


def test_mlflow_alone_tells_a_search_what_the_folder_tells(sweep: dict[str, Any]) -> None:
    folder, given = sweep["folder"], (str(sweep["folder"]), "experiments:/quickstart")
    first, second = (
        read_earlier(load_study(QUICKSTART, [f"search.warm_start=['{each}']"]), folder.parent) for each in given
    )
    assert [replace(trial, sweep="") for trial in second] == [replace(trial, sweep="") for trial in first]
    assert len(first) == 8


def rest(server: str, path: str, **content: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_the_ui_serves_the_sweep_over_rest_and_in_a_browser(sweep: dict[str, Any], tmp_path: Path) -> None:
    port = free_port()
    command = [*TUNE, "ui", str(sweep["folder"]), "--port", str(port)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        (line,) = itertools.islice((line for line in process.stdout if line.startswith("open ")), 1)
        page = line.removeprefix("open ").strip()
        server = f"http://127.0.0.1:{port}"
        wait_until_it_answers(server, process, seconds=90)
        assert page.startswith(server) and "/runs?" in page
        experiment = page.split("/experiments/")[1].split("/")[0]
        runs = rest(server, "runs/search", experiment_ids=[experiment], max_results=100)["runs"]
        states = Counter(
            run["info"]["status"]
            for run in runs
            if "mlflow.parentRunId" in (tags := {tag["key"] for tag in run["data"]["tags"]}) and "confirm" not in tags
        )
        assert states == {"FINISHED": sweep["states"]["COMPLETE"], "KILLED": sweep["states"]["PRUNED"]}
        need_browser()
        html = page_html(page, width=2400)  # all columns: those beside the window are not made
        assert "Request error" not in html and "share key" not in html
        searched = sweep["winner"]["values"].keys()
        assert {"best/eval/accuracy", "state", "rank"} | searched <= set(listed_columns(html))
        assert Counter(re.findall(r">(COMPLETE|PRUNED)<", html)) >= Counter(sweep["states"])
        trials = [name for name in listed_runs(html) if "/confirm/" not in name]
        assert trials[0] == f"first/{sweep['winner']['trial']:02d}"
        assert sorted(trials) == [f"first/{record['trial']:02d}" for record in records(sweep)]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_evaluate_agrees_with_the_sweep_and_is_recorded(sweep: dict[str, Any]) -> None:
    test_file = QUICKSTART.parent / "sample" / "test.tsv"
    done = tune_forked("evaluate", sweep["model"], test_file, "--json", cwd=sweep["folder"])
    result = json.loads(done.stdout)
    assert result["accuracy"] == sweep["test"]["winner"]["test/accuracy"]
    assert result["loss"] == pytest.approx(sweep["test"]["winner"]["test/loss"], abs=1e-6)
    assert (result["examples"], result["earlier_readings"]) == (160, 1)
    again = json.loads(tune_forked("evaluate", sweep["model"], test_file, "--json", cwd=sweep["folder"]).stdout)
    assert again["earlier_readings"] == 2


def test_compare_says_what_mcnemar_and_the_models_own_answers_say(sweep: dict[str, Any], tmp_path: Path) -> None:
    verdict, work = sweep["verdict"], tmp_path / "first"
    other = verdict["candidate"] if verdict["winner"] == 0 else 0
    shutil.copytree(sweep["folder"] / "model", work / "model")
    shutil.copyfile(sweep["folder"] / "study.yaml", work / "study.yaml")
    tune_forked("export", sweep["folder"], "--trial", other, "--output", tmp_path / "other", cwd=tmp_path)
    read = len((work / "model" / "test_readings.jsonl").read_text().splitlines())
    found = json.loads(tune_forked("compare", "first", "other", "--json", cwd=tmp_path).stdout)
    assert len((work / "model" / "test_readings.jsonl").read_text().splitlines()) == read + 1
    first, second = found["models"]
    assert first["value"] == sweep["test"]["winner"]["test/accuracy"]
    test_file, right = QUICKSTART.parent / "sample" / "test.tsv", []
    labels = [line.split("\t")[2] for line in test_file.read_text(encoding="utf-8").splitlines()[1:]]
    for model in (work / "model", tmp_path / "other"):
        tune_forked("predict", model, test_file, "--output", tmp_path / "out.jsonl", cwd=tmp_path)
        answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
        right.append(np.array([str(row["label"]) for row in answers]) == np.array(labels))
    (pair,) = found["pairs"]
    assert (first["value"], second["value"]) == (right[0].mean(), right[1].mean())
    assert pair["difference"]["estimate"] == pytest.approx(second["value"] - first["value"])
    only = [int((ours & ~theirs).sum()) for ours, theirs in (right, right[::-1])]
    assert pair["p_values"]["mcnemar"] == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)
    shown = tune_forked("compare", "first", "other", cwd=tmp_path).stdout
    assert pair["sentence"] in shown and "not other seeds" in shown


def test_a_trial_is_reproduced_bit_for_bit_and_the_sweep_stays_as_it_is(sweep: dict[str, Any], tmp_path: Path) -> None:
    before = {path: path.stat() for path in sorted(sweep["folder"].rglob("*"))}
    pruned = next(record for record in records(sweep) if record["state"] == "PRUNED")
    found = json.loads(
        tune_forked("reproduce", sweep["folder"], "--trial", pruned["trial"], "--json", cwd=tmp_path).stdout
    )
    assert found["drift"] == 0 and found["again"] == found["recorded"] == pruned["curve"]
    assert found["same_weights"] is (True if pruned["checkpoint"] else None)
    assert {path: path.stat().st_mtime for path in sorted(sweep["folder"].rglob("*"))} == {
        path: stat.st_mtime for path, stat in before.items()
    }


def test_drift_is_told(sweep: dict[str, Any], tmp_path: Path) -> None:
    """Of a ledger that says something else."""
    winner = sweep["winner"]["trial"]
    shutil.copytree(sweep["folder"], tmp_path / "first")
    ledger = tmp_path / "first" / "trials.json"
    rows = json.loads(ledger.read_text())
    rows[winner]["curve"]["50"] += 0.25
    ledger.write_text(json.dumps([{key: value for key, value in row.items() if key != "sha256"} for row in rows]))
    done = tune_forked("reproduce", tmp_path / "first", cwd=tmp_path, code=1)
    assert f"trial {winner} NOT reproduced: drift of eval/accuracy 0.25; weights: the same bytes" in done.stdout
    assert "the versions of all libraries are those that the sweep began with" in done.stdout


def test_mlflow_loads_and_serves_and_registers_the_winner(sweep: dict[str, Any], tmp_path: Path) -> None:
    """The sweep's folder and store are copied: what is registered there stays out of other tests."""
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.pyfunc import load_model

    test_file, name = QUICKSTART.parent / "sample" / "test.tsv", "reviews"
    shutil.copytree(sweep["folder"], tmp_path / "sweeps" / "first")
    shutil.copyfile(sweep["folder"].parent / "mlflow.db", tmp_path / "sweeps" / "mlflow.db")
    export = ("export", "sweeps/first", "--register", name)
    done = tune_forked(*export, "--alias", "champion", cwd=tmp_path)
    assert done.stdout == f"{name}: version 1 is `champion`: no version was `champion` before\n"
    uri = f"sqlite:///{tmp_path}/sweeps/mlflow.db"
    client = MlflowClient(uri, uri)
    version = client.get_model_version_by_alias(name, "champion")
    card = (sweep["folder"] / "model" / "README.md").read_text(encoding="utf-8")
    assert version.description.startswith("# `first`, trial") and version.description.strip() in card

    tune_forked("predict", sweep["model"], test_file, "--output", tmp_path / "out.jsonl", cwd=tmp_path)
    wanted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    frame = pd.DataFrame({"text": [row["text"] for row in wanted]})
    answers = [{name: value for name, value in row.items() if name not in ("id", "text")} for row in wanted]
    folder = client.get_logged_model(version.source.removeprefix("models:/")).artifact_location
    assert load_model(folder).predict(frame).to_dict("records") == answers
    port = free_port()
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{name}@champion", "-p", str(port)]
    variables = environment() | {"MLFLOW_TRACKING_URI": uri}
    with open(tmp_path / "serve.log", "wb") as log:
        process = subprocess.Popen(
            [*serve, "--env-manager", "local"], cwd=tmp_path, env=variables, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_it_answers(url, process, seconds=120)
        served = rows_served(url, frame.to_dict("split"))
        assert served == answers
        with pytest.raises(urllib.error.HTTPError) as refused:
            rows_served(url, {"columns": ["text"], "data": [["좋다"], [""]]})
        assert refused.value.code == 400 and "row 2: empty text" in json.load(refused.value)["message"]
    finally:
        process.terminate()
        process.wait(30)

    again = tune_forked(*export, "--alias", "champion", cwd=tmp_path)
    assert again.stdout == f"{name}: version 1 is `champion`: it was before\n"
    other = next(
        each["trial"] for each in records(sweep) if each["checkpoint"] and each["trial"] != sweep["winner"]["trial"]
    )
    refused_trial = tune_forked(*export, "--trial", other, cwd=tmp_path, code=2)
    assert f"trial {other} did not win: it is not exported yet; give --output DIR" in refused_trial.stderr
    kept = tune_forked(*export, "--trial", other, "--output", "other", cwd=tmp_path, code=1)
    assert f"{name}: the model is not registered: trial {other} of sweeps/first" in kept.stdout
    assert len(client.search_model_versions(f"name = '{name}'")) == 1
    forced = tune_forked(*export, "--trial", other, "--output", "again", "--force", cwd=tmp_path)
    assert f"{name}: version 2 is registered: by --force" in forced.stdout
    assert client.get_model_version_by_alias(name, "champion").version == version.version
    told = tune_forked("promote", name, "--force", "--json", "--tracking-uri", uri, cwd=tmp_path)
    assert json.loads(told.stdout)["promoted"] is True
    assert str(client.get_model_version_by_alias(name, "champion").version) == "2"
    back = tune_forked("promote", name, "--version", 2, "--tracking-uri", uri, cwd=tmp_path)
    assert "it was before" in back.stdout


def rows_served(url: str, split: dict[str, Any]) -> list[dict[str, Any]]:
    """What MLflow's server of a model says of rows."""
    body = json.dumps({"dataframe_split": {name: split[name] for name in ("columns", "data")}}).encode()
    request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: list[dict[str, Any]] = json.load(answer)["predictions"]
    return found


def test_transformers_loads_the_export_and_gives_the_same_logits(sweep: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tune_forked("export", sweep["folder"], "--output", tmp_path / "model", cwd=tmp_path)
    texts = ["정말 재미있어요", "시간이 아까웠다..", "나쁘지 않은데?"]
    ours = load_pretrained(tmp_path / "model")
    batch = AutoTokenizer.from_pretrained(tmp_path / "model")(texts, padding=True, return_tensors="pt")
    ids = ours.task.tokenizer.encode_batch(texts)
    assert [[i for i in row if i != 1] for row in batch["input_ids"].tolist()] == ids
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert theirs.config.id2label == {0: "negative", 1: "positive"}
    with torch.no_grad():
        logits = ours.model(**Batch.pack(batch).inputs).logits
        torch.testing.assert_close(theirs(**batch).logits, logits, rtol=0, atol=1e-5)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "language: ko" in card and f"{sweep['winner']['metrics']['eval/accuracy']:.6g}" in card
    refused = tune_forked("export", sweep["folder"], "--output", tmp_path / "model", cwd=tmp_path, code=2)
    assert "the output is not empty" in refused.stderr


def test_the_averaged_weights_score_what_the_sweep_says(sweep: dict[str, Any], tmp_path: Path) -> None:
    tune_forked("export", sweep["folder"], "--averaged", "--output", tmp_path / "soup", cwd=tmp_path)
    pretrained, mean = load_pretrained(tmp_path / "soup"), sweep["seeds"]["averaged"]
    task = task_class("nsmc")(load_study(QUICKSTART).train_config(sweep["winner"]["values"]))
    found = evaluate_on_dev(pretrained.model, task, LocalRuntime(device=torch.device("cpu")))
    assert found == pytest.approx(mean, abs=1e-6) and mean != sweep["seeds"]["ensemble"]
    refused = tune_forked("export", sweep["folder"], "--averaged", "--trial", 0, "--output", "m", cwd=tmp_path, code=2)
    assert "this is another model than any trial's; leave out --trial" in refused.stderr
    refused = tune_forked("export", sweep["folder"], "--tuned-decoding", "--output", "m", cwd=tmp_path, code=2)
    assert "has found no better settings to read the winner's answers with" in refused.stderr


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_predict_writes_a_label_and_probabilities_for_every_row(
    sweep: dict[str, Any], tmp_path: Path, suffix: str
) -> None:
    source = tmp_path / "new.csv"
    source.write_text('document\n"정말 재미있어요, 강추"\n시간이 아까웠다\n', encoding="utf-8")
    tune_forked("predict", sweep["model"], source, "--output", tmp_path / f"out{suffix}", cwd=tmp_path)
    text = (tmp_path / f"out{suffix}").read_text(encoding="utf-8")
    if suffix == ".tsv":
        rows = [dict(zip(text.splitlines()[0].split("\t"), r.split("\t"), strict=True)) for r in text.splitlines()[1:]]
    else:
        rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 2
    for row in rows:
        probability = {name: float(row[f"probability_{name}"]) for name in ("negative", "positive")}
        assert sum(probability.values()) == pytest.approx(1, abs=1e-5)
        assert row["name"] == max(probability, key=probability.__getitem__)
        assert str(row["label"]) == {"negative": "0", "positive": "1"}[row["name"]]


def test_what_cannot_be_used_of_a_file_is_told(sweep: dict[str, Any], tmp_path: Path) -> None:
    rows = [f"{number}\t정말 재미있어요\t1" for number in range(150)]
    rows[70] = "70\t \t1"
    source = tmp_path / "new.tsv"
    source.write_text("\n".join(["id\tdocument\tlabel", *rows]) + "\n", encoding="utf-8")
    done = tune_forked("predict", sweep["model"], source, "--output", tmp_path / "out.tsv", cwd=tmp_path)
    assert "149 predictions" in done.stdout
    assert "1 set aside:\nline 72: " in done.stderr
    result = json.loads(tune_forked("evaluate", sweep["model"], source, "--json", cwd=tmp_path).stdout)
    assert (result["examples"], result["set_aside"]) == (149, 1)


def test_list_and_logs_show_sweeps_and_trials(sweep: dict[str, Any]) -> None:
    listed = tune_forked("list", cwd=sweep["folder"].parents[1]).stdout
    assert "first" in listed and f"{sweep['states']['PRUNED']} pruned" in listed
    log = tune_forked("logs", sweep["folder"], 0, cwd=sweep["folder"]).stdout
    assert " 50% step" in log and "eval/accuracy" in log
    missing = tune_forked("logs", sweep["folder"], 99, cwd=sweep["folder"], code=2)
    assert "there is no trial 99" in missing.stderr


def test_a_used_name_is_refused_and_resume_extends(sweep: dict[str, Any]) -> None:
    work, study = sweep["folder"].parents[1], "search_spaces/quickstart.yaml"  # as the README names it
    refused = tune_forked("sweep", study, "--name", "first", cwd=work, code=2)
    assert "is in use" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
    other = tune_forked("sweep", study, "--name", "first", "--resume", "--set", "train.epochs=3", cwd=work, code=2)
    assert "`train` is not what this sweep began with" in other.stderr
    before = records(sweep)
    done = tune_forked("sweep", study, "--name", "first", "--resume", "--trials", 9, "--json", cwd=work)
    result = json.loads(done.stdout.splitlines()[-1])
    assert sum(result["states"].values()) == 9
    after = records(sweep)
    for old, new in zip(before, after, strict=False):
        changed = {"checkpoint": None, "sha256": None}
        assert old | changed == new | changed
    new_values = [json.dumps(record["values"]) for record in after]
    assert len(set(new_values)) == 9


def test_the_winner_goes_to_the_hub(sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with hub() as server:
        for name, value in {"ENDPOINT": server.url, "TOKEN": TOKEN, "HUB_DISABLE_XET": "1"}.items():
            monkeypatch.setenv(f"HF_{name}", value)
        pushed = tune(
            "export", sweep["folder"], "--push", "lab/first", "--license", "mit", cwd=sweep["folder"].parents[1]
        )
    assert pushed.stdout.splitlines()[-1] == f"pushed to {server.url}/lab/first"
    assert server.files["model.safetensors"] == (sweep["folder"] / "model/model.safetensors").read_bytes()
    card = server.files["README.md"].decode()
    assert "license: mit" in card and "model-index" in card and "지루할 틈이 없었다" in card


def test_ctrl_c_stops_cleanly_and_resume_goes_on_past_trials_that_fail(tmp_path: Path) -> None:
    overrides = [
        "parameters={optim.backbone_lr: {values: [1e-3, 1e+18]}, optim.max_grad_norm: {values: [1.0, 1e+9]}}",
        "search={algorithm: grid}",
        "scheduler.name=none",
        "train.epochs=3",
        "optim.warmup_ratio=0.0",
    ]
    command = [*TUNE, "sweep", str(QUICKSTART), "--name", "cut", "--trials", "4", *UNCONFIRMED, *ONE_AT_A_TIME]
    command += [part for override in overrides for part in ("--set", override)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    folder = tmp_path / "sweeps" / "cut"
    ledger = folder / "trials.json"
    deadline = time.monotonic() + 240
    while not (ledger.is_file() and any(record["progress"] >= 10 for record in json.loads(ledger.read_text()))):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "--resume" in output and "Traceback" not in output
    cut = json.loads(ledger.read_text())
    assert any(record["state"] == "INTERRUPTED" for record in cut)
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna_journal.log")))
    states = [trial.state for trial in optuna.load_study(study_name="cut", storage=storage).trials]
    assert TrialState.RUNNING not in states and TrialState.WAITING in states

    done = tune_forked(*command[len(TUNE) :], "--resume", "--json", cwd=tmp_path)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["states"]["FAILED"] >= 1 and result["states"]["COMPLETE"] >= 2
    assert set(result["states"]) == {"COMPLETE", "FAILED"} and sum(result["states"].values()) == 4
    assert result["winner"]["values"]["optim.backbone_lr"] == 1e-3
    resumed = json.loads(ledger.read_text())
    assert [record["values"] for record in resumed][: len(cut)] == [record["values"] for record in cut]
    failed = [record for record in resumed if record["reason"]]
    assert all("NonFiniteError" in record["reason"] for record in failed)
    log = tune_forked("logs", folder, failed[0]["trial"], cwd=tmp_path).stdout
    assert "NonFiniteError" in log
    for trial in optuna.load_study(study_name="cut", storage=storage).trials:
        assert (trial.state == TrialState.FAIL) == any(record["trial"] == trial.number for record in failed)
        assert all(math.isfinite(value) for value in trial.intermediate_values.values())


@pytest.mark.slow
def test_ctrl_c_while_the_groups_start_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*TUNE, "sweep", str(QUICKSTART), "--name", "early"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    journal = tmp_path / "sweeps" / "early" / "optuna_journal.log"
    deadline = time.monotonic() + 60
    while not journal.is_file():  # the groups have begun to start, and take longer than the search to be opened
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    started = psutil.Process(process.pid).children(recursive=True)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "--resume" in output and "Traceback" not in output
    assert json.loads((tmp_path / "sweeps" / "early" / "trials.json").read_text()) == []
    assert started
    assert not psutil.wait_procs(started, timeout=10)[1]


@pytest.mark.slow
def test_a_spent_budget_ends_the_sweep_in_mid_step(tmp_path: Path) -> None:
    """No trial is near a report when the time is over; the sweep still ends, judges and can go on."""
    study = ["sweep", QUICKSTART, "--name", "short", "--trials", 2, "--set", "train.epochs=4000", *UNCONFIRMED]
    begin = time.monotonic()
    done = tune(*study, "--set", "budget.wall_time=20s", "--json", cwd=tmp_path, code=1)
    assert time.monotonic() - begin < 120
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["states"] == {"INTERRUPTED": 2} and result["winner"] is None
