"""A sweep in an object store comes to what a sweep in a folder comes to, also where the store fails and goes away."""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kobert_core.checkpoint import WEIGHTS
from tests.drills.conftest import Drill
from tests.fixtures.object_store import BUCKET, FaultyProxy, S3Server, faulty_proxy
from tests.fixtures.sweeps import (
    ONE_AT_A_TIME,
    ending_all,
    progress_of,
    records_of,
    reported_curves,
    start_sweep,
    sweep_to_its_end,
    wait_for,
)
from tuning.storage.store import Store

pytestmark = pytest.mark.slow
OPTIONS = ("--trials", "3", "--set", "train.epochs=4", *ONE_AT_A_TIME, "--set", "confirm={top: 1, seeds: 2}")
TIMES = ("seconds", "started", "landed")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that nothing disturbs, on this machine's disk."""
    output = tmp_path_factory.mktemp("local")
    sweep_to_its_end(output, "one", *OPTIONS)
    return output / "one"


@pytest.fixture
def temporary() -> Iterator[str]:
    """For what the node keeps; its path is short, since Ray's sockets lie there."""
    with tempfile.TemporaryDirectory(prefix="drill-", ignore_cleanup_errors=True) as folder:
        yield folder


class OneInFive(dict[int, str]):
    """Every fifth request fails, in turns: busy, broken off, and answered to nobody."""

    def get(self, number: int, default: Any = None) -> Any:
        return ("503", "reset", "lost")[number // 5 % 3] if number % 5 == 4 else default


@dataclass(frozen=True)
class Faults:
    """What befalls the store."""

    of_five: int = 0
    """How many of five requests fail."""
    seconds_away: int = 0
    """For so long nothing gets through, in the midst of the sweep."""
    latency: float = 0.0
    """Seconds that each request takes longer."""

    def __str__(self) -> str:
        said = [f"{self.of_five} of 5 requests fail"] * bool(self.of_five)
        said += [f"away for {self.seconds_away} s"] * bool(self.seconds_away)
        said += [f"{self.latency:g} s later"] * bool(self.latency)
        return ", ".join(said) or "none"


ALL_FAULTS = [
    Faults(),
    Faults(of_five=1, seconds_away=40),
    pytest.param(Faults(seconds_away=600), marks=pytest.mark.long),
    pytest.param(Faults(latency=2.0), marks=pytest.mark.long),
]


@pytest.mark.parametrize("faults", ALL_FAULTS, ids=str)
def test_the_sweep_is_that_of_a_folder(
    s3: S3Server, local: Path, temporary: str, tmp_path: Path, drill: Drill, faults: Faults
) -> None:
    """A sweep in an object store beside the same one in a folder."""
    drill.title = f"{drill.title}; faults: {faults}"
    address = f"s3://{BUCKET}/{tmp_path.name}"
    stored = ("--set", f"storage={address}")
    if faults == Faults():
        sweep_to_its_end(tmp_path, "one", *OPTIONS, *stored, TMPDIR=temporary, **s3.environment())
    else:
        with faulty_proxy(s3.port) as proxy:
            environment = {"TMPDIR": temporary, **s3.environment(proxy.url)}
            drill.title += through_faults(proxy, faults, tmp_path, *OPTIONS, *stored, **environment)
    compare(local, tmp_path / "one", drill)
    with pytest.MonkeyPatch.context() as patch:
        s3.use(patch)
        store = Store.at(f"{address}/one")
        kept = {record["checkpoint"] for record in records_of(local).values()} - {None}
        checkpoints = [key for key in store.folders("trials") if "/checkpoints/" in key]
        drill.lost("checkpoints too many or too few", abs(len(checkpoints) - len(kept_in(local))), of=len(checkpoints))
        assert {key.rpartition("/")[2] for key in checkpoints} == kept
        assert store.download_folder("model", tmp_path / "exported")
    assert (tmp_path / "exported" / WEIGHTS).read_bytes() == (local / "model" / WEIGHTS).read_bytes()


def through_faults(proxy: FaultyProxy, faults: Faults, output: Path, *arguments: object, **variables: str) -> str:
    """Run a sweep to its end; the store is away in its midst. How long it took, and how many requests, in words."""
    proxy.faults, proxy.delay = OneInFive() if faults.of_five else {}, faults.latency
    began = time.monotonic()
    process = start_sweep(output, "one", *arguments, **variables)
    with ending_all(process):
        if faults.seconds_away:
            assert wait_for(process, lambda: progress_of(output / "one") >= 80), (output / "one.out").read_text()
            proxy.always = "reset"
            time.sleep(faults.seconds_away)
            assert process.poll() is None, (output / "one.out").read_text()
            proxy.always = None
        assert process.wait(timeout=3000) == 0, (output / "one.out").read_text()
    told = f" ({time.monotonic() - began:.0f} s, {proxy.connections:,} requests)"
    printed = (output / "one.out").read_text(encoding="utf-8")
    assert "Traceback" not in printed, printed
    return told


def kept_in(sweep: Path) -> list[Path]:
    return list(sweep.glob("trials/*/checkpoints/update-*"))


def compare(local: Path, stored: Path, drill: Drill) -> None:
    """Ledgers, curves, verdicts, answers and models must be alike."""
    theirs, ours = records_of(local), records_of(stored)
    assert theirs.keys() == ours.keys()
    other = sum(without(theirs[trial]) != without(ours[trial]) for trial in theirs)
    drill.lost("trials that are other", other, of=len(theirs))
    curves, ours_too = reported_curves(local), reported_curves(stored)
    drill.lost(
        "evaluations that are other", sum(ours_too.get(at) != told for at, told in curves.items()), of=len(curves)
    )
    drill.lost("evaluations too many", len(ours_too.keys() - curves.keys()), of=len(ours_too))
    winners = [json.loads((sweep / "winner.json").read_text(encoding="utf-8")) for sweep in (local, stored)]
    told = [{name: each[name] for name in ("test", "verdict", "seeds", "decoding")} for each in winners]
    drill.lost("verdicts and scores that are other", int(told[0] != told[1]), of=1)
    runs = [json.loads((sweep / "confirm" / "runs.json").read_text(encoding="utf-8")) for sweep in (local, stored)]
    differing = sum(without(one) != without(two) for one, two in zip(*runs, strict=True))
    drill.lost("confirming runs that are other", differing, of=len(runs[0]))
    reviews = sorted(path.relative_to(local) for path in local.rglob("review.jsonl.gz"))
    other = sum(
        gzip.decompress((local / each).read_bytes()) != gzip.decompress((stored / each).read_bytes())
        for each in reviews
    )
    drill.lost("reviews that are other", other, of=len(reviews))
    weights = sorted(path.relative_to(local) for path in local.rglob(f"model/{WEIGHTS}"))
    other = sum((local / each).read_bytes() != (stored / each).read_bytes() for each in weights)
    drill.lost("exported weights that are other", other, of=len(weights))


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def without(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what depends on time."""
    metrics = {name: value for name, value in record["metrics"].items() if not name.endswith("per_second")}
    left_out = {*TIMES, "sha256", "metrics"}
    return {name: value for name, value in record.items() if name not in left_out} | {"metrics": metrics}
