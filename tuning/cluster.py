"""The Ray cluster that a sweep runs on: one of its own on this machine, or one that is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kobert_core.errors import InputError
from tuning.study import ResourcesConfig

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the sweep draws its own table
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what a trial prints is in its log, once
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a study stay what they are
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without a GPU keeps the devices that it sees
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trial table and MLflow hold what they would write
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep stops its trials itself
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own snapshots are not used
    "TOKENIZERS_PARALLELISM": "false",
}


def set_environment() -> None:
    """Settings that Ray reads when it is imported, where the user has not made them."""
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    if not logging.getLogger().isEnabledFor(logging.INFO):  # what fails is told by the sweep, in a line
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


@contextmanager
def ray_cluster(address: str | None) -> Iterator[list[dict[str, float]]]:
    """Join the cluster at `address` (or at `RAY_ADDRESS`), or start one here; leave it at the end.

    Yields:
        The resources of each machine, such as `{"CPU": 16, "GPU": 2}`.

    Raises:
        InputError: there is no cluster at the address.
    """
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    if address and address.startswith("ray://"):
        raise InputError(
            "Ray client addresses are not supported",
            where=f"--address {address}",
            fix="give `auto` on a machine of the cluster, or HOST:6379",
        )
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        try:
            ray.init(address=address, runtime_env={"env_vars": ENVIRONMENT}, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"no Ray cluster can be reached ({reason})", where=f"--address {address}") from error
    else:
        _start_here(quiet)
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _start_here(options: dict[str, Any]) -> None:
    """Start a Ray of our own. A busy machine may not have it up in the 30 s that Ray waits: it gets three tries."""
    import ray

    for left in (2, 1, 0):
        try:
            ray.init(address="local", include_dashboard=False, **options)
            return
        except Exception as error:  # Ray raises a plain Exception here
            ray.shutdown()
            if not left:
                raise InputError(f"Ray does not start on this machine ({str(error).splitlines()[0]})") from error


def groups_that_fit(nodes: Sequence[Mapping[str, float]], resources: ResourcesConfig) -> int:
    """How many worker groups run at once: as many as there is room for, at most as many as the study says.

    Args:
        nodes: Resources of each machine, such as `{"CPU": 16, "GPU": 2}`; a worker has all of its own on one.
        resources: What the study asks for.

    Raises:
        InputError: there is no room for one.
    """
    asked = {"CPU": float(resources.cpus_per_worker), "GPU": resources.gpus_per_worker}
    asked = {kind: amount for kind, amount in asked.items() if amount}
    workers = sum(min(int(node.get(kind, 0.0) / amount + 1e-9) for kind, amount in asked.items()) for node in nodes)
    groups = workers // resources.workers
    if not groups:
        there = ", ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}s" for kind in ("CPU", "GPU"))
        wanted = " and ".join(f"{amount:g} {kind}s" for kind, amount in asked.items())
        raise InputError(
            f"a trial asks for {resources.workers} worker(s) with {wanted} each, but the cluster has {there} "
            f"on {len(nodes)} machine(s)",
            where="resources",
            fix="ask for less",
        )
    return groups if resources.concurrent == "auto" else min(groups, resources.concurrent)
