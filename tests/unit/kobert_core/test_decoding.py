"""From logits to text, on real pieces."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kobert_core.tasks import parse_train_config
from kobert_core.tasks.question_answering.decoding import decode, perfect_outputs, texts
from kobert_core.tasks.question_answering.metrics import score_answers
from kobert_core.tasks.question_answering.squad import read_squad
from kobert_core.tasks.question_answering.task import Korquad
from kobert_core.tasks.question_answering.windows import MAX_TRIM_END, MAX_TRIM_START, Lengths, WindowExamples
from kobert_core.tokenization import SentencePieceTokenizer
from tests.fixtures.squad import make_examples

LENGTHS = Lengths(40, 8, 10)
CONTEXT = "세종은 1443년에 훈민정음을 만들었다. " * 8
FAMILY = "👨\u200d👩\u200d👧"
PARTS = [
    "정육점을", "훈민정음", " ", "  ", "\t", "\n", "a", "B.", "1,000", "e\u0301",
    "\u1112\u1161\u11ab", "각강을", "ﬁ", "㈜", FAMILY, "👍🏽", "🇰🇷", "\u200b",
    "\ufeff", "\u00a0", "…", "뷁", "麤", "ㅋㅋ", "``", "''", "[SEP]", "▁", "が",
    "한\u0301",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.from_pretrained(shared / "models/skt-kobert-base-v1")


@pytest.fixture(scope="module")
def examples(tokenizer: SentencePieceTokenizer) -> WindowExamples:
    return make_examples(
        tokenizer, [(CONTEXT, "무엇을 만들었나?", 11, 15), (CONTEXT[:25], "누가?", 0, 2), (CONTEXT, "왜?")], LENGTHS
    )


def random_outputs(examples: WindowExamples, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    shape = (len(examples), int(examples.lengths.max()))
    return {
        "start_logits": generator.normal(size=shape).astype(np.float32),
        "end_logits": generator.normal(size=shape).astype(np.float32),
        "trim_start": generator.integers(0, MAX_TRIM_START + 1, shape).astype(np.uint8),
        "trim_end": generator.integers(0, MAX_TRIM_END + 1, shape).astype(np.uint8),
    }


@pytest.mark.parametrize(("n_best", "max_answer_length"), [(1, 30), (3, 2), (20, 4), (100, 100)])
def test_the_best_allowed_span_of_all_windows(examples: WindowExamples, n_best: int, max_answer_length: int) -> None:
    """The same as trying every pair of every window, one by one."""
    outputs = random_outputs(examples, seed=n_best)
    answers = decode(examples, outputs, n_best=n_best, max_answer_length=max_answer_length, trim=False)
    features = examples.features(np.arange(len(examples)))
    for number in range(len(examples.questions)):
        best, span, null = -np.inf, (0, 0), np.inf
        for row in range(examples.window_starts[number], examples.window_starts[number + 1]):
            inside = np.flatnonzero(features["offsets"][row, :, 0] >= 0).tolist()
            start, end = outputs["start_logits"][row], outputs["end_logits"][row]
            null = min(null, start[0] + end[0])
            firsts = sorted(inside, key=lambda place: -start[place])[:n_best]
            lasts = sorted(inside, key=lambda place: -end[place])[:n_best]
            for first, last in itertools.product(firsts, lasts):
                if 0 <= last - first < max_answer_length and start[first] + end[last] > best:
                    best = start[first] + end[last]
                    span = features["offsets"][row, first, 0], features["offsets"][row, last, 1]
        begin = examples.texts["starts"][examples.texts["context"][examples.questions[number]]]
        assert answers.scores[number] == best
        if np.isfinite(best):
            assert tuple(answers.spans[number] - begin) == span
            assert answers.null_scores[number] == pytest.approx(null - best)
        else:
            assert tuple(answers.spans[number]) == (0, 0)


def test_a_null_score_above_the_threshold_is_no_answer(examples: WindowExamples) -> None:
    answers = decode(examples, perfect_outputs(examples))
    assert answers.null_scores.tolist() == [-20, -20, 20]
    assert texts(examples, answers, null_threshold=0) == ["훈민정음", "세종", ""]
    assert texts(examples, answers, null_threshold=-30) == ["", "", ""]
    assert texts(examples, answers)[2] != ""


def test_trims_that_leave_nothing_are_not_made(tokenizer: SentencePieceTokenizer) -> None:
    examples = make_examples(tokenizer, [("점", "무엇?", 0, 1)])
    outputs = perfect_outputs(examples)
    outputs["trim_end"][:] = 3
    assert texts(examples, decode(examples, outputs)) == ["점"]


def test_no_questions(examples: WindowExamples) -> None:
    none = examples.take(np.zeros(0, dtype=np.int64))
    outputs = {name: np.zeros((0, 1), dtype=np.float32) for name in ("start_logits", "end_logits")}
    assert texts(none, decode(none, outputs)) == []


@st.composite
def hostile(draw: st.DrawFn) -> tuple[str, int, int]:
    """A context of odd characters, and an answer anywhere in it."""
    parts = draw(st.lists(st.sampled_from(PARTS) | st.text(max_size=4), min_size=1, max_size=40))
    context = "".join(parts).encode("utf-8", "ignore").decode().replace("\0", "")
    if not context.strip():
        context += "끝"
    start = draw(st.integers(0, len(context) - 1))
    end = draw(st.integers(start + 1, min(len(context), start + 12)))
    if not context[start:end].strip():
        start, end = 0, len(context)
    return context, start, end


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hostile())
def test_perfect_pieces_give_the_answer_wherever_a_trim_is_in_range(
    tokenizer: SentencePieceTokenizer, case: tuple[str, int, int]
) -> None:
    """And what is called out of range is so: no trim that the head can predict leads to the answer."""
    context, start, end = case
    examples = make_examples(tokenizer, [(context, "무엇?", start, end)], Lengths(512, 128, 64))
    if len(examples.pieces["pieces"]) == 0:
        assert texts(examples, decode(examples, perfect_outputs(examples))) == [""]
        return
    outputs, answer = perfect_outputs(examples), context[start:end].strip()
    if (examples.pieces["trims"] >= 0).all():
        assert texts(examples, decode(examples, outputs, max_answer_length=500)) == [answer]
        return
    target = examples.texts["targets"].tolist()
    for at_start, at_end in itertools.product(range(MAX_TRIM_START + 1), range(MAX_TRIM_END + 1)):
        outputs["trim_start"][:], outputs["trim_end"][:] = at_start, at_end
        assert decode(examples, outputs, max_answer_length=500).spans.tolist() != target, "a trim in range"


@pytest.mark.parametrize("place", [0, 9_990, 19_997])
def test_a_long_context_with_the_answer_anywhere(tokenizer: SentencePieceTokenizer, place: int) -> None:
    context = ("한글은 글자다. " * 2500)[:20_000]
    context = context[:place] + "답이다" + context[place + 3 :]
    examples = make_examples(tokenizer, [(context, "무엇?", place, place + 1)])
    found = decode(examples, perfect_outputs(examples))
    assert texts(examples, found) == ["답"]
    assert found.spans.tolist() == [[place, place + 1]]


def test_trims_that_are_out_of_range_are_counted(tmp_path: Path, shared: Path) -> None:
    """A run of unknown signs is one piece: an answer in its middle cannot be cut out."""
    file = tmp_path / "file.json"
    qas = '[{"id": "a", "question": "?", "answers": [{"text": "麤", "answer_start": 1}]}]'
    context = "𠀀麤𠀁𠀂𠀃𠀄"
    file.write_text(f'{{"version": "1.1", "data": [{{"paragraphs": [{{"context": "{context}", "qas": {qas}}}]}}]}}')
    model = {"init": "random", "tokenizer": str(shared / "models/skt-kobert-base-v1")}
    config = parse_train_config({"task": "korquad", "data": {"train": file}, "model": model})
    found = Korquad(config).describe(file)
    assert found["trims"]["out_of_range"] == 1
    assert found["ceiling"]["exact_match"] == 0


def test_the_ceiling_of_korquad(shared: Path, tokenizer: SentencePieceTokenizer) -> None:
    """Perfect pieces and trims on all 5,774 questions; the original reached 77.09 with perfect pieces."""
    examples = make_examples(tokenizer, read_squad(shared / "data/korquad/KorQuAD_v1.0_dev.json"))
    outputs = perfect_outputs(examples)
    assert len(examples.questions) == 5774
    assert (examples.pieces["trims"] >= 0).all()
    assert score_answers(examples, decode(examples, outputs), None) == {"exact_match": 100.0, "f1": 100.0}
    offsets_alone = score_answers(examples, decode(examples, outputs, trim=False), None)
    assert offsets_alone["exact_match"] == pytest.approx(88.85, abs=0.01)
