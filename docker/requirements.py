"""Print what pyproject.toml asks for, with the extras for servers and object stores: the image installs it first."""

from __future__ import annotations

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
print("\n".join([*project["dependencies"], *extras["server"], *extras["object-storage"]]))
