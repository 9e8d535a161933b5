"""The reader of SQuAD files: what it takes, and what it sets aside with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kobert_core.errors import InputError
from kobert_core.tasks.question_answering.squad import read_squad

CONTEXT = "세종은 1443년에 훈민정음을 만들었다."


def question(number: int, **changes: Any) -> dict[str, Any]:
    answers = [{"text": "1443년", "answer_start": 4}]
    return {"id": f"q{number}", "question": "언제 만들었나?", "answers": answers} | changes


def write(folder: Path, *questions: Any, version: Any = "KorQuAD_v1.0_dev", context: Any = CONTEXT) -> Path:
    paragraph = {"context": context, "qas": list(questions)}
    path = folder / "file.json"
    content = {"version": version, "data": [{"title": "세종", "paragraphs": [paragraph]}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_contexts_questions_and_answers_come_as_they_are(tmp_path: Path) -> None:
    two = [{"text": "1443년", "answer_start": 4}, {"text": "1443", "answer_start": 4}]
    squad = read_squad(write(tmp_path, question(1), question(2, answers=two)))
    assert squad.contexts == [CONTEXT]
    assert squad.articles == ["세종"]
    assert [(one.id, one.context, one.answers) for one in squad.questions] == [
        ("q1", 0, [(4, 9)]),
        ("q2", 0, [(4, 9), (4, 8)]),
    ]
    assert squad.bad == []


@pytest.mark.parametrize("version", ["KorQuAD_v1.0_train", "1.1", "v2.0", 1.1, "klue-mrc-v1.1"])
def test_known_versions(tmp_path: Path, version: Any) -> None:
    assert len(read_squad(write(tmp_path, question(1), version=version)).questions) == 1


@pytest.mark.parametrize("version", [None, "", "KorQuAD_v2.0_dev", "3.0", "11.10", ["1.1"]])
def test_other_versions_are_refused(tmp_path: Path, version: Any) -> None:
    with pytest.raises(InputError, match="version"):
        read_squad(write(tmp_path, question(1), version=version))


@pytest.mark.parametrize(
    ("raw", "reason", "spoils", "counted"),
    [
        ({"id": "q1"}, "already at data[0].paragraphs[0].qas[0]", "asking", True),
        ({"answers": [{"text": "1443년", "answer_start": 5}]}, "answer_start 5 does not fit", "training", True),
        ({"answers": [{"text": "1443년", "answer_start": -17}]}, "answer_start -17 does not fit", "training", True),
        ({"answers": [{"text": "1443년", "answer_start": "4"}]}, "answer_start '4' does not fit", "training", True),
        ({"answers": [{"text": "1443년"}]}, "answer_start None does not fit", "training", True),
        ({"answers": [{"text": "", "answer_start": 4}]}, "answer is empty", "training", True),
        ({"answers": [{"text": "1443\ud800", "answer_start": 4}]}, "broken UTF-8", "training", True),
        ({"is_impossible": True}, "is_impossible, but it has answers", "training", True),
        ({"answers": [{"text": 1443, "answer_start": 4}]}, "answer is not a string but int", "scoring", False),
        ({"answers": {"text": ["1443년"]}}, "`answers` is no list", "scoring", False),
        ({"answers": None}, "no answers", "scoring", False),
        ({"answers": []}, "no answers", "scoring", True),
        ({"question": " "}, "question is empty", "asking", True),
        ({"question": None}, "question is missing", "asking", True),
        ({"question": "\ud800"}, "broken UTF-8", "asking", True),
        ({"id": 7}, "id is not a string but int", "asking", True),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(
    tmp_path: Path, raw: dict[str, Any], reason: str, spoils: str, counted: bool
) -> None:
    """What spoils a question for training need not spoil it for scores: they count what the official script does."""
    file = write(tmp_path, question(1), question(2, **raw))
    for use in ("training", "scoring", "asking"):
        squad = read_squad(file, use=use, max_bad_fraction=0.5)
        is_bad = (use, spoils) not in {("scoring", "training"), ("asking", "training"), ("asking", "scoring")}
        assert [bad.place for bad in squad.bad] == ["data[0].paragraphs[0].qas[1]"] * is_bad
        assert all(reason in bad.reason and bad.spoils == spoils for bad in squad.bad)
        if use == "asking":
            assert [one.id for one in squad.questions] == ["q1", "q2"][: 2 - is_bad]
        else:
            assert [one.trainable for one in squad.questions] == [True, False][: 1 + counted]
            assert all(bad.counted == counted for bad in squad.bad)


def test_too_many_bad_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 2 questions are bad \(50.00%.*qas\[1\]: no answers"):
        read_squad(write(tmp_path, question(1), question(2, answers=[])))


@pytest.mark.parametrize("context", ["", " \n", None, 5])
def test_an_empty_context_costs_all_of_its_questions(tmp_path: Path, context: Any) -> None:
    with pytest.raises(InputError, match=r"none of its 2 questions can be used: data\[0\].paragraphs\[0\]: context is"):
        read_squad(write(tmp_path, question(1), question(2), context=context), max_bad_fraction=1)


def test_unanswerable_questions_have_no_answers(tmp_path: Path) -> None:
    squad = read_squad(write(tmp_path, question(1, answers=[], is_impossible=True), version="v2.0"))
    assert squad.questions[0].answers == []


def test_questions_without_labels(tmp_path: Path) -> None:
    squad = read_squad(write(tmp_path, {"id": "a", "question": "누가?"}), use="asking")
    assert [one.text for one in squad.questions] == ["누가?"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"data": 5, "version": "1.1"}', '{"version": "1.1", "data": []}'])
def test_other_content_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"file\.json"):
        read_squad(path)


def test_the_whole_korquad_dev_set_is_usable(shared: Path) -> None:
    squad = read_squad(shared / "data/korquad/KorQuAD_v1.0_dev.json", max_bad_fraction=0)
    assert (len(set(squad.articles)), len(squad.contexts), len(squad.questions)) == (140, 964, 5774)
