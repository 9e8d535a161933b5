"""What `kobert-tune ui` says before it serves: a link that can be opened as it is, or in one line why there is none."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kobert_core.config import Objective
from kobert_core.errors import InputError
from tests.fixtures.tracking import client_of, closed_port, open_tracker, spool_of
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


def test_the_link_shows_one_sweep_in_the_order_of_its_objective(output: Path) -> None:
    tracker = open_tracker(output)
    tracker.start_sweep(params={}, tags={})
    tracker.start_trial("0", params={}, tags={})
    assert tracker.flush(60) == 0
    client, spool = client_of(output), spool_of(output)
    page = sweep_page(client, "http://h:1", spool, MORE)
    assert page.startswith("http://h:1/#/experiments/") and "***" not in page
    assert "orderByKey=metrics.%60best%2Feval%2Faccuracy%60&orderByAsc=false" in page
    assert "best%2Feval%2Floss%60&orderByAsc=true" in sweep_page(client, "", spool, LESS)
    tracker.log_result("0", metrics={}, step=0, tags={"rank": "1"})
    assert tracker.close(60) == 0
    assert "orderByKey=tags.%60rank%60&orderByAsc=true" in sweep_page(client, "", spool, MORE)
    assert sweep_page(client, "", output / "none.jsonl", MORE) is None


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
