"""Who may write in the folder of a sweep, and when the same command goes on by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from tests.fixtures.commands import environment
from tests.fixtures.sweeps import QUICKSTART
from tuning.study import load_study
from tuning.sweep_dir.layout import LEDGER, SCRATCH
from tuning.sweep_dir.opening import STUDY, open_sweep_dir

STUDY_FILE = load_study(QUICKSTART)
DIES = """
import os, sys
from pathlib import Path
from tuning.study import load_study
from tuning.sweep_dir.opening import open_sweep_dir
with open_sweep_dir(load_study(Path(sys.argv[1])), Path(sys.argv[2]), resume=False):
    (Path(sys.argv[2]) / "trials.json").write_text("[]")
    os.kill(os.getpid(), 9)
"""


def run(folder: Path, *, resume: bool = False, error: BaseException | None = None) -> bool:
    with open_sweep_dir(STUDY_FILE, folder, resume=resume) as used:
        (folder / LEDGER).write_text("[]")
        if error:
            raise error
        return used


def killed(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, QUICKSTART, folder], env=environment(), check=False)


def test_a_sweep_that_ended_needs_resume(tmp_path: Path) -> None:
    assert not run(tmp_path / "one")
    with pytest.raises(InputError, match="the sweep name `one` is in use"):
        run(tmp_path / "one")
    assert run(tmp_path / "one", resume=True)
    with pytest.raises(InputError, match="there is no sweep to go on with"):
        run(tmp_path / "two", resume=True)


def test_one_that_was_killed_goes_on_by_the_same_command(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    killed(folder)
    (folder / SCRATCH).mkdir()
    (folder / ".trials.json.abc.tmp").write_text("[{")
    assert run(folder)
    assert not (folder / SCRATCH).exists() and not list(folder.glob("*.tmp"))
    with pytest.raises(InputError, match="is in use"):
        run(folder)


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [(RuntimeError("a bug"), True), (InputError("bad"), False), (KeyboardInterrupt(), False)],
    ids=str,
)
def test_what_a_user_ended_is_not_a_crash(tmp_path: Path, error: BaseException, goes_on: bool) -> None:
    with pytest.raises(type(error)):
        run(tmp_path / "one", error=error)
    if goes_on:
        assert run(tmp_path / "one")
    else:
        with pytest.raises(InputError, match="is in use"):
            run(tmp_path / "one")


def test_a_killed_sweep_does_not_go_on_with_another_study(tmp_path: Path) -> None:
    killed(tmp_path / "one")
    other = load_study(QUICKSTART, ["train.epochs=9"])
    began = pytest.raises(InputError, match="`train` is not what this sweep began with")
    with began, open_sweep_dir(other, tmp_path / "one", resume=False):
        pass
    assert run(tmp_path / "one"), "the refused one took nothing away"


def test_a_name_stays_free_when_nothing_began(tmp_path: Path) -> None:
    with pytest.raises(InputError), open_sweep_dir(STUDY_FILE, tmp_path / "one", resume=False):
        (tmp_path / "one" / "optuna_journal.log").touch()
        raise InputError("no cluster")
    assert not (tmp_path / "one" / STUDY).exists()
    assert not run(tmp_path / "one")


def test_the_second_process_is_refused(tmp_path: Path) -> None:
    with open_sweep_dir(STUDY_FILE, tmp_path / "one", resume=False):
        for resume in (False, True):
            with pytest.raises(InputError, match="another process runs this sweep"):
                run(tmp_path / "one", resume=resume)
