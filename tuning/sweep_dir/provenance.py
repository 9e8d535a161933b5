"""What the trials of a sweep depend on besides its study: the content of files, the version of this code's numbers, and
libraries. A sweep writes it when it begins; when it is resumed, what decides a trial's numbers must be the same.
"""

from __future__ import annotations

import json
from importlib.metadata import distributions
from pathlib import Path
from typing import TypedDict, cast

from kobert_core.config import NUMBERS
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_json
from kobert_core.io.checksums import file_digest, sealed, unsealed
from kobert_core.io.remote import here_or_none, is_address
from search_spaces.validation import show
from tuning.study import StudyConfig
from tuning.study.encoders import encoders_of
from tuning.sweep_dir.layout import PROVENANCE

LIBRARIES = ("kobert-tuning", "torch", "transformers", "sentencepiece", "numpy", "optuna", "ray")
READ_OF_A_MODEL = (".json", ".safetensors", ".bin", ".model", ".txt")
"""Suffixes of the files of an encoder or tokenizer that count. Others, such as a model card, may change."""

Hashes = dict[str, str]
"""SHA-256 of files, by their names; of a model on the hub its commit, by the model's name."""


class Provenance(TypedDict):
    """The content of the file."""

    numbers: int
    files: dict[str, Hashes]
    test: Hashes
    libraries: dict[str, str]


def write_provenance(folder: Path, study: StudyConfig) -> None:
    """Write what a sweep depends on, unless that was done when it began."""
    if (folder / PROVENANCE).is_file():
        return
    ground = {"numbers": NUMBERS, "files": files_under(study), "test": test_file_of(study), "libraries": libraries()}
    atomic_write_json(folder / PROVENANCE, sealed(ground))


def refuse_other_provenance(
    folder: Path, study: StudyConfig, *, instead: str = ", or give another `--name`"
) -> list[str]:
    """Compare what a sweep began with to what it would continue with. Returns notes on harmless changes.

    Args:
        folder: Of the sweep.
        study: What it would go on with.
        instead: The end of a line that refuses a change: what else can be done than to undo it.

    Raises:
        InputError: trials before and after would not compare.
    """
    if not (folder / PROVENANCE).is_file():
        return [
            f"an older version began this sweep and wrote no {PROVENANCE}: whether its data and models have changed "
            "since cannot be said; it is written now"
        ]
    before = read_provenance(folder / PROVENANCE)
    if before["numbers"] != NUMBERS:
        raise InputError(
            "this version of kobert-tuning comes to other numbers than the one that began this sweep "
            f"({before['libraries'].get('kobert-tuning', 'unknown')}): trials before and after would not compare",
            where=folder,
            fix=f"go on with that version{instead}",
        )
    files = files_under(study)
    for key in sorted(before["files"].keys() | files.keys()):
        _refuse_other_files(key, before["files"].get(key, {}), files.get(key, {}), study, instead)
    notes = []
    if before["test"] and before["test"] != test_file_of(study):
        notes.append("the test file is not the one that this sweep began with: the winner is tested on the present one")
    if changed := changed_libraries(folder):
        notes.append(f"this sweep began with {'; '.join(changed)}: numbers may differ in their last places")
    return notes


def digest_of(folder: Path, key: str, source: Source) -> str:
    """The SHA-256 of a source of a sweep's study, such as `data.train`, when the sweep began; where nothing says it,
    the present one.

    Raises:
        InputError: nothing says it, and the source is not here.
    """
    if (folder / PROVENANCE).is_file():
        for digest in read_provenance(folder / PROVENANCE)["files"].get(key, {}).values():
            return digest
    return source.digest()


def refuse_changed_addresses(folder: Path, study: StudyConfig) -> None:
    """On a worker: refuse what is in an object store and not what the sweep began with. The driver has looked, but this
    machine may have fetched it later.

    Raises:
        InputError: something there has changed.
    """
    sources = [source.has_address for source in study.sources.values()]
    models = [is_address(source) for source, _ in sources_of(study).values()]
    if any([*sources, *models]) and (folder / PROVENANCE).is_file():
        refuse_other_provenance(folder, study)


def changed_libraries(folder: Path) -> list[str]:
    """The libraries that have another version than when a sweep began: `torch 2.8.0, now 2.9.0`."""
    then, now = read_provenance(folder / PROVENANCE)["libraries"], libraries()
    return [
        f"{name} {version}, now {now.get(name, 'none')}" for name, version in then.items() if version != now.get(name)
    ]


def files_under(study: StudyConfig) -> dict[str, Hashes]:
    """The hashes of what a study's trials depend on, by the study's keys; their place does not matter.

    Raises:
        InputError: a file cannot be read, or a model is neither here nor on the hub.
    """
    files = {key: source for key, source in study.sources.items() if key != "data.test"}
    models = sources_of(study)
    return {key: {source.name: source.digest()} for key, source in files.items()} | {
        key: _hashes_of_model(source, revision) for key, (source, revision) in models.items()
    }


def sources_of(study: StudyConfig) -> dict[str, tuple[str, str | None]]:
    """The encoders and tokenizers of a study with their revisions, by its keys; a searched one has its name beside."""
    return {
        f"model.{field}{f' of {encoder.name}' if encoder.is_searched else ''}": (source, encoder.revision)
        for encoder in encoders_of(study)
        for field, source in encoder.sources.items()
    }


def test_file_of(study: StudyConfig) -> Hashes:
    """The hash of the test file, which no trial depends on."""
    return {study.data.test.name: study.data.test.digest()} if study.data.test else {}


def libraries() -> dict[str, str]:
    """The versions of libraries that the last digits of numbers depend on."""
    found = {each.metadata["Name"]: each.version for each in distributions()}
    return {name: found[name] for name in LIBRARIES if name in found}


def _hashes_of_model(source: str, revision: str | None) -> Hashes:
    folder = here_or_none(source)
    if folder is not None:
        return {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in READ_OF_A_MODEL}
    from kobert_core.tokenization.loading import find_folder

    return {source: find_folder(source, revision).name}  # the hub's client names a folder by its commit


def _refuse_other_files(key: str, before: Hashes, now: Hashes, study: StudyConfig, instead: str) -> None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) == now.get(name):
            continue
        if name not in now:
            how = "is missing, which was there"
        else:
            how = "has another content than" if name in before else "was not there"
        source = sources_of(study).get(key, (None,))[0]
        section, field = key.split(" ")[0].split(".")
        of_the_hub = key in ("model.backbone", "model.tokenizer") and "/" in name and name in before
        fix = f"set `model.revision: {before[name]}`" if of_the_hub else "put back what was there"
        raise InputError(
            f"`{key}`: {show(name)} {how} when this sweep began: trials before and after would not compare",
            where=source or getattr(getattr(study, section), field) or study.name,
            fix=f"{fix}{instead}",
        )


def read_provenance(path: Path) -> Provenance:
    """The content of the file.

    Raises:
        InputError: it is damaged.
    """
    broken = InputError("the file is damaged", where=path, fix="take a copy of it from a backup")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise broken from error
    ground = unsealed(content, where=path)
    try:
        ground["numbers"], dict(ground["files"]), dict(ground["test"]), dict(ground["libraries"])
    except (LookupError, TypeError, ValueError) as error:
        raise broken from error
    return cast(Provenance, ground)
