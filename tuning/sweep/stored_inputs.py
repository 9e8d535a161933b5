"""Puts into an object store what a study names, where workers that share no disk with the driver find it."""

from __future__ import annotations

from pathlib import Path

from tuning.storage.inputs import Inputs, put_input
from tuning.storage.node import StoredSweep
from tuning.storage.store import Store
from tuning.study import StudyConfig
from tuning.study.encoders import encoders_of
from tuning.sweep_dir.layout import STUDY

INPUTS = ".inputs"
"""Beside the sweeps of a store: what their studies name."""


def put_in_store(study: StudyConfig, folder: Path, store: Store, inputs: Store) -> StoredSweep:
    """Put the files that a study names into a store, those that are not there yet.

    Args:
        study: Of the sweep.
        folder: Of the sweep on this machine; it has the study's file.
        store: Of the sweep.
        inputs: Of what the studies of all sweeps name.

    Raises:
        InputError: a file cannot be read, or the store refuses it.
    """
    encoders = (path for encoder in encoders_of(study) for path in encoder.sources.values())
    return StoredSweep(
        store,
        str(folder),
        put_input(inputs, folder / STUDY),
        Inputs.put(inputs, study.sources.values(), encoders),
    )
