"""What a study names by an address in an object store is fetched once a machine, and is what a file of it would be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.models.backbone import load_encoder
from kobert_core.tasks import task_class
from kobert_core.tokenization import load_tokenizer
from tests.fixtures.commands import ROOT, environment, tune_here
from tests.fixtures.encoders import make_encoder
from tests.fixtures.object_store import BUCKET, S3Server
from tests.fixtures.tiny import SAMPLE, tiny_config
from tuning.storage.fetched import fetched, matching
from tuning.storage.inputs import Inputs
from tuning.storage.node import inputs_here
from tuning.storage.store import Store
from tuning.study import StudyConfig, load_study
from tuning.sweep.preflight import files_of, is_here
from tuning.sweep_dir.provenance import refuse_changed_addresses, write_provenance


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One that has fetched nothing yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    fetched.cache_clear()
    yield tmp_path
    fetched.cache_clear()


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket"


def test_the_same_version_is_fetched_once_a_machine(bucket: str) -> None:
    store, address = Store.at(bucket), f"{bucket}/data/리뷰 1.tsv"
    store.put("data/리뷰 1.tsv", b"first")
    here = fetched(address)
    assert (here.name, here.read_bytes()) == ("리뷰 1.tsv", b"first")
    inode = here.stat().st_ino
    fetched.cache_clear()  # as another process
    assert fetched(address).stat().st_ino == inode
    store.put("data/리뷰 1.tsv", b"again")
    assert fetched(address) == here, "a process reads one version"
    fetched.cache_clear()
    assert fetched(address).read_bytes() == b"again" and here.read_bytes() == b"first"
    store.put("data/리뷰 1.tsv", b"first")
    fetched.cache_clear()
    assert fetched(address).stat().st_ino == inode, "the content is known"
    shutil.rmtree(here.parent)
    fetched.cache_clear()
    assert fetched(address).read_bytes() == b"first"


def test_what_a_kill_left_is_removed_at_the_next_fetch(bucket: str) -> None:
    code = """
import sys, time
from tuning.storage.fetched import fetched
from tuning.storage.store import Store

