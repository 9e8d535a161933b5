"""Opening the folder of a sweep, new or to be resumed, for the one process that may write in it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from kobert_core.errors import InputError
from tuning.study import StudyConfig, dump_study
from tuning.sweep_dir.layout import EARLIER, JOURNAL, LEDGER, PROVENANCE, SCRATCH, STUDY, SUM, TRIALS
from tuning.sweep_dir.lock import goes_on, sweep_lock
from tuning.sweep_dir.provenance import refuse_other_provenance
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.test_set_log import read_log
from tuning.sweep_dir.trial_table import TrialTable


@contextmanager
def open_sweep_dir(
    study: StudyConfig, folder: Path, *, resume: bool, say: Callable[[str], object] = print
) -> Iterator[bool]:
    """Make the folder of a sweep, or open the one that is there, and lock it; yields whether it was there.

    `say` is told of harmless changes since the sweep began. The lock file is not empty while a sweep runs: a killed
    sweep leaves it so, and continues without `resume`.

    Raises:
        InputError: the name is in use, another process holds the lock, or the study, its data or its models have
            changed since the sweep began.
    """
    used = (folder / STUDY).exists()
    if resume and not used:
        raise nothing_to_resume(folder)
    with locked_folder(folder) as lock:
        lock.seek(0)
        if used and not resume and not lock.read():
            raise name_in_use(folder)
        if used:
            refuse_other_study(load_sweep_study(folder), study, folder)
            if len(TrialTable.of(folder, study)):
                for note in refuse_other_provenance(folder, study):
                    say(note)
            else:  # no trial depends on it yet
                (folder / PROVENANCE).unlink(missing_ok=True)
            read_log(folder)  # a damaged file is an error now, not after the last trial
        print(f"running {os.getpid()} on {socket.gethostname()}", file=lock, flush=True)
        remove_leftovers(folder)
        dump_study(study, folder / STUDY)
        try:
            yield used
        except (InputError, KeyboardInterrupt):
            lock.truncate(0)
            raise
        else:
            lock.truncate(0)
        finally:
            if not (folder / LEDGER).exists():  # the name stays free
                forget_beginnings(folder)


@contextmanager
def locked_folder(folder: Path) -> Iterator[TextIO]:
    """Make the folder of a sweep, or take the one that is there, and lock it as `sweep_lock` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "give another `--output`"
        raise InputError(f"the folder cannot be made ({error.strerror})", where=folder, fix=fix) from error
    with sweep_lock(folder) as lock:
        yield lock


def refuse_used(folder: Path) -> None:
    """Refuse what `open_sweep_dir` refuses without `resume`, before anything starts.

    Raises:
        InputError: a sweep has ended in the folder.
    """
    if (folder / STUDY).exists() and not goes_on(folder):
        raise name_in_use(folder)


def nothing_to_resume(folder: Path) -> InputError:
    """The error of `--resume` where no sweep is."""
    return InputError("there is no sweep to go on with", where=folder, fix="check `--name` and `--output`")


def name_in_use(folder: Path) -> InputError:
    """The error of a new sweep in the folder of one that has ended."""
    return InputError(
        f"the sweep name `{folder.name}` is in use", where=folder, fix="give another `--name`, or `--resume`"
    )


def forget_beginnings(folder: Path) -> None:
    """Remove the files of a sweep without any trial: another study may use its name."""
    for name in (STUDY, PROVENANCE, EARLIER, JOURNAL, f"{JOURNAL}{SUM}"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TRIALS, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files of a killed driver, and Ray's own files, which Ray must not read again."""
    for path in [folder / SCRATCH, *folder.glob(".*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def refuse_other_study(before: StudyConfig, now: StudyConfig, folder: Path) -> None:
    """A resumed sweep may have another budget, tracking, and other resources except for the number of workers. Its
    files may have moved: `refuse_other_provenance` checks their content, and `refuse_other_search` the Optuna storage.

    Everything else decides what a trial is: trials before and after would not compare.
    """
    free: dict[str, Any] = dict.fromkeys(
        ("budget", "confirm", "resources", "tracking", "keep_checkpoints", "name", "storage"), True
    )
    guards = {"max_unknown_rate", "max_leak", "min_labels"}  # they stop a sweep before it begins
    free |= {"search": {"storage"}, "data": {"test", *guards}}
    if (folder / PROVENANCE).is_file():
        free |= {
            "data": {"train", "dev", "test", *guards},
            "model": {"backbone", "tokenizer", "revision"},
            "distill": {"soft_labels"},
        }
    old, new = (
        study.model_dump(mode="json", exclude=free) | {"resources.workers": study.resources.workers}
        for study in (before, now)
    )
    changed = [key for key in old if old[key] != new[key]]
    if changed:
        key = {"space": "parameters", "further": "objective"}.get(changed[0], changed[0])
        raise InputError(
            f"`{key}` is not what this sweep began with",
            where=folder / STUDY,
            fix="resume it with the same study file and the same `--set`, or give another `--name`",
        )
