"""A sweep whose home is an object store: who may write there, what another machine finds, and what commands show."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from tests.fixtures.commands import ROOT, tune_here
from tuning import Sweep
from tuning.storage.records import StorageLost
from tuning.storage.store import Store
from tuning.study import StudyConfig, load_study
from tuning.sweep_dir.home import bring, model_here, stored_sweep
from tuning.sweep_dir.layout import HOME, LEDGER, MODEL, SPOOL, STUDY, TRIALS
from tuning.sweep_dir.opening import open_sweep_dir
from tuning.sweep_dir.test_set_log import read_log, record_reading, record_reading_of_model, times_read
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable
from tuning.tracking import Tracker, default_tracking_uri


def trial(number: int) -> TrialRecord:
    return TrialRecord(
        number,
        TrialState.COMPLETE,
        {"optim.backbone_lr": 1e-3},
        100,
        value=number / 10,
        curve={50: 0.0, 100: number / 10},
        started=1000.0 + number,
        seconds=1.0,
    )


class Machine:
    """A machine that drives a sweep: a folder of its own."""

    def __init__(self, folder: Path, home: str) -> None:
        self.output, self.said = folder, list[str]()
        self.study: StudyConfig = load_study(ROOT / "search_spaces" / "quickstart.yaml", [f"storage={home}"])

    @property
    def sweep(self) -> Path:
        return self.output / "one"

    def run(self, trials: int, *, resume: bool = False, end: BaseException | None = None) -> int:
        """Record one more trial after another until there are so many, and end so; how many there were."""
        assert self.study.home is not None
        uri = default_tracking_uri(self.output)
        with (
            stored_sweep(self.study.home, self.sweep, resume=resume, tracking_uri=uri, say=self.said.append) as commits,
            open_sweep_dir(self.study, self.sweep, resume=resume),
        ):
            commits.finish(False)
            table = TrialTable.of(self.sweep, self.study)
            before = len(table)
            for number in range(before, trials):
                table.put(trial(number))
                commits.commit()
            if end is not None:
                raise end
            commits.finish(True)
        return before


@pytest.fixture
def home(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/team"


@pytest.fixture(autouse=True)
def _copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.sweep_dir.home.node_folder", lambda: tmp_path / "node")


def machine(tmp_path: Path, name: str, home: str) -> Machine:
    return Machine(tmp_path / name, home)


def test_another_machine_goes_on(tmp_path: Path, home: str) -> None:
    assert machine(tmp_path, "a", home).run(2) == 0
    other = machine(tmp_path, "b", home)
    with pytest.raises(InputError, match=r"file://.*/bucket/team/one: the sweep name `one` is in use"):
        other.run(3)
    assert not other.sweep.exists(), "nothing is made for a sweep that may not begin"
    assert other.run(3, resume=True) == 2
    assert (other.sweep / STUDY).is_file() and not (other.sweep / TRIALS).exists()
    assert machine(tmp_path, "c", home).run(3, resume=True) == 3


def test_one_that_has_ended_stays_so_when_another_study_is_refused(tmp_path: Path, home: str) -> None:
    machine(tmp_path, "a", home).run(1)
    other = machine(tmp_path, "b", home)
    other.study = load_study(ROOT / "search_spaces" / "quickstart.yaml", [f"storage={home}", "train.epochs=9"])
    with pytest.raises(InputError, match="is not what this sweep began with"):
        other.run(2, resume=True)
    with pytest.raises(InputError, match="is in use"):
        machine(tmp_path, "c", home).run(2)


@pytest.mark.parametrize("end", [RuntimeError(), KeyboardInterrupt()])
@pytest.mark.parametrize("other", ["a", "b"])
def test_one_that_did_not_come_to_its_end_goes_on_by_the_same_command(
    tmp_path: Path, home: str, end: BaseException, other: str
) -> None:
    with pytest.raises(type(end)):
        machine(tmp_path, "a", home).run(2, end=end)
    assert machine(tmp_path, other, home).run(3) == 2


def test_nothing_to_go_on_with(tmp_path: Path, home: str) -> None:
    with pytest.raises(InputError, match="there is no sweep to go on with"):
        machine(tmp_path, "a", home).run(1, resume=True)
    assert Store.at(home).objects() == {}, "the name stays free"


def test_a_folder_that_was_left_behind_is_set_aside(tmp_path: Path, home: str) -> None:
    first, second = machine(tmp_path, "a", home), machine(tmp_path, "b", home)
    first.run(1)
    second.run(3, resume=True)
    assert first.run(4, resume=True) == 3, "the store's records count"
    (aside,) = first.output.glob("one.before-*")
    assert len(json.loads((aside / LEDGER).read_text())) == 1
    assert any("is older than the object store" in line for line in first.said)
    first.said.clear()
    assert first.run(5, resume=True) == 4
    assert first.said == [], "its own folder is what the store has"


def test_a_folder_ahead_of_the_store_is_kept(tmp_path: Path, home: str) -> None:
    """As when the store was away at the end: nobody else has written there since."""
    only = machine(tmp_path, "a", home)
    only.run(1)
    TrialTable.of(only.sweep, only.study).put(trial(1))
    assert only.run(2, resume=True) == 2
    assert machine(tmp_path, "b", home).run(2, resume=True) == 2


def test_who_has_lost_its_place_leaves_everything_as_it_is(tmp_path: Path, home: str) -> None:
    machine(tmp_path, "a", home).run(1)
    before = Store.at(home).objects()
    with pytest.raises(InputError, match=r"bucket/team/one: another process .*; look at it there"):
        machine(tmp_path, "b", home).run(1, resume=True, end=StorageLost("another process runs this sweep now"))
    assert Store.at(home).objects().keys() == before.keys()


def test_only_what_the_store_has_goes_to_mlflow(tmp_path: Path, home: str) -> None:
    here = machine(tmp_path, "a", home)
    assert here.study.home is not None
    uri = default_tracking_uri(here.output)
    with stored_sweep(here.study.home, here.sweep, resume=False, tracking_uri=uri, say=print) as commits:
        tracker = Tracker(spool=here.sweep / SPOOL, uri=uri, experiment="e", sweep="one", limit=commits.limit)
        assert tracker._spool.settle() == 0 < (here.sweep / SPOOL).stat().st_size
        (here.sweep / STUDY).write_text("a study")
        commits.commit()
        assert tracker._spool.settle() == (here.sweep / SPOOL).stat().st_size
        tracker.close(timeout=0)


def test_commands_take_addresses(tmp_path: Path, home: str) -> None:
    machine(tmp_path, "a", home).run(3)
    Store.at(home).put("one/trials/0001/log.txt", "학습\n".encode())
    address = f"{home}/one"
    said = tune_here("list", "--output", home, cwd=tmp_path).stdout
    assert said.startswith(f"{address}  3 complete  best eval/accuracy 0.2000 (trial 2, complete)")
    found = json.loads(tune_here("list", address, "--json", cwd=tmp_path).stdout)
    assert (found["sweep"], len(found["trials"]), found["cut_off"]) == (address, 3, False)
    assert tune_here("logs", address, "1", cwd=tmp_path).stdout == "학습\n"
    assert tune_here("logs", address, "1", "--follow", cwd=tmp_path).stdout == "학습\n"
    tune_here("report", address, "--output", "report.html", cwd=tmp_path)
    assert (tmp_path / "report.html").is_file()
    opened = Sweep.open(address)
    assert (len(opened.frame), opened.name, opened.is_running) == (3, "one", False)

    for command in (
        ["list", f"{home}/two"],
        ["report", address],
        ["export", address, "--output", "model"],
        ["evaluate", address, "data.tsv"],
        ["sync", address],
        ["ui", address],
        ["sweep", "study.yaml", "--output", home],
    ):
        done = tune_here(*command, cwd=tmp_path, code=2)
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "bucket", "node", "report.html"]


def test_a_trial_is_followed(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.cli.sweeps.POLL_SECONDS_OF_STORE", 0.05)
    here, log = machine(tmp_path, "a", home), "one/trials/0000/log.txt"
    assert here.study.home is not None
    with (
        stored_sweep(here.study.home, here.sweep, resume=False, tracking_uri="", say=print) as commits,
        open_sweep_dir(here.study, here.sweep, resume=False),
    ):
        table = TrialTable.of(here.sweep, here.study)
        commits.commit()

        def train() -> None:
            for printed, now in ("50%\n", replace(trial(0), state=TrialState.RUNNING)), ("50%\n100%\n", trial(0)):
                time.sleep(0.3)
                Store.at(home).put(log, printed.encode())
                table.put(now)
                commits.commit()

        with ThreadPoolExecutor(1) as worker:
            trained = worker.submit(train)
            said = tune_here("logs", f"{home}/one", "0", "--follow", cwd=tmp_path)
            trained.result()
    assert (said.stdout, said.stderr) == ("50%\n100%\n", "trial 0, complete\n")


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of folders that were fetched to this machine, which takes a while."""
    monkeypatch.setattr("tuning.sweep_dir.home.node_folder", lambda: tmp_path / "node")
    download_folder, keys = Store.download_folder, list[str]()

    def slowly(self: Store, key: str, folder: Path) -> bool:
        keys.append(key)
        time.sleep(0.1)
        return download_folder(self, key, folder)

    monkeypatch.setattr(Store, "download_folder", slowly)
    return keys