def download(self, key, path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a part")
    print("fetching", flush=True)
    time.sleep(600)

Store.download = download
fetched(sys.argv[1])
"""
    store = Store.at(bucket)
    for name in ("killed", "lives", "other"):
        store.put(name, name.encode())
    fetching = []
    for name in ("killed", "lives"):
        command = [sys.executable, "-c", code, f"{bucket}/{name}"]
        fetching.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()))
    killed = fetching[0]
    try:
        for process in fetching:
            assert process.stdout is not None and process.stdout.readline() == b"fetching\n"
        killed.kill()
        killed.wait()
        assert fetched(f"{bucket}/other").read_bytes() == b"other"
        assert [path.name for path in inputs_here().glob(".*.tmp/*")] == ["lives"]
    finally:
        for process in fetching:
            process.kill()
            process.communicate()
    assert fetched(f"{bucket}/lives").read_bytes() == b"lives"
    assert not [*inputs_here().glob(".*.tmp")]


def test_it_is_had_from_s3_also_while_that_is_away(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store, address = Store.at(f"s3://{BUCKET}"), f"s3://{BUCKET}/data/train.tsv"
    store.put("data/train.tsv", b"rows")
    store.put("encoder/config.json", b"{}")
    store.put("encoder/below/vocab.txt", b"a")
    assert fetched(address).read_bytes() == b"rows"
    folder = fetched(f"s3://{BUCKET}/encoder/")
    assert folder.name == "encoder" and (folder / "below" / "vocab.txt").read_text() == "a"
    for wrong, said in (
        (f"s3://{BUCKET}/data/trian.tsv", "there is no such object, and no folder with some; check the address"),
        (f"s3://{BUCKET}/dat", "there is no such object"),
        ("s3://no-such-bucket/train.tsv", "there is no such bucket"),
        (f"s3://{BUCKET}", "the address names a whole bucket"),
        ("s3://me:secret@bucket/train.tsv", "an address has no name, password"),
    ):
        with pytest.raises(InputError, match=said) as error:
            fetched(wrong)
        assert "secret" not in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setattr("tuning.storage.fetched.SECONDS_TO_ANSWER", 1.0)
    fetched.cache_clear()
    s3.__exit__()
    assert fetched(address).read_bytes() == b"rows"
    with pytest.raises(InputError, match="did not answer for 1 s"):
        fetched(f"s3://{BUCKET}/other.tsv")


def test_sources_of_all_kinds_have_addresses(bucket: str, tmp_path: Path) -> None:
    store = Store.at(bucket)
    for name in ("b.tsv", "a.tsv", "c.txt", "more/d.tsv"):
        store.put(f"parts/{name}", name.encode())
    for name in ("book.xlsx", "saved/train/rows.arrow"):
        store.put(name, name.encode())
    source = Source.of([f"{bucket}/parts/*.tsv", f"{bucket}/book.xlsx:sheet", f"{bucket}/saved:train"])
    assert source.starting_from(tmp_path) == source and source.without_folders() == source
    first, second, third, fourth = source.parts()
    assert [part.path.name for part in (first, second, third)] == ["a.tsv", "b.tsv", "book.xlsx"]  # type: ignore[union-attr]
    assert third.within == "sheet" and fourth.path.is_dir() and fourth.within == "train"  # type: ignore[union-attr]
    assert source.name == "*.tsv, book.xlsx:sheet, saved:train"
    assert source.is_here() and source.has_address and not Source.of(SAMPLE / "train.tsv").has_address
    assert source.files() == [] and not Source.of(f"{bucket}/nothing.tsv").is_here()
    assert matching(f"{bucket}/*/*/d.tsv") == [f"{bucket}/parts/more/d.tsv"]
    with pytest.raises(InputError, match="no object matches this pattern"):
        Source.of(f"{bucket}/parts/*.csv").parts()


def put_sample(bucket: str) -> None:
    for split in ("train", "test"):
        Store.at(bucket).upload(SAMPLE / f"{split}.tsv", f"{split}.tsv")


@pytest.fixture
def study(bucket: str) -> StudyConfig:
    put_sample(bucket)
    given = [f"data.train={bucket}/train.tsv", f"data.test={bucket}/test.tsv"]
    return load_study(ROOT / "search_spaces" / "quickstart.yaml", given)


def test_a_study_names_an_address(study: StudyConfig, bucket: str, tmp_path: Path, cache: Path) -> None:
    local = load_study(ROOT / "search_spaces" / "quickstart.yaml")
    assert study.data.train.entries == (f"{bucket}/train.tsv",)
    assert study.data.train.digest() == local.data.train.digest()
    here, there = (
        task_class(each.task)(each.train_config(each.example_values()), cache=cache) for each in (study, local)
    )
    assert len(here.train) == len(there.train) and (here.train.labels == there.train.labels).all()
    assert not is_here(study) and files_of(study) == []

    store = Store.at(f"file://{tmp_path}/sweeps")
    inputs = Inputs.put(store, study.sources.values(), [])
    assert {name.rpartition("/")[2] for name in store.objects()} == {"train.tsv", "test.tsv"}
    found = inputs.config_here(study.train_config(study.example_values()), tmp_path / "node")
    assert found.data.train.entries[0].startswith(str(tmp_path / "node"))

    write_provenance(tmp_path, study)
    refuse_changed_addresses(tmp_path, study)
    Store.at(bucket).upload(SAMPLE / "test.tsv", "train.tsv")
    fetched.cache_clear()
    with pytest.raises(InputError, match=r"`data\.train`: .train\.tsv. has another content"):
        refuse_changed_addresses(tmp_path, study)


def test_a_command_reads_an_address(bucket: str, tmp_path: Path) -> None:
    put_sample(bucket)
    (tmp_path / "study.yaml").write_text((ROOT / "search_spaces" / "quickstart.yaml").read_text(), encoding="utf-8")
    options = ("--study", ROOT / "search_spaces" / "quickstart.yaml", "--json")
    found = [
        json.loads(tune_here("describe", place, *options, cwd=tmp_path).stdout)
        for place in (f"{bucket}/test.tsv", SAMPLE / "test.tsv")
    ]
    assert found[0] == found[1]
    refused = tune_here("describe", f"{bucket}/tset.tsv", *options, cwd=tmp_path, code=2).stderr
    assert refused.startswith(f"error: {bucket}/tset.tsv: there is no such object") and refused.count("\n") == 1


def test_an_address_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    study = ("--study", ROOT / "search_spaces" / "quickstart.yaml")
    for place in (f"file://{tmp_path}/file/x/y.tsv", f"file://{tmp_path}/typo/x.tsv"):
        refused = tune_here("describe", place, *study, cwd=tmp_path, code=2).stderr
        assert refused.startswith(f"error: {place}: there is no such object") and refused.count("\n") == 1
    assert not (tmp_path / "typo").exists()


def test_an_encoder_has_an_address(bucket: str, tmp_path: Path) -> None:
    folder = make_encoder("bert", tmp_path / "encoder")
    for file in folder.iterdir():
        Store.at(bucket).upload(file, f"encoder/{file.name}")
    weights = []
    for backbone in (str(folder), f"{bucket}/encoder/"):
        config = tiny_config(
            model={"init": "pretrained", "backbone": backbone, "tokenizer_vocab_size": None, "config": {}}
        )
        encoder = load_encoder(config.model, load_tokenizer(backbone), longest=32)
        weights.append(encoder.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    store = Store.at(f"file://{tmp_path}/sweeps")
    inputs = Inputs.put(store, [], [f"{bucket}/encoder/", "klue/bert-base"])
    assert (Path(inputs.here(f"{bucket}/encoder/", tmp_path / "node")) / "config.json").is_file()
    assert inputs.here("klue/bert-base", tmp_path / "node") == "klue/bert-base"
