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
def templates() -> frozenset[str]:
    """The texts of the code with at least 8 characters of their own; where something is put in, they have a NUL."""
    found: set[str] = set()
    for package in ("kobert_core", "search_spaces", "tuning"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = node.value
                elif isinstance(node, ast.JoinedStr):
                    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                else:
                    continue
                text = re.sub(r"%[sdr]", "\0", text)
                if len(text.replace("\0", "").strip()) >= 8 and "\n" not in text:
                    found.add(text)
    return frozenset(found)


def is_printed(line: str) -> bool:
    """Whether some text of the code, with anything put in, is a part of the line."""
    for template in templates():
        parts = template.split("\0")
        if max(parts, key=len) in line and re.search(".+?".join(map(re.escape, parts)), line):
            return True
    return False


@pytest.mark.parametrize("line", LINES)
def test_a_printed_line_is_in_the_code(line: str) -> None:
    assert is_printed(line)


def test_a_line_that_nothing_prints_is_found() -> None:
    assert not is_printed("error: a.csv: the moon is full; wait a week")
