"""Whether all machines of a cluster see the same folder and files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from kobert_core.errors import InputError
from tuning.cluster.ray_cluster import on_every_node
from tuning.sweep_dir.layout import SHARED


def check_shared(folder: Path, files: Sequence[Path]) -> None:
    """Write in the folder here, read and write on every machine, read here again; look for the files everywhere.

    Args:
        folder: Exists here.
        files: Files and folders that are read on all machines.

    Raises:
        InputError: a machine does not see the folder or a file as this one does.
    """
    problems = storage_problems(folder, files)
    if problems:
        raise InputError(
            f"the cluster has several machines, and {problems[0]}",
            where=folder,
            fix="put data, models and `--output` on storage that all machines have under the same path",
        )


def storage_problems(folder: Path, files: Sequence[Path]) -> list[str]:
    """One line for each machine and each file or folder that it does not share; empty when all is shared."""
    token = folder / f"{SHARED}{uuid.uuid4().hex}"
    sizes = {str(path): path.stat().st_size for path in files if path.is_file()}
    try:
        token.write_text(token.name, encoding="utf-8")
        found = on_every_node(answer, str(token), sizes)
        problems = []
        for node, said in found.items():
            if isinstance(said, Exception):
                problems.append(f"machine {node} cannot be asked ({said})")
                continue
            answered = token.with_name(f"{token.name}-{said['name']}")
            if said["problem"] or not answered.is_file():
                reason = said["problem"] or "what it writes there does not arrive here"
                problems.append(f"machine {node} does not share {folder} ({reason})")
            problems += [f"machine {node} does not have {path} as it is here" for path in said["missing"]]
        return problems
    finally:
        for path in folder.glob(f"{token.name}*"):
            path.unlink()


class Answer(TypedDict):
    """The answer of a machine."""

    name: str
    problem: str | None
    missing: list[str]


def answer(token: str, sizes: dict[str, int]) -> Answer:
    """On a machine: read the token, write an answer beside it, look for files of these sizes."""
    name, problem = uuid.uuid4().hex, None
    try:
        with open(token, encoding="utf-8") as file:
            if file.read() != os.path.basename(token):
                problem = "it reads something else there"
        with open(f"{token}-{name}", "w", encoding="utf-8") as file:
            file.write(name)
    except OSError as error:
        problem = error.strerror or str(error)
    missing = [path for path, size in sizes.items() if not os.path.isfile(path) or os.path.getsize(path) != size]
    return {"name": name, "problem": problem, "missing": missing}