def upload(store: Store, key: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    store.upload_folder(folder, key)


def test_two_commands_that_want_a_model_at_once_fetch_it_once(tmp_path: Path, home: str, fetched: list[str]) -> None:
    upload(Store.at(home) / "one", MODEL, tmp_path / "exported")
    with ThreadPoolExecutor(2) as commands:
        first, second = commands.map(model_here, [f"{home}/one"] * 2)
    assert first == second and (first / "config.json").read_text() == "{}"
    assert fetched == [MODEL]
    shutil.rmtree(first)
    left = first.with_name(f".{first.name}.abc.tmp")  # by a process that was killed
    left.mkdir()
    assert model_here(f"{home}/one") == first and not left.exists()


def test_two_commands_that_want_a_checkpoint_at_once_fetch_it_once(
    tmp_path: Path, home: str, fetched: list[str]
) -> None:
    sweep, key = tmp_path / "sweep", f"{TRIALS}/0000/checkpoints/step-10"
    upload(Store.at(home) / "one", key, tmp_path / "written")
    sweep.mkdir()
    (sweep / HOME).write_text(json.dumps({"address": f"{home}/one", "token": 0}))
    with ThreadPoolExecutor(2) as commands:
        first, second = commands.map(lambda _: bring(sweep, sweep / key), range(2))
    assert first == second == sweep / key and (first / "config.json").read_text() == "{}"
    assert fetched == [key]


def test_who_has_read_a_test_file_is_kept_without_the_lock(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(tmp_path, "a", home).run(1)
    made = tmp_path / "exported"
    made.mkdir()
    record_reading(made, file=Source.of("test.tsv"), sha256="a", by="sweep", metrics={})
    (Store.at(home) / "one").upload_folder(made, MODEL)
    said: list[str] = []
    with stored_sweep(home, tmp_path / "a" / "one", resume=True, tracking_uri="", say=print):  # a driver holds it
        for node, read in enumerate((["a"], ["a", "b"], ["a", "b", "b"])):
            monkeypatch.setattr("tuning.sweep_dir.home.node_folder", lambda node=node: tmp_path / f"node-{node}")
            for _ in range(2):
                model = model_here(f"{home}/one")
            assert sorted(reading["sha256"] for reading in read_log(model)) == read
            given = {"file": Source.of("x.tsv"), "sha256": "b", "by": "evaluate", "metrics": {"node": node}}
            record_reading_of_model(model, **given, say=said.append)  # type: ignore[arg-type]
    assert times_read(model_here(f"{home}/one"), "b") == 3 and said == []
    made.joinpath("more").touch()
    (Store.at(home) / "one").upload_folder(made, MODEL)
    assert times_read(model_here(f"{home}/one"), "b") == 0, "another model has read nothing"
    shutil.rmtree(tmp_path / "bucket")
    (tmp_path / "bucket").write_text("no store")
    record_reading_of_model(model, **given, say=said.append)  # type: ignore[arg-type]
    (note,) = said
    assert note.startswith("note: this reading could not be recorded (")


def test_the_doctor_tries_the_store(tmp_path: Path, home: str) -> None:
    found = json.loads(tune_here("doctor", "--output", home, "--json", cwd=tmp_path).stdout)["findings"]
    assert [each["what"] for each in found if home in each["what"]] == [
        f"{home} can be written",
        f"{home} keeps to conditional writes",
        f"{home} can be listed, and objects removed",
    ]
    assert Store.at(home).objects() == {}


def test_a_copy_follows_the_store(tmp_path: Path, home: str) -> None:
    machine(tmp_path, "a", home).run(1)
    assert len(Sweep.open(f"{home}/one").frame) == 1
    machine(tmp_path, "a", home).run(2, resume=True)
    opened = Sweep.open(f"{home}/one")
    assert len(opened.frame) == 2 and json.loads((opened.folder / HOME).read_text())["ended"]
