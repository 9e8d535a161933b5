"""The disk space that the nodes of a sweep in an object store need, each on a disk of its own; and what nodes that join
mean for the disks of any sweep."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize

from kobert_core.errors import InputError
from kobert_core.io.remote import here_or_none
from tuning.cluster.ray_cluster import on_nodes
from tuning.storage.node import node_folder
from tuning.study import ResourcesConfig, StudyConfig
from tuning.study.encoders import encoders_of
from tuning.sweep.disk import DiskNeeds, bytes_in

EACH_RUNNING = 6
"""Checkpoints of a trial on the node that it runs on: four as in a folder, and two that are on their way."""
FILES_TWICE = 2
"""Data files and encoders lie there as they are, and as the features and weights that are made of them."""


@dataclass(frozen=True)
class NodeDisk:
    """The disk of a node, in bytes."""

    folder: str
    """Where the node writes."""
    free: int
    """With what it has of data and encoders already."""
    one: int
    """What it needs for one trial."""
    all: int
    """And for as many as can run there at once."""

    @property
    def problem(self) -> str | None:
        """What is wrong with it, in a line; None where there is room."""
        if self.free >= self.all:
            return None
        who, bytes_needed = ("its trials take", self.all) if self.free >= self.one else ("a trial takes", self.one)
        needed, free = (ByteSize(size).human_readable() for size in (bytes_needed, self.free))
        return f"{who} up to {needed} in {self.folder}, but {free} are free; let TMPDIR be on a larger disk"


def needs_of(study: StudyConfig, checkpoint: int) -> tuple[int, int]:
    """What each node needs for data and encoders, and for a trial that runs there, in bytes.

    Args:
        study: Of the sweep; its files are here.
        checkpoint: The bytes of the largest checkpoint.
    """
    files = [path for source in study.sources.values() for path in source.local_paths()]
    encoders = {source for encoder in encoders_of(study) for source in encoder.sources.values()}
    folders = [folder for source in sorted(encoders) if (folder := here_or_none(source)) is not None]
    size = sum(bytes_in(path) if path.is_dir() else path.stat().st_size for path in [*files, *folders])
    return FILES_TWICE * size, EACH_RUNNING * checkpoint


def disk_here(inputs: int, trial: int, resources: ResourcesConfig) -> NodeDisk:
    """On a node of a cluster: its disk.

    Args:
        inputs, trial: As from `needs_of`.
        resources: Of a trial.
    """
    import ray

    node = ray.get_runtime_context().get_node_id()
    (has,) = [each["Resources"] for each in ray.nodes() if each["NodeID"] == node]
    asked = {"CPU": float(resources.cpus_per_worker), "GPU": float(resources.gpus_per_worker)}
    fitting = [int(has.get(kind, 0.0) / amount + 1e-9) for kind, amount in asked.items() if amount]
    return disk_for(inputs, trial, at_once=min(fitting))


def disk_for(inputs: int, trial: int, *, at_once: int) -> NodeDisk:
    """The disk of this machine, on which so many trials run at once."""
    folder = node_folder()
    free = shutil.disk_usage(folder).free + min(inputs, bytes_in(folder / "inputs"))
    if not at_once:  # nothing of a trial comes here
        return NodeDisk(str(folder), free, 0, 0)
    return NodeDisk(str(folder), free, inputs + trial, inputs + at_once * trial)


def disks_of_nodes(
    study: StudyConfig, checkpoint: int, nodes: Collection[str] | None = None
) -> Mapping[str, NodeDisk | RuntimeError]:
    """The disks of nodes of the cluster that this process has joined, by their addresses; why a node cannot say.

    Args:
        study, checkpoint: As for `needs_of`.
        nodes: Their ids; None for all.
    """
    return on_nodes(nodes, disk_here, *needs_of(study, checkpoint), study.resources)


def check_nodes(study: StudyConfig, checkpoint: int) -> list[str]:
    """Look whether each node has room before trials start there.

    Returns:
        A line for each that has too little for all of its trials.

    Raises:
        InputError: a node has too little for one.
    """
    disks = disks_of_nodes(study, checkpoint)
    for node, disk in disks.items():
        if isinstance(disk, NodeDisk) and disk.problem and disk.free < disk.one:
            raise InputError(disk.problem, where=f"node {node}")
    return problems_in(disks)


def problems_in(disks: Mapping[str, NodeDisk | RuntimeError]) -> list[str]:
    """A line for each disk with too little room; a node that cannot say is leaving, and needs none."""
    known = {node: disk for node, disk in disks.items() if isinstance(disk, NodeDisk)}
    return [f"node {node}: {disk.problem}" for node, disk in known.items() if disk.problem]


class DiskWatch:
    """Looks at the disks again when nodes join, and warns in a line where there is too little room."""

    def __init__(
        self, study: StudyConfig, checkpoint: int, folder: Path, *, running: int, say: Callable[[str], object]
    ) -> None:
        """For a sweep whose disks have been checked.

        Args:
            study: Of the sweep.
            checkpoint: The bytes of the largest checkpoint.
            folder: Of the sweep; where its home is no object store, all trials write there.
            running: With so many trials at once it has been checked.
            say: Is called with a line.
        """
        self._study, self._checkpoint, self._folder, self._say = study, checkpoint, folder, say
        self._running = running

    def __call__(self, nodes: Collection[str], running: int) -> None:
        """Nodes with these ids have joined: so many trials can run at once now."""
        for problem in self._problems(nodes, running):
            self._say(f"warning: {problem}")

    def _problems(self, nodes: Collection[str], running: int) -> list[str]:
        if self._study.home is not None:
            return problems_in(disks_of_nodes(self._study, self._checkpoint, nodes))
        if running <= self._running:
            return []
        self._running = running
        try:
            DiskNeeds.of(self._study, self._checkpoint, running=running).check(self._folder)
        except InputError as error:
            return [str(error)]
        return []
