"""Files, classes and functions that the pages name are there."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests.fixtures.commands import ROOT
from tests.fixtures.pages import Page, page, pages

ABOUT_CODE = ("docs/architecture.md", "docs/resume.md", "docs/adding-a-task.md")
"""Pages whose words in code are names of this project, or of what it stands on."""
FOLDERS = ("benchmarks", "docker", "docs", "kobert_core", "search_spaces", "tests", "tuning")


@cache
def files() -> frozenset[str]:
    """All files and folders of the project, each with a `/` before it."""
    found = [path for name in FOLDERS for path in (ROOT / name, *(ROOT / name).rglob("*"))]
    return frozenset(f"/{path.relative_to(ROOT).as_posix()}" for path in [*found, *ROOT.glob("*.*")])


@cache
def words() -> frozenset[str]:
    """All words of the code, without the tests."""
    sources = [path for name in FOLDERS if name != "tests" for path in (ROOT / name).rglob("*.py")]
    sources += [ROOT / "Makefile", ROOT / "pyproject.toml", *(ROOT / "search_spaces").glob("*.*")]
    return frozenset(word for path in sources for word in re.findall(r"\w+", path.read_text(encoding="utf-8")))


def said(page: Page) -> list[str]:
    return [code.content for code in page.inline("code_inline")]


def found(name: str) -> list[str]:
    """The files of the project with this name; a page may leave out the folders that it is about."""
    return [path for path in files() if path.endswith(f"/{name.rstrip('/')}")]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_file_that_is_named_is_there(page: Page) -> None:
    ours = re.compile(rf"[\w/-]+\.py|(?:{'|'.join(FOLDERS)})/[\w./-]*")
    named = [name for name in said(page) if ours.fullmatch(name)]
    made = {"docker/.env", "docs/notebooks/NAME.ipynb", "docs/notebooks/NAME.ko.ipynb"}  # by who follows the page
    of_a_task = {"config.py", "task.py", "model.py", "metrics.py"}
    assert [name for name in named if name not in made | of_a_task and not found(name)] == []


@pytest.mark.parametrize("name", ABOUT_CODE)
def test_a_name_of_the_code_is_in_the_code(name: str) -> None:
    named = {word for text in said(page(name)) if re.fullmatch(r"[A-Za-z_][\w.]*", text) for word in text.split(".")}
    assert sorted(named - words()) == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_name_is_in_the_file_that_is_said(page: Page) -> None:
    for name, file in re.findall(r"`(\w[\w.]*)` in `([\w/-]+\.py)`", page.text):
        texts = [(ROOT / path[1:]).read_text(encoding="utf-8") for path in found(file)]
        assert any(re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", text) for text in texts), (name, file)


def test_what_is_not_there_is_found() -> None:
    assert found("cli/launch.py") and not found("cli/supervisor.py") and "open_optuna_stud" not in words()
