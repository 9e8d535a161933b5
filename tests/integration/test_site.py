"""The site is built strictly, opens from disk, and asks no network for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.browser import need_browser, page_and_console
from tests.fixtures.commands import ROOT, environment


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment() | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there_in_both_languages(site: Path) -> None:
    english = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    korean = {name.removeprefix("ko/") for name in english if name.startswith("ko/")}
    assert korean >= {name for name in english if not name.startswith(("ko/", "404"))}
    for name in ("index.html", "first-ten-minutes.html", "reference/study-keys.html", "reference/commands.html"):
        assert name in korean


def test_no_page_asks_the_network(site: Path) -> None:
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|img|iframe|source|link)[^>]*>", html):
            where = re.search(r'(?:src|href)="?(?:https?:)?//', tag)
            assert where is None or re.search(r'rel="?(?:canonical|alternate)', tag), (path, tag)


def test_it_opens_from_disk_and_its_search_finds_korean_words(site: Path) -> None:
    need_browser()
    html, console = page_and_console(f"{(site / 'ko' / 'index.html').as_uri()}?q=체크포인트", budget_ms=10_000)
    assert '<html lang="ko"' in html
    assert not [line for line in console if "ERROR" in line or "Uncaught" in line], console
    assert "md-search-result__item" in html
