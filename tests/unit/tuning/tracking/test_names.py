"""Names and values of any characters reach a real MLflow store (sqlite): nothing is refused for good."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fixtures.tasks import model_without_weights
from tests.fixtures.tracking import client_of, history, open_tracker, runs_of, spool_of
from tuning.sweep.tracking import flatten
from tuning.tracking import dead_letters_path
from tuning.tracking.accepted import LONGEST_KEY, accepted_key, accepted_text

ODD = [
    "긍정\t(좋음)",
    "부정\n",
    "a:b",
    "a//b",
    "/a",
    "a/",
    "..",
    "../a",
    ".",
    "./a",
    "e\u0301",
    "`|*[red]",
    "\x1b[31m",
    "'; drop table params; --",
    "%41",
    "🙂",
    "긍" * 300,
    "긍" * 301,
    "",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def test_nothing_is_refused_for_its_name_or_its_length(output: Path) -> None:
    params = {name: f"{number}" for number, name in enumerate(ODD)} | {
        "optim.empty": "",
        "nul": "a\0b",
        "long": "긍" * 9000,
    }
    tracker = open_tracker(output)
    tracker.start_sweep(params={}, tags={})
    tracker.log_dataset(name="긍" * 600, path="a\tb.tsv", sha256="ab" * 32, examples=1, context="training")
    tracker.start_trial("0", params=params, tags=params)
    tracker.log_metrics("0", {name: float(number) for number, name in enumerate(ODD)}, step=1)
    model = model_without_weights(output / "model")
    tracker.log_winner(model, name='v1.2 "100%"', trial="0", params=params, metrics={"a\tb": 1.0}, tags=params)
    tracker.end_trial("0", status="FINISHED", tags={"reason": "x" * 9000})
    assert tracker.close(120) == 0
    assert not dead_letters_path(spool_of(output)).exists() and tracker.refused == 0

    run = runs_of(output)["first/00"]
    for number, name in enumerate(ODD):
        key = accepted_key(name)
        assert run.data.params[key] == run.data.tags[key] == f"{number}"
        assert history(output, run, key) == [(1, float(number), history(output, run, key)[0][2])]
    assert run.data.params["긍정:9::28:좋음:29:"] == "0"
    assert (run.data.params["optim.empty"], run.data.params["nul"]) == ("", "a\ufffdb")
    assert run.data.params["long"].endswith("긍… (9,000 characters)") and len(run.data.params["long"]) == 6000
    (found,) = client_of(output).search_logged_models([run.info.experiment_id])
    assert (found.name, str(found.status)) == ("v1_2 _100__", "READY")
    assert found.params[accepted_key("부정\n")] == "1"


@given(TEXT, TEXT)
@example("a:b", "a:62:")
@example("..", "../..")
@example("긍" * 300, "긍" * 301)
def test_two_names_never_become_one_and_a_short_one_can_be_read_back(one: str, other: str) -> None:
    keys = [accepted_key(name) for name in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert all(0 < len(key) <= LONGEST_KEY for key in keys)
    if one and len(keys[0]) < LONGEST_KEY:
        assert re.sub(r":([0-9a-f]+):", lambda match: chr(int(match[1], 16)), keys[0]) == one


def test_names_that_mlflow_takes_stay_as_they_are() -> None:
    for name in ("optim.backbone_lr", "eval/accuracy", "best/eval/f1", "kobert_tune.trial", "긍정 - 좋음"):
        assert accepted_key(name) == name
    assert accepted_text("긍" * 6000, 6000) == "긍" * 6000


def test_labels_are_one_parameter() -> None:
    labels = {"부\t정": "a|b", "1.0": "긍정\n"}
    params = flatten(
        {"task": "nsmc", "data": {"labels": labels, "max_length": 32}, "model": {"config": {"a": {"b": 1}}}}
    )
    assert params.keys() == {"task", "data.labels", "data.max_length", "model.config"}
    assert json.loads(params["data.labels"]) == labels
