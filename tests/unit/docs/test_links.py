"""Links from one page to another lead there. Those within the site are checked by `mkdocs build --strict`, too."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from tests.fixtures.pages import Page, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    for target in page.targets:
        if "://" in target:
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in Page(file).anchors, target


def test_the_readme_is_short() -> None:
    for page in pages():
        if page.name.startswith("README"):
            assert len(page.text.splitlines()) <= 120
