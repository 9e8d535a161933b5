"""Problems that would keep a sweep from running on a cluster, found before it is launched."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypedDict

from kobert_core.errors import InputError
from tuning.cluster.group_count import groups_that_fit, room_for_groups
from tuning.cluster.head import starts_here
from tuning.cluster.nodes import has_autoscaler
from tuning.cluster.ray_cluster import on_every_node, ray_cluster, set_environment
from tuning.cluster.shared_storage import storage_problems
from tuning.storage.check import check_store
from tuning.study import StudyConfig
from tuning.sweep.node_disk import disk_for, disks_of_nodes, needs_of
from tuning.sweep.preflight import check_study, files_of, this_machine, tracking_problem
from tuning.sweep_dir.layout import CACHE
from tuning.tracking import redact_uri
from tuning.tracking.databases import check_database

PACKAGES = ("kobert-tuning", "ray", "torch", "transformers", "optuna", "mlflow")
LITTLE_DISK = 10 * 2**30
MUCH_CLOCK_SKEW = 5.0
"""Seconds; with more, the times of trials in MLflow cannot be compared."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    level: Literal["ok", "warning", "wrong"]
    what: str


def examine(
    address: str | None, *, output: Path, tracking_uri: str, study: StudyConfig | None, home: str | None = None
) -> list[Finding]:
    """Look at this machine, or at all machines of a cluster.

    Args:
        address: Of a cluster, as for a sweep: where there is none, this machine alone is looked at.
        output: Where sweeps would be written.
        tracking_uri: Where MLflow would be.
        study: Whose trials must find room, and whose files must be there.
        home: The address in an object store that sweeps would live in.

    Raises:
        InputError: this is no address of an object store, there is no cluster at `address`, or no folder can be made at
            `output`.
    """
    missing = [path for path in (files_of(study) if study else []) if not path.is_file()]
    here = [Finding("wrong", f"{path} is not there, or is no file") for path in missing]
    checkpoint = None
    if study is not None and not missing:
        finding, checkpoint = model(study, output / CACHE)
        here.append(finding)
    if study is not None and study.search.storage:
        here.append(search_storage(study.search.storage))
    if home is not None:
        here += object_store(home)
    if starts_here(address):
        here += [*differences({"this machine": look(tracking_uri)}, tracking_uri), disk(output)]
        if study is not None and home is not None and checkpoint is not None:
            problem = disk_for(*needs_of(study, checkpoint), at_once=1).problem
            here += [Finding("wrong", problem)] if problem else []
        return [*here, room([this_machine()], study, may_grow=False)] if study else here
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"no folder can be made here ({error.strerror})", where=f"--output {output}") from error
    set_environment(address)
    with ray_cluster(address) as cluster:
        import ray

        findings = [*here, Finding("ok", f"Ray {ray.__version__} with {len(cluster)} machine(s)")]
        before = time.time()
        seen = on_every_node(look, tracking_uri)
        after = time.time()
        for node, said in seen.items():
            if isinstance(said, Exception):
                findings.append(
                    Finding("wrong", f"{node}: cannot be asked ({said}); is kobert-tuning installed there?")
                )
            elif not before - MUCH_CLOCK_SKEW < said["clock"] < after + MUCH_CLOCK_SKEW:
                findings.append(Finding("warning", f"{node}: its clock is {said['clock'] - after:+.0f} s off"))
        findings += differences({node: said for node, said in seen.items() if isinstance(said, dict)}, tracking_uri)
        if home is None:
            problems = storage_problems(output.resolve(), files_of(study) if study else [])
            findings += [Finding("wrong", problem) for problem in problems]
            if not problems:
                findings.append(Finding("ok", f"{output} is one folder on all machines"))
        else:
            for node, found in on_every_node(object_store, home).items():
                if isinstance(found, Exception):
                    findings.append(Finding("wrong", f"{node}: {found}"))
                else:
                    findings += [Finding(each.level, f"{node}: {each.what}") for each in found if each.level != "ok"]
        findings.append(disk(output))
        if study is not None and home is not None and checkpoint is not None:
            findings += nodes(study, checkpoint)
        if study is not None:
            findings.append(room(cluster, study))
    return findings


class Machine(TypedDict):
    """What a machine reports about itself."""

    versions: dict[str, str]
    gpus: list[str]
    free: int
    temporary: str
    clock: float
    mlflow: str | None


