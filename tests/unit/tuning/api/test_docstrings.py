"""The examples in docstrings are run."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

from tests.fixtures.commands import ROOT


@pytest.mark.parametrize("module", ["tuning", "tuning.api.study", "tuning.tracking.callbacks"])
def test_the_examples_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(import_module(module))
    assert found.attempted > 0 and found.failed == 0
