"""Runs notebooks of docs and keeps what they show, in both languages: `python tests/execute_notebooks.py [NAME …]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NAMES = sorted(path.name.removesuffix(".ko.ipynb") for path in FOLDER.glob("*.ko.ipynb"))
"""Of the notebooks that have a Korean edition."""


def read(name: str) -> nbformat.NotebookNode:
    """The notebook with this file name."""
    return nbformat.read(FOLDER / name, as_version=4)


def execute(name: str) -> nbformat.NotebookNode:
    """The English edition with what its cells show now, run in a folder that lies as its own does in a clone.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = read(f"{name}.ipynb")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Warnings of libraries name places on this machine.
    environment = {"KOBERT_SHARED": str(ROOT.parent / "shared"), **os.environ}
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    with TemporaryDirectory() as clone:
        (Path(clone) / "search_spaces").symlink_to(ROOT / "search_spaces")
        folder = Path(clone) / "docs" / "notebooks"
        folder.mkdir(parents=True)
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
        client.execute(env=environment)
    return notebook


def keep(notebook: nbformat.NotebookNode, name: str) -> None:
    """Write it, and the Korean edition with the same code and outputs."""
    korean = read(f"{name}.ko.ipynb")
    for cell, other in zip(notebook.cells, korean.cells, strict=True):
        cell.metadata = {}
        if cell.cell_type == "code":
            other.update(source=cell.source, outputs=cell.outputs, execution_count=cell.execution_count)
    for edition, file in ((notebook, f"{name}.ipynb"), (korean, f"{name}.ko.ipynb")):
        edition.metadata.language_info = {"name": "python"}
        nbformat.write(edition, FOLDER / file)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES:
        keep(execute(wanted), wanted)
