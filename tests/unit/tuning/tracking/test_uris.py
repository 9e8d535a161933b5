"""Where the store is, what may be shown of it, and what is imported and printed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from tuning.tracking import (
    default_tracking_uri,
    redact_uri,
    resolve_tracking_uri,
    serve_ui,
    ui_command,
    ui_environment,
)

ROOT = Path(__file__).resolve().parents[4]


def test_nothing_of_mlflow_is_imported_or_printed(tmp_path: Path) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from tuning.tracking import Tracker, default_tracking_uri
        assert "mlflow" not in sys.modules
        output = Path({str(tmp_path)!r})
        uri = default_tracking_uri(output)
        tracker = Tracker(spool=output / "s.jsonl", uri=uri, experiment="e", sweep="s")
        tracker.start_sweep(params={{}}, tags={{}})
        tracker.log_metrics("0", {{"loss": 1.0}}, step=0)
        tracker.end_trial("0", status="FINISHED", tags={{}})
        tracker.end_sweep(status="FINISHED")
        assert tracker.close(60) == 0
        from mlflow.telemetry.utils import is_telemetry_disabled
        assert is_telemetry_disabled()
    """
    # A new sqlite store: MLflow would tell of each of its fifty migrations.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "CI"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "mlflow.db").is_file()


def test_the_store_is_chosen_by_study_then_environment_then_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    default = f"sqlite:///{tmp_path}/output/mlflow.db"
    assert default.startswith("sqlite:////")
    assert default_tracking_uri(Path("output")) == default
    assert resolve_tracking_uri(None, tmp_path / "output") == default
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert resolve_tracking_uri(None, tmp_path) == "http://tracking:5000"
    assert resolve_tracking_uri("sqlite:///own.db", tmp_path) == f"sqlite:///{tmp_path}/own.db"
    assert resolve_tracking_uri("postgresql+psycopg://u:p@h/d", tmp_path) == "postgresql+psycopg://u:p@h/d"


@pytest.mark.parametrize(
    ("shown", "uri"),
    [
        ("http://***@host:5000/a", "http://user:pass@host:5000/a"),
        (
            "postgresql+psycopg2://***@h/d?sslmode=no&password=***",
            "postgresql+psycopg2://u:p@ss@h/d?sslmode=no&password=x",
        ),
        ("sqlite:////a b/mlflow.db", "sqlite:////a b/mlflow.db"),
        ("failed: http://***@h/x (at b@c)", "failed: http://token@h/x (at b@c)"),
        ("mysql://***@h/d", "mysql://u:p/a/ss@h/d"),
        ("https://h/a?api_key=***&b=1&X-Amz-Signature=***", "https://h/a?api_key=x&b=1&X-Amz-Signature=y"),
        ("http://h:5000/a?b=1, at c@d", "http://h:5000/a?b=1, at c@d"),
    ],
)
def test_redact_uri(shown: str, uri: str) -> None:
    assert redact_uri(uri) == shown


def test_the_ui_refuses_what_it_cannot_show(output: Path) -> None:
    with pytest.raises(InputError, match="is a server") as caught:
        serve_ui("https://u:geheim@host")
    assert "geheim" not in str(caught.value)
    with pytest.raises(InputError, match="no MLflow store"):
        serve_ui(f"sqlite:///{output}/other.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot be used"):
            serve_ui(default_tracking_uri(output), port=taken.getsockname()[1])
    uri = "postgresql+psycopg2://u:geheim@h/d"
    assert not any("geheim" in word for word in ui_command(port=1))
    assert ui_environment(uri)["MLFLOW_BACKEND_STORE_URI"] == uri
