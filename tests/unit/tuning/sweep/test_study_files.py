"""The studies that come with the package say what they need, and where it goes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from tests.fixtures.commands import ROOT
from tuning.study import load_study
from tuning.sweep.preflight import prepare
from tuning.sweep.train_local import train_once

STUDIES = sorted((ROOT / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_study_without_its_data_says_what_to_put_where(file: Path, tmp_path: Path) -> None:
    """It is copied to where nothing of it is; all files are named in the comment at its head."""
    text = file.read_text(encoding="utf-8")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    copy = tmp_path / "deep" / "er" / file.name
    copy.write_text(text, encoding="utf-8")
    study = load_study(copy)
    with pytest.raises(InputError) as sweep:
        prepare(study, tmp_path / "sweeps" / "one")
    with pytest.raises(InputError) as train:
        train_once(study, say=lambda line: None, cache=tmp_path / "cache")
    assert str(sweep.value) == str(train.value)
    (path,) = study.data.train.local_paths()
    assert str(sweep.value).startswith(f"{path}: the file cannot be read (No such file or directory)")
    assert "set `data.train`, whose relative paths start from the study file's folder" in str(sweep.value)
    if file.stem != "quickstart":
        address = re.search(r"https://[\w./]+\w", str(sweep.value))
        head = text.partition("schema_version")[0]
        assert address and address[0] in head and path.name in head.replace("\n# ", " ")
        assert path.parent.name in head, "the folder"


def test_the_quickstart_gets_the_pieces_that_it_asks_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quickstart = ROOT / "search_spaces" / "quickstart.yaml"
    task = prepare(load_study(quickstart), tmp_path / "sweeps" / "one").task
    assert len(task.tokenizer) == 1024 and not caplog.records
    task = prepare(load_study(quickstart, ["model.tokenizer_vocab_size=1200"]), tmp_path / "sweeps" / "one").task
    assert [record.getMessage() for record in caplog.records] == [
        "the training texts give a tokenizer of 1,024 pieces, not of `tokenizer_vocab_size: 1200`"
    ]
