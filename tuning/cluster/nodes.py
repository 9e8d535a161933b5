"""The nodes of the Ray cluster that this process has joined: those that are there, those that are about to leave, and
whether others may come."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

SECONDS_TO_TELL = 60.0
STATUS = [sys.executable, "-m", "ray.scripts.scripts", "status"]
"""`ray status`: what it prints is Ray's only public word on an autoscaler."""


@dataclass(frozen=True)
class Node:
    """A machine, or a container, in the cluster."""

    id: str
    resources: Mapping[str, float]
    """Such as `{"CPU": 16, "GPU": 2}`."""
    leaves: bool
    """Whether it is about to be taken away: Ray calls that draining, and places nothing more on it."""


def nodes_now() -> list[Node]:
    """Those that are alive."""
    import ray

    leaving = _draining()
    return [Node(node["NodeID"], node["Resources"], node["NodeID"] in leaving) for node in ray.nodes() if node["Alive"]]


def _draining() -> set[str]:
    """Ids of nodes. Ray has a command that drains one, but no public function that says so: this one is what Ray Train
    asks. On a Ray without it no notice is seen: what runs on such a node goes on elsewhere once the node is gone."""
    try:
        from ray._private.state import state

        return set(state.get_draining_nodes())
    except (ImportError, AttributeError):
        return set()


def has_autoscaler() -> bool:
    """Whether the cluster has an autoscaler, which starts machines for what waits. It takes seconds to find out.

    `ray status` lists nodes by their type. Without an autoscaler each node is a type of its own, named by its id.
    """
    import ray

    address = ray.get_runtime_context().gcs_address
    try:
        said = subprocess.run(
            [*STATUS, "--address", address], capture_output=True, text=True, timeout=SECONDS_TO_TELL, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return names_node_types(said)


def names_node_types(status: str) -> bool:
    """Whether what `ray status` printed has nodes of types that an autoscaler starts."""
    types = re.findall(r"^ \d+ (\S+)$", status.partition("Resources")[0], re.MULTILINE)
    return any(not re.fullmatch(r"node_[0-9a-f]{8,}", each) for each in types)
