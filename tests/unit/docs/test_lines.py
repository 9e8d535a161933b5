"""What the pages say that is printed, is in the code."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.fixtures.commands import ROOT
from tests.fixtures.pages import pages

LINES = [
    pytest.param(line, id=f"{block}: {line[:40]}")
    for page in pages()
    for block in page.blocks
    if block.language == "text"
    for line in block.text.splitlines()
    if re.match(r"(error|note|verdict|warning): ", line) or block.page.endswith("troubleshooting.md")
]


@cache
def templates() -> tuple[re.Pattern[str], ...]:
    """Of every text of the code with at least 8 characters of its own: what is put in is anything."""
    found: set[str] = set()
    for package in ("kobert_core", "search_spaces", "tuning"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    parts = [node.value]
                elif isinstance(node, ast.JoinedStr):
                    parts = [str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values]
                else:
                    continue
                text = re.sub(r"%[sdr]", "\0", "".join(parts))
                if len(text.replace("\0", "").strip()) >= 8 and "\n" not in text:
                    found.add(".+?".join(map(re.escape, text.split("\0"))))
    return tuple(re.compile(template) for template in sorted(found))


@pytest.mark.parametrize("line", LINES)
def test_a_printed_line_is_in_the_code(line: str) -> None:
    assert any(template.search(line) for template in templates()), line


def test_a_line_that_nothing_prints_is_found() -> None:
    assert not any(template.search("error: a.csv: the moon is full; wait a week") for template in templates())
