"""The Korean pages say what the English ones say: as many headings, the same code, commands, tables and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath

import pytest

from tests.fixtures.commands import ROOT
from tests.fixtures.pages import DOCS, Page, page

PAIRS = [("README.md", "README.ko.md")]
PAIRS += [
    (f"docs/{path.relative_to(DOCS / 'ko').as_posix()}", path.relative_to(ROOT).as_posix())
    for path in sorted((DOCS / "ko").rglob("*.md"))
    if path.parent.name != "notebooks"
]


@pytest.fixture(params=PAIRS, ids=lambda pair: pair[1])
def pair(request: pytest.FixtureRequest) -> tuple[Page, Page]:
    english, korean = request.param
    return page(english), page(korean)


def without_comments(text: str) -> str:
    """Comments of code may be in Korean."""
    return re.sub(r"(?m)\s*(?:^|(?<=\s))#.*$", "", text)


def test_headings(pair: tuple[Page, Page]) -> None:
    levels = [[level for level, _ in each.headings] for each in pair]
    assert levels[0] == levels[1]


def test_code(pair: tuple[Page, Page]) -> None:
    blocks = [[(block.language, without_comments(block.text)) for block in each.blocks] for each in pair]
    assert blocks[0] == blocks[1]


def test_commands_and_keys_in_the_text(pair: tuple[Page, Page]) -> None:
    def commands(each: Page) -> Counter[str]:
        said = [code.content for code in each.inline("code_inline")]
        return Counter(text for text in said if re.match(r"kobert-tune |--|make |[a-z]+\.[a-z_]+(:|$)|\w+: \{", text))

    english, korean = map(commands, pair)
    assert english == korean


def test_tables(pair: tuple[Page, Page]) -> None:
    shapes = [[[len(row) for row in table] for table in each.tables] for each in pair]
    assert shapes[0] == shapes[1]
    for english, korean in zip(pair[0].tables, pair[1].tables, strict=True):
        for row, other in zip(english, korean, strict=True):
            assert numbers(row) == numbers(other)


def numbers(row: list[str]) -> Counter[str]:
    """Figures of a row; a translation may put them in another order."""
    return Counter(re.findall(r"\d[\d,.]*\d|\d", re.sub(r"\bten\b", "10", " ".join(row))))


def test_links(pair: tuple[Page, Page]) -> None:
    def names(each: Page) -> Counter[str]:
        paths = (target if "://" in target else PurePosixPath(target.partition("#")[0]).name for target in each.targets)
        paths = (name.replace(".ko.ipynb", ".ipynb") for name in paths)
        return Counter(name for name in paths if not re.fullmatch(r"README(\.ko)?\.md", name))

    english, korean = map(names, pair)
    assert english == korean


def test_it_is_written_in_one_style(pair: tuple[Page, Page]) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", pair[1].text, flags=re.DOTALL)
    assert re.search(r"(습니다|십시오|ㅂ니다|입니다|합니다|됩니다)[.:]", prose)
    assert re.findall(r"(?:해요|하세요|예요|에요|이다|한다|된다|있다|없다|않는다)\.(?=\s|$)", prose) == []
