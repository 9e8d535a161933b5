"""What is said of data before it is trained on: counts that are right, and a line for each probable mistake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kobert_core.tasks import parse_train_config
from kobert_core.tasks.question_answering.task import Korquad
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.tiny import SIZES, tiny_config


def reviews(path: Path, texts: Sequence[str], labels: str) -> Path:
    rows = [f"{number}\t{text}\t{label}" for number, (text, label) in enumerate(zip(texts, labels, strict=True))]
    path.write_text("\n".join(["id\tdocument\tlabel", *rows]) + "\n", encoding="utf-8")
    return path


def numbered(name: str, count: int) -> list[str]:
    return [f"{name} 영화는 참 재미있다 {number}" for number in range(count)]


def nsmc(train: Path, **data: Any) -> Nsmc:
    return Nsmc(tiny_config(data={"train": train} | data))


def test_plain_data_has_counts_and_no_warning(tmp_path: Path) -> None:
    train = reviews(tmp_path / "train.tsv", numbered("첫", 40), "0001" * 10)
    test = reviews(tmp_path / "test.tsv", numbered("다른", 6), "010101")
    facts, warnings = nsmc(train).survey(test)
    assert warnings == []
    assert dict(facts) == {
        "classes in train": "22 negative, 8 positive",
        "classes in dev": "8 negative, 2 positive",
        "classes in test": "3 negative, 3 positive",
        "dev texts in train": "0 of 10 (0.00%)",
        "test texts in train": "0 of 6 (0.00%)",
    }


def test_texts_that_are_trained_on_are_counted(tmp_path: Path) -> None:
    texts = numbered("첫", 40)
    train = reviews(tmp_path / "train.tsv", texts, "01" * 20)
    dev = reviews(tmp_path / "dev.tsv", [f"  {texts[3]} ", texts[4], *numbered("또", 2)], "0101")
    test = reviews(tmp_path / "test.tsv", [texts[5] + "!", *texts[:3]], "0101")
    facts, warnings = nsmc(train, dev=dev).survey(test)
    assert dict(facts)["dev texts in train"] == "2 of 4 (50.00%)"
    assert warnings == [
        "2 of 4 (50.00%) texts of dev are trained on",
        "3 of 4 (75.00%) texts of test are trained on",
    ]
    repeated = reviews(tmp_path / "repeated.tsv", texts[:10] * 4, "01" * 20)
    facts, warnings = nsmc(repeated).survey(None)
    assert dict(facts)["dev texts in train"] == "10 of 10 (100.00%)", "also where the split is carved"


def test_a_test_file_that_is_the_training_file_is_told(tmp_path: Path) -> None:
    train = reviews(tmp_path / "train.tsv", numbered("첫", 40), "01" * 20)
    test = tmp_path / "copy.tsv"
    test.write_bytes(train.read_bytes())
    _, warnings = nsmc(train).survey(test)
    assert len(warnings) == 1 and "the test file has the same content as the train file" in warnings[0]
    _, warnings = nsmc(train, dev=train).survey(None)
    assert len(warnings) == 1 and "the dev file has the same content" in warnings[0]


def test_a_class_without_rows_and_a_split_of_one_class_are_told(tmp_path: Path) -> None:
    train = reviews(tmp_path / "train.tsv", numbered("첫", 40), "01" * 20)
    dev = reviews(tmp_path / "dev.tsv", numbered("또", 4), "1111")
    facts, warnings = nsmc(train, dev=dev).survey(None)
    assert warnings == ["all 4 rows of dev are of the class `positive`: nothing tells models apart there"]
    facts, warnings = nsmc(train, labels={"0": "bad", "1": "good", "2": "mixed"}).survey(None)
    assert dict(facts)["classes in train"] == "15 bad, 15 good, 0 mixed"
    assert warnings == ["train has no row of the class `mixed`", "dev has no row of the class `mixed`"]


def test_the_share_of_texts_that_are_cut_is_that_of_their_pieces(tmp_path: Path) -> None:
    train = reviews(tmp_path / "train.tsv", numbered("첫", 40), "01" * 20)
    whole = nsmc(train, max_length=200)
    longest = int(whole.train.lengths.max())
    expected = float((whole.train.lengths == longest).mean())
    shorter = tiny_config(data={"train": train, "max_length": longest - 1})
    (cut,) = Nsmc(shorter, tokenizer=whole.tokenizer).cut_off()
    assert (cut.key, cut.limit, cut.share) == ("data.max_length", longest - 1, expected) and expected > 0
    assert whole.cut_off()[0].share == 0.0
    assert nsmc(train, max_length=4).cut_off()[0].share == 1.0


def squad(path: Path, contexts: Sequence[str], *, answer: str = "1443년") -> Path:
    articles = []
    for number, context in enumerate(contexts):
        answers = [{"text": answer, "answer_start": context.index(answer)}]
        qas = [{"id": f"{path.stem}{number}{each}", "question": "언제 했나?", "answers": answers} for each in "ab"]
        paragraphs = [{"context": context, "qas": qas}]
        articles.append({"title": f"{path.stem} {number}", "paragraphs": paragraphs})
    path.write_text(json.dumps({"version": "KorQuAD_v1.0", "data": articles}), encoding="utf-8")
    return path


@pytest.fixture
def skt(shared: Path) -> dict[str, Any]:
    return {"init": "random", "config": SIZES, "backbone": str(shared / "models/skt-kobert-base-v1")}


def test_contexts_that_are_trained_on_and_answers_out_of_reach_are_told(tmp_path: Path, skt: dict[str, Any]) -> None:
    contexts = [f"{name}은 1443년에 큰 일을 했다." for name in ("세종", "장영실", "이순신", "이황", "이이")]
    train, test = squad(tmp_path / "train.json", contexts), squad(tmp_path / "test.json", ["1443년의 일.", contexts[0]])
    dev = squad(tmp_path / "dev.json", ["누가 1443년에 한 일인가."])

    def task(**data: Any) -> Korquad:
        values = {"task": "korquad", "data": {"train": train, "dev": dev} | data, "model": skt}
        return Korquad(parse_train_config(values))

    facts, warnings = task().survey(test)
    assert dict(facts)["questions in train"] == "10 questions on 5 contexts"
    assert dict(facts)["test contexts in train"] == "those of 2 of 4 (50.00%) questions"
    assert warnings == ["2 of 4 (50.00%) questions of test are on contexts that are trained on"]
    assert [cut.share for cut in task().cut_off()] == [0.0, 0.0]
    # Windows of one or two pieces hold no answer of three.
    narrow = task(max_seq_length=8, max_query_length=3, doc_stride=1)
    questions, answers = narrow.cut_off()
    assert questions.share == 1.0 and answers.share > answers.bearable
