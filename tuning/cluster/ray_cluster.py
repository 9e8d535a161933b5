"""The Ray cluster that a sweep runs on: its own on this machine, or an existing one."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from kobert_core.errors import InputError
from tuning.cluster.head import check_head, named_address, refused_token, starts_here

P = ParamSpec("P")
T = TypeVar("T")
ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",  # its worker groups are what trials run on
    "RAY_AIR_NEW_OUTPUT": "0",  # the sweep draws its own table
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a study stay what they are
    "RAY_ENABLE_AUTO_CONNECT": "0",  # what a thread still asks at the end must not start another Ray
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without a GPU keeps the devices that it sees
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trial table and MLflow hold what they would write
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep stops its trials itself
}
"""Settings of Ray that a sweep needs; they override the user's environment."""
PREFERRED = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # those of trials that are stopped; the others are told by the sweep
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what Ray says in the driver of processes that died: the sweep says it in a line
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",  # for room: a group waits until it is told not to
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # so soon is the end of a group noticed
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",  # its controller runs in the driver
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what a trial prints is in its log, once
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own snapshots are not used
    "TOKENIZERS_PARALLELISM": "false",
}
"""Defaults; the user's environment overrides them."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Keeps a Ray that is started here to 127.0.0.1, as Ray does by itself on macOS and Windows; elsewhere its processes
listen on all interfaces."""

SECONDS_TO_ANSWER = 60.0
LEAST_FREE = 16 * 2**20
"""Free bytes that Ray needs to start: without them it waits long, and does not say why."""


def set_environment(address: str | None = None) -> None:
    """Settings that Ray reads when it is imported, for the cluster at `address` or one that is started here."""
    given = PREFERRED | (LOOPBACK if starts_here(address) else {})
    os.environ.update({name: os.environ.get(name, value) for name, value in given.items()} | ENVIRONMENT)
    if not logging.getLogger().isEnabledFor(logging.INFO):  # what fails is told by the sweep, in a line
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def ray_cluster(address: str | None) -> Iterator[list[dict[str, float]]]:
    """Join the cluster at `address` (or at `RAY_ADDRESS`), or start one here; leave it at the end.

    Yields:
        The resources of each machine, such as `{"CPU": 16, "GPU": 2}`.

    Raises:
        InputError: there is no cluster at the address.
    """
    address, where = named_address(address)
    if address:
        check_head(address, where=where)
    import ray

    if address:
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": PREFERRED | ENVIRONMENT},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            cause = str(error.__cause__ or error)
            if "InvalidAuthToken" in cause:
                raise refused_token(where, gave_one=False) from error
            reason = str(error).splitlines()[0]
            raise InputError(
                f"no Ray cluster can be reached ({reason})", where=where, fix="see `ray status` there"
            ) from error
    else:
        _start_here()
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _start_here() -> None:
    """Start a Ray of our own. On a busy machine this may take longer than the 30 s that Ray waits: try three times."""
    import ray

    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if os.path.isdir(temporary) and shutil.disk_usage(temporary).free < LEAST_FREE:
        raise InputError(
            "the disk is full, and Ray's files lie there",
            where=temporary,
            fix="free some space, or name another folder in RAY_TMPDIR",
        )
    for left in (2, 1, 0):
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # Ray raises a plain Exception here
            ray.shutdown()
            if not left:
                raise InputError(f"Ray does not start on this machine ({str(error).splitlines()[0]})") from error


def on_every_node(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> dict[str, T | RuntimeError]:
    """Run a function on each machine of the cluster that this process has joined.

    Returns:
        What it returned, or a RuntimeError that says why it did not, by the machine's address, with a number where one
        address has several nodes.
    """
    return on_nodes(None, function, *arguments, **options)


def on_nodes(
    ids: Collection[str] | None, function: Callable[P, T], *arguments: P.args, **options: P.kwargs
) -> dict[str, T | RuntimeError]:
    """As `on_every_node`, on the nodes with these ids alone; None for all."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    names, asked = set[str](), {}
    for node in sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"]):
        address, number = node["NodeManagerAddress"], 1
        while (name := address if number == 1 else f"{address} (node {number})") in names:
            number += 1
        names.add(name)
        if ids is None or node["NodeID"] in ids:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[name] = remote.options(scheduling_strategy=here).remote(*arguments, **options)
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=SECONDS_TO_ANSWER)
    results: dict[str, T | RuntimeError] = {}
    for name, reference in asked.items():
        try:
            results[name] = ray.get(reference, timeout=0)
        except Exception as error:  # what the function raised, or that the machine is gone or does not answer
            results[name] = RuntimeError((str(error).strip().splitlines() or [type(error).__name__])[-1])
    return results
