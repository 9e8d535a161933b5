"""How many worker groups there should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kobert_core.errors import InputError
from tuning.study import ResourcesConfig

ASKED_AHEAD = 32
"""No more groups than this wait for machines at the same time."""


def room_for_groups(nodes: Sequence[Mapping[str, float]], resources: ResourcesConfig) -> int:
    """How many worker groups fit.

    Args:
        nodes: Resources of each machine, such as `{"CPU": 16, "GPU": 2}`; a worker has all of its own on one.
        resources: What a group consists of.
    """
    asked = _of_a_worker(resources)
    workers = sum(min(int(node.get(kind, 0.0) / amount + 1e-9) for kind, amount in asked.items()) for node in nodes)
    return workers // resources.workers


def groups_that_fit(nodes: Sequence[Mapping[str, float]], resources: ResourcesConfig, *, may_grow: bool = False) -> int:
    """How many worker groups run at once: as many as fit, but no more than the study says.

    Args:
        nodes, resources: As for `room_for_groups`.
        may_grow: Whether machines may join.

    Raises:
        InputError: there is no room for one.
    """
    room, most = room_for_groups(nodes, resources), resources.most_at_once
    if not room:
        there = ", ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}s" for kind in ("CPU", "GPU"))
        wanted = " and ".join(f"{amount:g} {kind}s" for kind, amount in _of_a_worker(resources).items())
        raise InputError(
            f"a trial asks for {resources.workers} worker(s) with {wanted} each, but the cluster has {there} "
            f"on {len(nodes)} machine(s)",
            where="resources",
            fix="ask for less" + (", or wait for machines that join: `resources.concurrent: {max: 8}`" * may_grow),
        )
    return room if most is None else min(room, most)


def groups_wanted(*, room: int, runs: int, most: int | None, more_may_come: bool) -> int:
    """How many worker groups should be there, or wait for room.

    One at least: when the last machine has left, one group waits for another.

    Args:
        room: So many fit into the cluster as it is.
        runs: That are still to be made: each takes one group.
        most: The study's bound, if it has one.
        more_may_come: Whether machines may join for groups that wait: Ray's autoscaler starts them for what waits.
    """
    bounds = [runs, room + ASKED_AHEAD if more_may_come else room]
    return max(1, min(bounds if most is None else [*bounds, most]))


def _of_a_worker(resources: ResourcesConfig) -> dict[str, float]:
    asked = {"CPU": float(resources.cpus_per_worker), "GPU": resources.gpus_per_worker}
    return {kind: amount for kind, amount in asked.items() if amount}
