"""How many worker groups a cluster has room for."""

from __future__ import annotations

import pytest

from kobert_core.errors import InputError
from tuning.cluster.group_count import ASKED_AHEAD, groups_that_fit, groups_wanted
from tuning.cluster.nodes import names_node_types
from tuning.cluster.ray_cluster import ray_cluster
from tuning.study import ResourcesConfig


@pytest.mark.parametrize(
    ("cluster", "asked", "expected"),
    [
        ([{"CPU": 2}], {}, 2),
        ([{"CPU": 16, "GPU": 2}], {"gpus_per_worker": 1, "cpus_per_worker": 4}, 2),
        ([{"CPU": 16, "GPU": 2}], {"gpus_per_worker": 0.25}, 8),
        ([{"CPU": 16, "GPU": 4}] * 2, {"gpus_per_worker": 1, "workers": 2, "concurrent": 3}, 3),
        ([{"CPU": 16, "GPU": 4}] * 2, {"gpus_per_worker": 1, "workers": 2, "concurrent": {"max": 3}}, 3),
        ([{"CPU": 4, "GPU": 8}], {"gpus_per_worker": 1, "cpus_per_worker": 2}, 2),
        ([{"CPU": 3}, {"CPU": 3}], {"cpus_per_worker": 2}, 2),
        ([{"CPU": 3}, {"CPU": 3}], {"cpus_per_worker": 2, "workers": 2}, 1),
    ],
)
def test_as_many_groups_as_there_is_room_for(cluster: list, asked: dict, expected: int) -> None:
    assert groups_that_fit(cluster, ResourcesConfig(**asked)) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cpus_per_worker": 8}, "with 8 CPUs each, but the cluster has 2 CPUs, 0 GPUs on 1 machine"),
        ({"gpus_per_worker": 1}, "with 1 CPUs and 1 GPUs each, but the cluster has 2 CPUs, 0 GPUs"),
    ],
)
def test_what_cannot_be_placed_is_refused_with_what_there_is(asked: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        groups_that_fit([{"CPU": 2}], ResourcesConfig(**asked))


def test_ray_client_addresses_are_refused() -> None:
    with pytest.raises(InputError, match="Ray client addresses are not supported"), ray_cluster("ray://head:10001"):
        pass


@pytest.mark.parametrize(
    ("room", "runs", "most", "more_may_come", "expected"),
    [
        (4, 20, None, False, 4),
        (4, 20, 2, False, 2),
        (4, 3, None, False, 3),
        (0, 20, None, False, 1),  # the last machine has left: one waits
        (4, 0, None, False, 1),
        (0, 20, None, True, 20),
        (0, 20, 8, True, 8),
        (4, 200, None, True, 4 + ASKED_AHEAD),
        (4, 3, 8, True, 3),
    ],
)
def test_groups_follow_the_cluster_and_the_trials_that_are_left(
    room: int, runs: int, most: int | None, more_may_come: bool, expected: int
) -> None:
    assert groups_wanted(room=room, runs=runs, most=most, more_may_come=more_may_come) == expected


def status(*types: str) -> str:
    """What `ray status` prints of nodes of these types."""
    active = "\n".join(f" 1 {each}" for each in types)
    return f"""======== Autoscaler status: 2026-11-27 21:16:02.123456 ========
Node status
---------------------------------------------------------------
Active:
{active}
Pending:
 (no pending nodes)
Recent failures:
 (no failures)

Resources
---------------------------------------------------------------
Total Usage:
 0.0/2.0 CPU
"""


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (("node_8d1ae5a15c2a7fbb1d2cbf1bbb4ad3d85b8bd2d8bfb0e5a7c3f6d9aa",), False),
        (("ray.head.default",), True),
        (("headgroup", "gpu-workers"), True),
        ((), False),
    ],
)
def test_an_autoscaler_is_known_by_the_types_of_its_nodes(types: tuple[str, ...], expected: bool) -> None:
    assert names_node_types(status(*types)) == expected
