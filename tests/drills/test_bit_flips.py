"""Drill 7: a bit flips in a file of a sweep, and whoever uses the file gets what was written, or one clear line.

What only people read has no checksum: the logs of trials, `environment.txt` and the model card. The table for people,
`trials.csv`, is read by nothing and written anew from the ledger.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kobert_core.checkpoint import load_state, load_weights, newest_checkpoint
from kobert_core.data.cache import Arrays, cached_arrays
from kobert_core.errors import InputError
from kobert_core.io.checksums import sha256_file
from kobert_core.pretrained import load_pretrained
from tests.drills.conftest import Drill
from tests.fixtures.sweeps import start_sweep
from tuning.search.optuna_study import open_optuna_study, refuse_other_search
from tuning.study import load_study
from tuning.sweep.export import export_model
from tuning.sweep_dir.confirm_runs import confirmed_models
from tuning.sweep_dir.layout import TABLE
from tuning.sweep_dir.provenance import refuse_other_provenance
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.test_set_log import read_log
from tuning.sweep_dir.trial_table import TrialTable, read_winner
from tuning.tracking.spool import Spool, record_of
from tuning.tracking.tracker import _make_sender

FLIPS = 200
SETTINGS = ("--set", "train.epochs=1", "--set", "train.eval_percent=50", "--set", "confirm={top: 1, seeds: 2}")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small finished sweep, `one`, and its cache."""
    output = tmp_path_factory.mktemp("sweeps")
    assert start_sweep(output, "one", "--trials", 2, *SETTINGS).wait(500) == 0, (output / "one.out").read_text()
    return output


def study_of(output: Path) -> Any:
    return load_sweep_study(output / "one").resolved()


def trials_of(output: Path) -> Any:
    return [asdict(record) for record in TrialTable(output / "one", load_sweep_study(output / "one").objective)]


def table_of(output: Path) -> Any:
    TrialTable(output / "one", load_sweep_study(output / "one").objective).write()
    return (output / "one" / TABLE).read_text()


def winner_of(output: Path) -> Any:
    return read_winner(output / "one")


def search_of(output: Path) -> Any:
    study = load_sweep_study(output / "one")
    how: dict[str, Any] = {"name": "one", "search": study.search, "resume": True, "ledger": None}
    refuse_other_search(output / "one", **how)
    found = open_optuna_study(output / "one", objective=study.objective, **how).get_trials()
    return [(t.number, t.state, t.params, t.values, t.intermediate_values, t.datetime_start) for t in found]


def reports_of(output: Path) -> Any:
    """All that is in the spool, with None for what would be set aside as no record; and how many are to be sent."""
    spool = Spool(output / "one" / "tracking.jsonl")
    try:
        lines, offset = [], 0
        while offset < spool._end:
            some = spool.read(offset, spool._end)
            lines += [record_of(line) for _, line in some]
            offset = some[-1][0]
        return lines, _make_sender(spool, f"sqlite:///{ORIGINAL[0]}/mlflow.db").left
    finally:
        spool.close()


def ground_under(output: Path) -> Any:
    return refuse_other_provenance(output / "one", load_sweep_study(output / "one"))


def readings_of(output: Path) -> Any:
    return read_log(output / "one")


def checkpoint_of(output: Path) -> Any:
    """Weights and state of the newest whole checkpoint of the first trial, as text; None when there is none."""
    folder = newest_checkpoint(output / "one" / "trials" / "0000" / "checkpoints")
    return folder and {name: str(value) for name, value in (load_weights(folder) | load_state(folder)).items()}


def model_of(output: Path) -> Any:
    loaded = load_pretrained(output / "one" / "model")
    weights = {name: tensor.tolist() for name, tensor in loaded.model.state_dict().items()}
    return weights, loaded.task.config.model_dump(mode="json"), loaded.task.tokenizer.encode("지루할 틈이 없었다")


def confirmed_models_of(output: Path) -> Any:
    models = confirmed_models(output / "one")
    assert models
    return [
        {name: tensor.tolist() for name, tensor in load_pretrained(model).model.state_dict().items()}
        for model in models
    ]


def export_of(output: Path) -> Any:
    exported = output / "exported"
    table = TrialTable(output / "one", load_sweep_study(output / "one").objective)
    export_model(output / "one", load_sweep_study(output / "one"), table[0], exported)
    return {file.name: sha256_file(file) for file in sorted(exported.iterdir())}


def features_of(output: Path) -> Any:
    """Every entry of the cache, as its user gets it."""
    found = {}
    for entry, (key, arrays) in CACHED.items():
        got = cached_arrays(output / "cache", key, lambda arrays=arrays: arrays)
        found[entry] = {name: (array.dtype.str, array.tolist()) for name, array in got.items()}
    return found


