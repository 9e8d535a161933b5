"""What a reader takes for one character."""

from __future__ import annotations

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from kobert_core.tasks.question_answering.graphemes import grapheme_starts, trim_end, trim_start, trims_needed

FAMILY = "👨\u200d👩\u200d👧"
PARTS = [*"가나a \t\n\r.", "e\u0301", "\u1112\u1161\u11ab", "각\u0301", FAMILY, "👍🏽", "🇰🇷", "\u200b"]
HOSTILE = st.lists(st.sampled_from(PARTS)).map("".join)


@given(st.lists(st.text() | HOSTILE))
def test_starts_are_those_of_every_text_by_itself(texts: list[str]) -> None:
    starts = grapheme_starts(texts).tolist()
    expected, position = [], 0
    for text in texts:
        expected += [position + match.start() for match in regex.finditer(r"\X", text)]
        position += len(text)
    assert starts == [*expected, position]


@pytest.mark.parametrize(
    ("text", "inner", "trims"),
    [
        ("정육점을", (0, 3), (0, 1)),
        ("정육점을", (1, 2), (1, 2)),
        (FAMILY + "는", (0, len(FAMILY)), (0, 1)),
        ("\u1112\u1161\u11ab강을", (3, 4), (1, 1)),
        ("e\u0301a", (1, 2), (-1, 1)),  # an answer that begins with a combining mark
        ("가나", (0, 2), (0, 0)),
    ],
)
def test_trims_lead_from_pieces_to_answers(text: str, inner: tuple[int, int], trims: tuple[int, int]) -> None:
    starts = grapheme_starts([text])
    outer = np.array([[0, len(text)]])
    at_start, at_end = trims_needed(starts, outer, np.array([inner]))
    assert (at_start[0], at_end[0]) == trims
    if trims[0] >= 0:
        assert trim_start(starts, outer[:, 0], at_start)[0] == inner[0]
    assert trim_end(starts, outer[:, 1], at_end)[0] == inner[1]
