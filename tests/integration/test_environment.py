"""A sweep in an environment that is set against it, and what of it can be reached from other machines."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.fixtures.sweeps import ending_all, process_of, records_of, start_sweep, wait_for

AGAINST_IT = {
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "1",
    "RAY_AIR_NEW_OUTPUT": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0",
    "PYTHONWARNINGS": "error",
}


def listening(process: psutil.Process) -> dict[str, str]:
    """Where a process and all that it has started listen, with what each is."""
    found = {}
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            for connection in each.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found[f"{connection.laddr.ip} {connection.laddr.port}"] = each.name()
    return found


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address.split()[0])
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


@pytest.mark.slow
def test_a_sweep_settles_its_environment_and_is_not_seen_by_other_machines(tmp_path: Path) -> None:
    process = start_sweep(tmp_path, "one", "--trials", "2", "--set", "train.epochs=4", **AGAINST_IT)
    with ending_all(process):
        assert wait_for(process, lambda: any(record["progress"] for record in records_of(tmp_path / "one").values()))
        found = listening(process_of(process))
        assert process.wait(timeout=400) == 0, (tmp_path / "one.out").read_text()
    assert len(found) >= 5, "a Ray listens"
    assert not {where: who for where, who in found.items() if not is_loopback(where)}
    printed = (tmp_path / "one.out").read_text()
    assert "Warning" not in printed and "Traceback" not in printed
    assert {record["state"] for record in records_of(tmp_path / "one").values()} <= {"COMPLETE", "PRUNED"}