CACHED: dict[str, tuple[dict[str, object], Arrays]] = {}
ORIGINAL: list[Path] = []
KINDS: dict[str, Callable[[Path], Any]] = {
    "one/study.yaml": study_of,
    "one/trials.json": trials_of,
    "one/trials.csv": table_of,
    "one/winner.json": winner_of,
    "one/ground.json": ground_under,
    "one/optuna_journal.log": search_of,
    "one/optuna_journal.log.sha256": search_of,
    "one/tracking.jsonl": reports_of,
    "one/tracking.jsonl.state.json": reports_of,
    "one/test_readings.jsonl": readings_of,
    "one/trials/0000/checkpoints/*/model.safetensors": checkpoint_of,
    "one/trials/0000/checkpoints/*/optimizer.pt": checkpoint_of,
    "one/trials/0000/checkpoints/*/state.pt": checkpoint_of,
    "one/trials/0000/checkpoints/*/SHA256SUMS": checkpoint_of,
    "one/trials/0000/model/*": export_of,
    "one/model/model.safetensors": model_of,
    "one/model/*[!d]": model_of,
    "one/confirm/runs.json": confirmed_models_of,
    "one/confirm/trials/*/model/model.safetensors": confirmed_models_of,
    "cache/*/*.npy": features_of,
    "cache/*/key.json": features_of,
    "cache/*/SHA256SUMS": features_of,
}
"""Kinds of files, and what their users read."""
NOT_COVERED = ("README.md", "test_readings.jsonl")
"""Of an exported model: for people, and grows."""


def is_right(kind: str, got: Any, expected: Any) -> bool:
    """Whether a reader got what was written, or less and knows it."""
    if kind.startswith("one/tracking.jsonl"):
        (lines, left), (all_lines, nothing) = got, expected
        damaged = [line for line in lines if line is None]
        whole = [line for line in lines if line is not None]
        told = len(damaged) <= 1 and all(line in all_lines for line in whole) and len(whole) >= len(all_lines) - 2
        return told and (left == nothing or left == len(lines))  # sent again: MLflow holds equal rows once
    if "checkpoints" in kind:
        return got is None or got == expected  # the one before is used, or the trial begins anew
    return bool(got == expected)


@pytest.fixture
def expected(output: Path, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What each kind's user gets of the sweep as it was written."""
    ORIGINAL.append(output)
    for entry in (output / "cache").iterdir():
        arrays = {file.stem: np.load(file) for file in entry.glob("*.npy")}
        CACHED[entry.name] = (json.loads((entry / "key.json").read_text()), arrays)
    assert len(CACHED) >= 4
    shutil.copytree(output, tmp_path / "whole", ignore=shutil.ignore_patterns("mlflow.db*"))
    yield {
        kind: use(tmp_path / "whole") for kind, use in KINDS.items() if not kind.startswith("one/trials/0000/model")
    } | {"one/trials/0000/model/*": export_of(tmp_path / "whole")}
    CACHED.clear()
    ORIGINAL.clear()


def flip(path: Path, generator: random.Random) -> str:
    content = bytearray(path.read_bytes())
    at, bit = generator.randrange(len(content)), generator.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name}, bit {bit} of byte {at}"


@pytest.mark.slow
def test_bit_flips(drill: Drill, output: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
    """7. A bit flips in a file of a sweep: what was written, or one line"""
    generator, wrong, ends = random.Random(7), [], Counter[tuple[str, str]]()
    for number in range(FLIPS):
        kind = list(KINDS)[number % len(KINDS)]
        copy = tmp_path / f"{number}"
        shutil.copytree(output, copy, ignore=shutil.ignore_patterns("mlflow.db*"))
        files = [file for file in sorted(copy.glob(kind)) if file.name not in NOT_COVERED or "model" not in kind]
        where = flip(generator.choice(files), generator)
        try:
            right = is_right(kind, KINDS[kind](copy), expected[kind])
            ends[kind, "as it was" if right else "WRONG"] += 1
        except InputError as error:
            right = "\n" not in str(error)
            ends[kind, "refused"] += 1
        except Exception as error:
            right, where = False, f"{where}: {type(error).__name__}: {error}"
            ends[kind, type(error).__name__] += 1
        if not right:
            wrong.append(f"{kind} ({where})")
        shutil.rmtree(copy)
    for (kind, end), count in sorted(ends.items()):
        print(f"{kind:50} {end:10} {count}")
    assert not wrong, wrong
    drill.lost("flipped bits gave a wrong value, or another error", len(wrong), of=FLIPS)


def test_a_study_that_was_altered_in_a_sweep_is_not_taken_for_its_own(tmp_path: Path) -> None:
    from tests.fixtures.sweeps import QUICKSTART
    from tuning.study import dump_study

    dump_study(load_study(QUICKSTART), tmp_path / "study.yaml")
    assert load_sweep_study(tmp_path) == load_study(QUICKSTART)
    text = (tmp_path / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(text.replace("max_length: 48", "max_length: 40"))
    with pytest.raises(InputError, match="its SHA-256 is not the one written"):
        load_sweep_study(tmp_path)
    assert load_study(tmp_path / "study.yaml").data.max_length == 40, "a copy is an ordinary study file"
