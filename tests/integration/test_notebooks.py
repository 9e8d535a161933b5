"""The notebooks of docs run as they stand, with data and without, and their Korean editions keep step."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.execute_notebooks import FOLDER, NAMES, execute, read


def shown(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_all_have_a_korean_edition() -> None:
    assert set(NAMES) == {path.name.partition(".")[0] for path in FOLDER.glob("*.ipynb")}


@pytest.mark.parametrize("name", NAMES)
def test_the_korean_edition_has_the_same_code(name: str) -> None:
    english, korean = read(f"{name}.ipynb").cells, read(f"{name}.ko.ipynb").cells
    assert [cell.cell_type for cell in english] == [cell.cell_type for cell in korean]
    for one, other in zip(english, korean, strict=True):
        if one.cell_type == "code":
            assert one.source == other.source and one.outputs == other.outputs
        else:
            headings = [re.findall(r"^#+ ", cell.source, re.MULTILINE) for cell in (one, other)]
            assert headings[0] == headings[1]
            assert re.search("[가-힣]", other.source), other.source
            assert one.source.count("\n|") == other.source.count("\n|"), "rows of tables"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_kept_small_and_name_no_machine(name: str) -> None:
    for edition in (f"{name}.ipynb", f"{name}.ko.ipynb"):
        notebook = read(edition)
        assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code"), "executed"
        assert (FOLDER / edition).stat().st_size < 100_000
        assert not re.search(r"/tmp/|/home/|/root/|site-packages|\x1b", shown(notebook))


def test_what_the_notebooks_say_is_what_they_show() -> None:
    korquad = shown(read("korquad-class.ipynb"))
    assert "136 windows" in korquad and "False}" not in korquad
    for figure in ("77.35", "88.85", "'exact_match': 100.0"):
        assert figure in korquad


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_in_a_clone_without_data(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KOBERT_SHARED", str(tmp_path))
    assert shown(execute(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nsmc-class", "korquad-class"])
def test_it_runs_on_the_real_data(name: str, monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    monkeypatch.setenv("KOBERT_SHARED", str(shared))
    found = shown(execute(name))
    if name == "korquad-class":
        assert all(figure in found for figure in ("136 windows", "77.35", "88.85", "'exact_match': 100.0"))
    if name == "nsmc-class":
        assert "UnboundLocalError" in found and "(best)" in found
