"""docs/tokenizer.md: its code runs, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.pages import page

PAGE = page("docs/tokenizer.md")


def test_the_code_prints_what_the_page_shows(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "skt").mkdir()
    (tmp_path / "skt" / "kobert-base-v1").symlink_to(shared / "models" / "skt-kobert-base-v1")
    monkeypatch.chdir(tmp_path)
    found = [(block.language, block.text) for block in PAGE.blocks]
    assert [language for language, _ in found] == ["python", "text"] * (len(found) // 2)
    namespace: dict[str, object] = {}
    for (_, code), (_, expected) in zip(found[::2], found[1::2], strict=True):
        capsys.readouterr()
        exec(code, namespace)
        assert capsys.readouterr().out == expected, code
