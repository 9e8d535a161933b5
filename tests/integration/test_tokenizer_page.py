"""docs/tokenizer.md, in both languages: its code runs, and prints what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT

PAGES = [ROOT / "docs" / "tokenizer.md", ROOT / "docs" / "ko" / "tokenizer.md"]


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_code_prints_what_the_page_shows(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "skt").mkdir()
    (tmp_path / "skt" / "kobert-base-v1").symlink_to(shared / "models" / "skt-kobert-base-v1")
    monkeypatch.chdir(tmp_path)
    found = blocks(PAGES[0])
    assert [language for language, _ in found] == ["python", "text"] * (len(found) // 2)
    namespace: dict[str, object] = {}
    for (_, code), (_, expected) in zip(found[::2], found[1::2], strict=True):
        capsys.readouterr()
        exec(code, namespace)
        assert capsys.readouterr().out == expected, code


def test_the_korean_page_keeps_step() -> None:
    english, korean = (page.read_text(encoding="utf-8") for page in PAGES)
    assert blocks(PAGES[0]) == blocks(PAGES[1])
    levels = [
        re.findall(r"^#+(?= )", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
        for text in (english, korean)
    ]
    assert levels[0] == levels[1]
