"""docs/encoders-parity.md: the numbers of all families are there, within their bounds, and can be measured again."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from kobert_core.families import IN_TRANSFORMERS
from tests.fixtures.commands import ROOT
from tests.fixtures.pages import page


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import parity

    yield parity
    sys.modules.pop("parity")


def test_the_page_has_each_family_within_the_bounds(parity: ModuleType) -> None:
    families, tokenizers = page("docs/encoders-parity.md").tables
    assert [row[0] for row in families[1:]] == [f"`{name}`" for name in IN_TRANSFORMERS]
    assert families[0][1:] == list(parity.BOUNDS)
    for row in families[1:]:
        for cell, bound in zip(row[1:], parity.BOUNDS.values(), strict=True):
            assert float(cell) < bound, row
    assert len(tokenizers) == 1 + len(parity.VOCABULARIES)
    for row in tokenizers[1:]:
        assert float(row[3]) <= parity.MOST_TIMES, row
        assert float(row[6]) <= 1.3, "the page says that the bar is missed by a little"


def test_what_it_measures_is_within_the_bounds(parity: ModuleType) -> None:
    """Of one family; the tests of the families hold all of them."""
    found = parity.measure("electra")
    assert found.keys() == parity.BOUNDS.keys()
    assert all(value < parity.BOUNDS[name] for name, value in found.items())
