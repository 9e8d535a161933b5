"""The reference is what the code says now, and its examples are such."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from kobert_core.tasks import SPECS
from tests.fixtures.commands import ROOT
from tests.fixtures.pages import page


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "reference" / "make.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_written_from_the_present_code(make: ModuleType) -> None:
    for path, text in make.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run `make reference`"


def test_an_example_is_a_value_of_its_key(make: ModuleType) -> None:
    kinds: list[tuple[str, type[BaseModel]]] = [("", make.StudyHead), *make.SECTIONS.items()]
    kinds += [(section, getattr(spec, section.title())) for spec in SPECS.values() for section in ("data", "model")]
    wrong = []
    for section, kind in kinds:
        for name in kind.model_fields:
            key = f"{section}.{name}" if section else name
            value = make.example_of(key)
            if section == "model" or kind.__name__ != "RegressionData":
                wrong += [f"{key}: {problem}" for problem in problems(kind, name, value)]
    assert wrong == []


def problems(kind: type[BaseModel], name: str, value: Any) -> list[str]:
    """What is wrong with the value of a field; what others lack is another matter."""
    try:
        kind.model_validate({name: value})
    except ValidationError as error:
        return [each["msg"] for each in error.errors() if each["loc"][:1] == (name,)]
    return []


def test_what_is_measured_is_in_the_results() -> None:
    results = {tuple(row[1:3]) for table in page("benchmarks/RESULTS.md").tables for row in table if len(row) == 5}
    (measured,) = [table for table in page("docs/comparison.md").tables if table[0][2] == "times"]
    assert len(measured) > 5
    for row in measured[1:]:
        assert (row[2], row[3]) in results, row
    for name in ("README.md", "README.ko.md"):
        figures = {float(figure) for figure in ("5.41", "3.23", "2.22", "3.65")}
        assert all(str(figure) in page(name).text for figure in figures)
        assert all(any(str(figure) == row[0] for row in results) for figure in figures)
