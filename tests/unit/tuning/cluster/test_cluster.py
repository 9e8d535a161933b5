"""How many worker groups a cluster has room for."""

from __future__ import annotations

import pytest

from kobert_core.errors import InputError
from tuning.cluster.ray_cluster import groups_that_fit, ray_cluster
from tuning.study import ResourcesConfig


@pytest.mark.parametrize(
    ("cluster", "asked", "expected"),
    [
        ([{"CPU": 2}], {}, 2),
        ([{"CPU": 16, "GPU": 2}], {"gpus_per_worker": 1, "cpus_per_worker": 4}, 2),
        ([{"CPU": 16, "GPU": 2}], {"gpus_per_worker": 0.25}, 8),
        ([{"CPU": 16, "GPU": 4}] * 2, {"gpus_per_worker": 1, "workers": 2, "concurrent": 3}, 3),
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
