"""The quickstart's sweep on the oldest and on the newest Ray that pyproject.toml allows: `make ray-versions`.

Each Ray has an environment of its own in `.venv-rays/`, which has everything else from the environment that runs this.
Trials run one at a time, so both must give the same trials and the same weights.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tests.fixtures.commands import ROOT, environment

ENVIRONMENTS = ROOT / ".venv-rays"


def rays() -> dict[str, str]:
    """What pip is asked for to have the oldest and the newest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = next(each for each in map(Requirement, project["dependencies"]) if each.name == "ray").specifier
    oldest = next(each.version for each in allowed if each.operator == ">=")
    return {"oldest": f"ray=={oldest}.*", "newest": f"ray{allowed}"}


def python_with(ray: str, folder: Path) -> Path:
    """The interpreter of an environment with this Ray, which is installed anew."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--no-deps", ray]
    subprocess.run([python, *install], check=True)
    own, rest = ([Path(each) for each in site_packages(it)] for it in (python, Path(sys.executable)))
    (own[0] / "rest.pth").write_text("".join(f"{each}\n" for each in rest if each not in own))
    return python


def site_packages(python: Path) -> list[str]:
    """Where an interpreter finds what pip installs."""
    found = [python, "-c", "import json, site; print(json.dumps(site.getsitepackages()))"]
    folders: list[str] = json.loads(subprocess.run(found, check=True, capture_output=True, text=True).stdout)
    return folders


def sweep(python: Path, output: Path) -> dict[str, Any]:
    """The quickstart with an interpreter: what its trials gave, and the checksum of the winner's weights."""
    one_at_a_time = ["--set", "resources.concurrent=1", "--output", str(output), "--json"]
    done = subprocess.run(
        [python, "-m", "tuning", "sweep", "search_spaces/quickstart.yaml", *one_at_a_time],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    folder = Path(json.loads(done.stdout.splitlines()[-1])["sweep"])
    trials = json.loads((folder / "trials.json").read_text(encoding="utf-8"))
    weights = next(folder.rglob("model.safetensors")).read_bytes()
    return {
        "trials": [[trial["state"], trial["values"], trial["value"]] for trial in trials],
        "weights": hashlib.sha256(weights).hexdigest(),
    }


def main() -> None:
    results = {}
    for name, ray in rays().items():
        python = python_with(ray, ENVIRONMENTS / name)
        version = subprocess.check_output([python, "-c", "import ray; print(ray.__version__)"], text=True).strip()
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as output:
            results[version] = sweep(python, Path(output))
        seconds, count = time.monotonic() - began, len(results[version]["trials"])
        print(f"Ray {version}: {count} trials, weights {results[version]['weights'][:16]}, {seconds:.0f} s", flush=True)
    if len(results) < 2:
        raise SystemExit(f"only one Ray was there: {', '.join(results)}")
    if len({json.dumps(result, sort_keys=True) for result in results.values()}) > 1:
        raise SystemExit(f"the trials or the weights differ: {json.dumps(results, indent=1)}")


if __name__ == "__main__":
    main()