def look(tracking_uri: str) -> Machine:
    """On a machine: versions, devices, disk, clock, and whether MLflow answers."""
    import torch

    return {
        "versions": {"Python": platform.python_version()} | {name: version_of(name) for name in PACKAGES},
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "free": shutil.disk_usage(tempfile.gettempdir()).free,
        "temporary": tempfile.gettempdir(),
        "clock": time.time(),
        "mlflow": tracking_problem(tracking_uri),
    }


def version_of(package: str) -> str:
    """The installed version, or `none`; a submitted job brings kobert-tuning along without installing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def differences(seen: Mapping[str, Machine], tracking_uri: str) -> list[Finding]:
    """Compare the reports of the machines."""
    findings = []
    for package in ("Python", *PACKAGES):
        by_version: dict[str, list[str]] = {}
        for node, said in seen.items():
            by_version.setdefault(said["versions"][package], []).append(node)
        if len(by_version) > 1:
            told = "; ".join(f"{number} on {', '.join(nodes)}" for number, nodes in by_version.items())
            findings.append(Finding("wrong", f"{package} is not the same everywhere: {told}"))
        elif "none" in by_version:
            findings.append(Finding("warning", f"{package} is not installed"))
        elif by_version:
            findings.append(Finding("ok", f"{package} {next(iter(by_version))}"))
    for node, said in seen.items():
        gpus = ", ".join(said["gpus"]) or "no GPU"
        low = said["free"] < LITTLE_DISK
        free = f"{said['free'] / 2**30:.0f} GiB in {said['temporary']}"
        findings.append(Finding("warning" if low else "ok", f"{node}: {gpus}, {free}"))
        if said["mlflow"]:
            findings.append(Finding("wrong", f"{node}: {said['mlflow']}"))
    if not any(said["mlflow"] for said in seen.values()):
        findings.append(Finding("ok", f"MLflow: {redact_uri(tracking_uri)}"))
    return findings


def disk(output: Path) -> Finding:
    """How much room there is for checkpoints."""
    there = next(folder for folder in (output, *output.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    return Finding("warning" if free < LITTLE_DISK else "ok", f"{free / 2**30:.0f} GiB are free in {output}")


def model(study: StudyConfig, cache: Path) -> tuple[Finding, int | None]:
    """Whether the study's models can be built, and their weights are there; and the bytes of a checkpoint, if so."""
    try:
        checked = check_study(study, cache if cache.is_dir() else None)
        return Finding("ok", f"the model of `{study.name}` can be built"), checked.checkpoint
    except InputError as error:
        return Finding("wrong", str(error)), None


def nodes(study: StudyConfig, checkpoint: int) -> list[Finding]:
    """Whether each node has room for what a sweep in an object store keeps there."""
    findings = []
    for node, room in disks_of_nodes(study, checkpoint).items():
        if isinstance(room, RuntimeError):
            findings.append(Finding("wrong", f"{node}: {room}"))
        elif room.problem is not None:
            findings.append(Finding("wrong" if room.free < room.one else "warning", f"{node}: {room.problem}"))
    return findings


def search_storage(uri: str) -> Finding:
    """Whether the database answers that the search is kept in."""
    try:
        check_database(uri, where="search.storage")
        return Finding("ok", f"search.storage: {redact_uri(uri)}")
    except InputError as error:
        return Finding("wrong", str(error))


def object_store(home: str) -> list[Finding]:
    """What an object store lets this machine do."""
    return [Finding("ok" if check.ok else "wrong", check.what) for check in check_store(home)]


def room(cluster: list[dict[str, float]], study: StudyConfig, *, may_grow: bool = True) -> Finding:
    """Whether the cluster has room for the study's trials, and for how many at once."""
    resources = study.resources
    if may_grow and not room_for_groups(cluster, resources) and (resources.waits_for_machines or has_autoscaler()):
        return Finding("ok", f"a sweep of `{study.name}` waits for machines to join: there is no room for a trial yet")
    try:
        fitting = groups_that_fit(cluster, resources, may_grow=may_grow)
        return Finding("ok", f"{fitting} trial(s) of `{study.name}` run at once")
    except InputError as error:
        return Finding("wrong", str(error))
