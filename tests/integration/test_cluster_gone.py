"""A sweep whose cluster is gone ends with a line, and goes on elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.nodes import ray_nodes
from tests.fixtures.sweeps import ending_all, records_of, start_sweep, sweep_to_its_end, wait_for

pytestmark = pytest.mark.slow
STUDY = ("--trials", "2", "--set", "train.epochs=4")


def test_a_cluster_that_is_gone_is_one_line_and_the_sweep_goes_on_elsewhere(tmp_path: Path) -> None:
    sweep = tmp_path / "one"
    with ray_nodes(tmp_path, head_cpus=2) as nodes:
        patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "20"}
        process = start_sweep(tmp_path, "one", *STUDY, "--address", nodes.address, **patience)
        with ending_all(process):
            assert wait_for(process, lambda: sum(each["progress"] for each in records_of(sweep).values()) >= 30)
            nodes.kill_head()
            code = process.wait(timeout=60)
    printed = (tmp_path / "one.out").read_text(encoding="utf-8")
    assert code == 1 and "Traceback" not in printed, printed
    last = printed.splitlines()[-1]
    assert last.startswith("the Ray cluster is gone; go on with: kobert-tune sweep ") and last.endswith(" --resume")
    sweep_to_its_end(tmp_path, "one", *STUDY)  # the same command goes on also without it
    assert {record["state"] for record in records_of(sweep).values()} <= {"COMPLETE", "PRUNED"}
