"""What `kobert-tune ui` says before it serves: a link that can be opened as it is, or in one line why there is none."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from kobert_core.config import Objective
from kobert_core.errors import InputError
from tests.fixtures.tracking import client_of, closed_port, open_tracker, spool_of
from tuning.study.objectives import FurtherObjective
from tuning.tracking import default_tracking_uri, show_ui
from tuning.tracking.ui import sweep_page
from tuning.tracking.uris import page_of

MORE, LESS = Objective(metric="eval/accuracy", mode="max"), Objective(metric="eval/loss", mode="min")


@contextmanager
def listening() -> Iterator[int]:
    """A port where requests are taken and never answered."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_taken_port_is_told_before_a_link(output: Path) -> None:
    said: list[str] = []
    with listening() as port, pytest.raises(InputError, match="cannot be used"):
        show_ui(default_tracking_uri(output), port=port, say=said.append)
    assert not said


@pytest.mark.parametrize("store", ["http://me:geheim@127.0.0.1:{}", "postgresql+psycopg://me:geheim@127.0.0.1:{}/d"])
@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
def test_a_store_that_is_away_is_told_within_ten_seconds(
    store: str, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.tracking.ui._SECONDS_TO_ANSWER", 4)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    with listening() as port:
        uri = store.format(port if hangs else closed_port())
        began = time.monotonic()
        with pytest.raises(InputError, match="MLflow does not answer here") as caught:
            show_ui(uri, say=said.append)
    assert time.monotonic() - began < 10 and not said
    assert "geheim" not in str(caught.value) and "\n" not in str(caught.value)


def view_of(output: Path, objective: Objective) -> tuple[str, dict[str, Any]]:
    """The address of the sweep's page, and the view that it names, which MLflow keeps with the experiment."""
    client, spool = client_of(output), spool_of(output)
    page = sweep_page(client, "http://h:1", spool, objective, ["optim.backbone_lr", "긍정\t"])
    assert page is not None and "***" not in page
    query = parse_qs(page.partition("?")[2])
    tags = client.get_experiment_by_name("실험").tags
    return page, json.loads(tags[f"mlflow.sharedViewState.{query['viewStateShareKey'][0]}"])


def test_the_link_shows_one_sweep_in_the_order_of_its_objective(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_sweep(params={}, tags={})
    tracker.start_trial("0", params={}, tags={})
    assert tracker.flush(60) == 0
    page, view = view_of(output, MORE)
    assert page.startswith("http://h:1/#/experiments/") and "/runs?workflowType=machine_learning&" in page
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best/eval/accuracy`", False)
    lr, odd = "params.`optim.backbone_lr`", "params.`긍정:9:`"
    assert view["selectedColumns"] == ["tags.`rank`", "tags.`state`", "metrics.`best/eval/accuracy`", lr, odd]
    other, less = view_of(output, LESS)
    assert other == page and (less["orderByKey"], less["orderByAsc"]) == ("metrics.`best/eval/loss`", True)
    tracker.log_result("0", metrics={}, step=0, tags={"rank": "1"})
    assert tracker.close(60) == 0
    ranked = view_of(output, MORE)[1]
    assert (ranked["orderByKey"], ranked["orderByAsc"]) == ("tags.`rank`", True)
    assert sweep_page(client_of(output), "", output / "none.jsonl", MORE, []) is None


def test_where_no_view_can_be_kept_the_link_has_the_filter_and_the_order(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_trial("0", params={}, tags={})
    assert tracker.close(60) == 0
    page = sweep_page(client_of(output), "", spool_of(output), MORE, [f"p{number}" for number in range(2000)])
    assert page is not None and "searchFilter=tags.%22kobert_tune.sweep_id%22" in page, "a view of so many is too long"
    assert "orderByKey=metrics.%60best%2Feval%2Faccuracy%60&orderByAsc=false" in page


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("http://me:geheim@h:5000/", "http://h:5000"),
        ("https://token@h/mlflow?api_key=geheim", "https://h/mlflow"),
        ("http://h:5000/a@b", "http://h:5000/a@b"),
    ],
)
def test_a_link_holds_no_secret(uri: str, page: str) -> None:
    assert page_of(uri) == page


def test_further_objectives_are_columns(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_sweep(params={}, tags={})
    assert tracker.close(60) == 0
    latency = FurtherObjective(metric="cost/latency_ms", mode="min")
    further = (latency, latency.model_copy(update={"below": 20.0}))
    client = client_of(output)
    assert sweep_page(client, "http://h:1", spool_of(output), MORE, [], further) is not None
    (tag,) = (
        value for name, value in client.get_experiment_by_name("실험").tags.items() if name.startswith("mlflow.shared")
    )
    assert json.loads(tag)["selectedColumns"][2:] == [
        "metrics.`best/eval/accuracy`",
        "metrics.`best/cost/latency_ms`",
        "tags.`pareto_front`",
        "tags.`breaks`",
    ]
