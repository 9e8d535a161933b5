"""Files with entities: each format comes to the same spans, and what cannot be used is named."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobert_core.data.source import LocalPart
from kobert_core.errors import InputError
from kobert_core.tasks.token_classification.formats import format_of
from kobert_core.tasks.token_classification.sentences import (
    Sentences,
    infer_labels,
    read_sentences,
    text_parts,
)
from kobert_core.tasks.token_classification.tags import Scheme, Span, parse, scheme_of, spans_of
from tests.fixtures.commands import ROOT

DOCS = (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8")
LABELS = ["LC", "LOC", "PER", "PS"]
SUFFIXES = {"klue": ".tsv", "conll": ".txt", "table": ".tsv", "jsonl": ".jsonl"}


def read(path: Path, kind: Any = "auto", labels: list[str] = LABELS, share: float = 1.0) -> Sentences:
    return read_sentences(path, kind, "text", labels, max_bad_fraction=share)


def entities(found: Sentences) -> list[list[tuple[str, str]]]:
    return [[(one.text[start:end], label) for start, end, label in one.spans] for one in found.usable]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: str, name: str = "file.tsv") -> Path:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize("example", re.findall(r"^```(klue|conll|table|jsonl)\n(.*?)^```", DOCS, re.M | re.S))
def test_the_examples_of_the_docs_are_read_as_they_stand(example: tuple[str, str], file: Any) -> None:
    kind, content = example
    path = file(content, f"file{SUFFIXES[kind]}")
    assert format_of(LocalPart(path)) == {"jsonl": "records"}.get(kind, kind)
    found = read(path)
    assert found.bad == [] and [one.text for one in found.usable] == ["박씨는 서울에 산다"]
    by_words = [("박씨는", "PER"), ("서울에", "LOC")]
    assert entities(found) in ([by_words], [[("박", "PS"), ("서울", "LC")]])
    assert infer_labels(path, "auto", "text") == sorted({label for _, label in entities(found)[0]})


def test_the_study_of_the_docs_is_one(file: Any, tmp_path: Path) -> None:
    from tuning.study import load_study

    (study,) = re.findall(r"^```yaml\n(.*?)^```", DOCS, re.M | re.S)
    (klue,) = re.findall(r"^```klue\n(.*?)^```", DOCS, re.M | re.S)
    file(klue, "train.tsv")
    data = load_study(file(study, "study.yaml")).data
    assert list(data.labels) == ["LC", "PS"]  # type: ignore[attr-defined]
    assert load_study(tmp_path / "study.yaml", ["data.labels=[PS]"]).data.labels == ("PS",)  # type: ignore[attr-defined]


def test_comments_ids_and_line_ends_of_klue(file: Any) -> None:
    content = "## 주석\t##\r\n## a\t<가:PS>\r\n가\tB-PS\r\n#\tO\r\n\r\n\t\r\n나\tO\r\n"
    found = read(file(content))
    assert [(one.id, one.text) for one in found.usable] == [("a", "가#"), ("7", "나")] and found.bad == []


def test_words_of_conll_between_comments_and_other_columns(file: Any) -> None:
    found = read(
        file("-DOCSTART- -X- O\n\n# sent_id = 1\n박 NNP B-PS\n# SY O\n\n\n서울 NNP B-LC\n역 NNG I-LC\n", "f.conll")
    )
    assert [one.text for one in found.usable] == ["박 #", "서울 역"]
    assert entities(found) == [[("박", "PS")], [("서울 역", "LC")]]
    assert found.usable[1].words == [(0, 2), (3, 4)]


def test_a_table_may_have_a_header_and_keeps_its_blanks(file: Any) -> None:
    found = read(file("sentence\ttags\n박씨가  갔다\tPS_B -\n서울\tLC_B\n", "f.txt"))
    assert [one.text for one in found.usable] == ["박씨가  갔다", "서울"]
    assert entities(found) == [[("박씨가", "PS")], [("서울", "LC")]]


def test_tokens_that_are_characters_are_not_parted_by_blanks(tmp_path: Path) -> None:
    """As `datasets` has KLUE-NER."""
    rows = {"tokens": [["박", "씨", " ", "집"]], "ner_tags": [["B-PS", "O", "O", "O"]]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert found.usable[0].text == "박씨 집" and found.usable[0].words is None


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "가나", "entities": [[0, 3, "PS"]]}, "the entity 0:3 is outside of the text of 2 characters"),
        ({"text": "가나", "entities": [[1, 1, "PS"]]}, "the entity 1:1 is outside"),
        ({"text": "가나다", "entities": [[0, 2, "PS"], [1, 3, "LC"]]}, "entities overlap"),
        ({"text": "가 나", "entities": [[1, 2, "PS"]]}, "the entity 1:2 is blank"),
        ({"text": "가나", "entities": [[0, 1, "XX"]]}, "the label 'XX' is none of LC, LOC, PER, PS (`data.labels`)"),
        ({"text": "가나", "entities": [[0, "1", "PS"]]}, "entity 1 has no start, end and label"),
        ({"text": "가나", "entities": [[True, 1, "PS"]]}, "entity 1 has no start, end and label"),
        ({"text": "가나", "entities": None}, "no list of entities"),
        ({"text": " ", "entities": []}, "empty text"),
        ({"text": "가\0", "entities": []}, "NUL character"),
        ({"text": 3, "entities": []}, "no text"),
    ],
)
def test_a_record_that_cannot_be_used_is_set_aside(record: dict[str, Any], reason: str, file: Any) -> None:
    good = {"text": "가나", "entities": [{"start_offset": 0, "end_offset": 2, "label": "PS"}]}
    content = "".join(json.dumps(one) + "\n" for one in (good, record))
    found = read(file(content, "a.jsonl"))
    assert entities(found) == [[("가나", "PS")]]
    assert [str(bad) for bad in found.bad] == [str(found.bad[0])] and str(found.bad[0]).startswith(f"line 2: {reason}")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"tokens": ["가", "나"], "ner_tags": ["O"]}, "1 tags for 2 tokens"),
        ({"tokens": ["가"], "ner_tags": [3]}, "the tags are no list of texts, such as B-PS"),
        ({"tokens": ["가"], "ner_tags": None}, "no tags"),
        ({"tokens": [], "ner_tags": []}, "`tokens` is no list of texts"),
        ({"tokens": ["가", " "], "ner_tags": ["O", "O"]}, "an empty word"),
        ({"tokens": ["가"], "ner_tags": ["PS"]}, "'PS' is no tag"),
        ({"tokens": ["가", "나"], "ner_tags": ["O", "I-PS"]}, "tag 2: I-PS continues no entity (IOB2)"),
    ],
)
def test_tokens_that_cannot_be_used_are_set_aside(record: dict[str, Any], reason: str, file: Any) -> None:
    good = {"tokens": ["박씨가", "갔다"], "ner_tags": ["B-PS", "O"]}
    found = read(file(json.dumps(good) + "\n" + json.dumps(record), "a.jsonl"))
    assert entities(found) == [[("박씨가", "PS")]] and str(found.bad[0]).startswith(f"line 2: {reason}")


NUMBERED = [
    {"tokens": ["박씨는", "서울에", "산다"], "ner_tags": [1, 3, 0]},
    {"tokens": ["한강", "공원에", "간다"], "ner_tags": [3, 4, 0]},
    {"tokens": ["또", "간다"], "ner_tags": [0, 0]},
]
NAMES = ("O", "B-PS", "I-PS", "B-LC", "I-LC")


def test_numbers_are_listed_and_never_guessed(file: Any) -> None:
    path = file("\n".join(map(json.dumps, NUMBERED)), "a.jsonl")
    with pytest.raises(InputError) as refused:
        read(path)
    assert "'ner_tags' has numbers in the place of tags: 0 (4), 1 (1), 3 (2), 4 (1); name the tags of 0 to 4" in str(
        refused.value
    )
    with pytest.raises(InputError, match="has numbers in the place of tags"):
        infer_labels(path, "auto", "text")
    usable = [one for part in text_parts(path, "text", max_bad_fraction=0.0) for one in part.usable]
    assert [one.text for one in usable] == ["박씨는 서울에 산다", "한강 공원에 간다", "또 간다"], (
        "to predict they are not asked for"
    )


def test_the_line_of_the_docs_on_numbers_is_what_is_said(file: Any) -> None:
    rows = [NUMBERED[0], {"tokens": ["또", "다시", "간다", "."], "ner_tags": [0, 0, 0, 0]}]
    with pytest.raises(InputError) as refused:
        read(file("\n".join(map(json.dumps, rows)), "a.jsonl"))
    assert str(refused.value).partition(": ")[2] in DOCS


def test_numbers_are_the_tags_that_the_study_names(file: Any) -> None:
    wrong = {"tokens": ["가"], "ner_tags": [5]}
    path = file("\n".join(map(json.dumps, [*NUMBERED, wrong])), "a.jsonl")
    found = read_sentences(path, "auto", "text", LABELS, max_bad_fraction=1.0, tag_names=NAMES)
    assert entities(found) == [[("박씨는", "PS"), ("서울에", "LC")], [("한강 공원에", "LC")], []]
    assert [str(bad) for bad in found.bad] == ["line 4: the tag 5 is none of 0 to 4, which `data.tag_names` names"]
    assert infer_labels(path, "auto", "text", tag_names=NAMES) == ["LC", "PS"]


def test_a_study_names_the_tags_of_numbers(file: Any, tmp_path: Path) -> None:
    from tuning.study import load_study

    file("\n".join(map(json.dumps, NUMBERED)), "a.jsonl")
    (study,) = re.findall(r"^```yaml\n(.*?)^```", DOCS, re.M | re.S)
    path = file(study.replace("train.tsv", "a.jsonl"), "study.yaml")
    named = f"data.tag_names=[{', '.join(NAMES)}]"
    assert load_study(path, [named]).data.labels == ("LC", "PS")  # type: ignore[attr-defined]
    for wrong, told in (("[O, PS]", "'PS' is no tag: they are written O, B-PS"), ("[O, O]", "'O' is given twice")):
        with pytest.raises(InputError, match=told):
            load_study(path, [f"data.tag_names={wrong}"])


def test_a_saved_data_set_names_its_numbers_itself(tmp_path: Path) -> None:
    """A `Sequence` of `ClassLabel`, as the hub has KLUE-NER, in the way of datasets 4 and in those before it."""
    import datasets

    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=list(NAMES))),
        }
    )
    datasets.Dataset.from_list(NUMBERED, features=features).save_to_disk(tmp_path / "saved")
    info = tmp_path / "saved" / "dataset_info.json"
    written = json.loads(info.read_text(encoding="utf-8"))
    for kind in (written["features"]["ner_tags"]["_type"], "Sequence"):
        written["features"]["ner_tags"]["_type"] = kind
        info.write_text(json.dumps(written), encoding="utf-8")
        found = read(tmp_path / "saved", share=0.0)
        assert entities(found) == [[("박씨는", "PS"), ("서울에", "LC")], [("한강 공원에", "LC")], []]
    assert infer_labels(tmp_path / "saved", "auto", "text") == ["LC", "PS"]  # type: ignore[arg-type]


def test_broken_lines_cost_their_sentence_alone_and_too_many_the_file(file: Any) -> None:
    path = file("가\tB-PS\n나다\tO\n\n가\tB-PS\n" + "\n나\tO\n" * 40)
    found = read(path)
    assert len(found.usable) == 41 and [str(bad) for bad in found.bad] == ["line 2: no character, tab and tag"]
    with pytest.raises(InputError, match=r"1 of 42 texts are bad \(2\.38%, at most 1\.00% may be\): line 2: no char"):
        read(path, share=0.01)


def test_a_file_of_no_known_format_is_refused(file: Any) -> None:
    path = file("id\tdocument\tlabel\n1\t좋다\t1\n")
    with pytest.raises(InputError, match=r"of no format that is known; name it, `data\.format: klue`"):
        read(path)
    with pytest.raises(
        InputError, match=r"needs the columns 'tokens' and 'ner_tags', or 'text' and 'entities'; it has"
    ):
        read(file('{"a": 1}', "a.jsonl"))
    with pytest.raises(InputError, match="no text has an entity"):
        infer_labels(file("가\tO\n"), "auto", "text")
    with pytest.raises(InputError, match="there is no such file"):
        read(path.with_name("none.tsv"))


def in_scheme(spans: list[Span], size: int, scheme: Scheme) -> list[str]:
    """The tags of spans, written by the definition of each scheme."""
    tags = ["O"] * size
    for number, (start, end, label) in enumerate(spans):
        before = spans[number - 1] if number else None
        touches = before is not None and before.end == start and before.label == label
        for place in range(start, end):
            first, last = place == start, place == end - 1
            if scheme == "BIOES":
                prefix = "S" if first and last else "B" if first else "E" if last else "I"
            else:
                prefix = "B" if first and (scheme == "IOB2" or touches) else "I"
            tags[place] = f"{prefix}-{label}"
    return tags


@st.composite
def some_spans(draw: Any) -> tuple[list[Span], int]:
    lengths = draw(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([None, "PS", "LC"])), max_size=8))
    ends = list(itertools.accumulate(length for length, _ in lengths))
    spans = [
        Span(end - length, end, label) for end, (length, label) in zip(ends, lengths, strict=True) if label is not None
    ]
    return spans, ends[-1] if ends else 0


@given(some_spans(), st.sampled_from(["IOB2", "IOB1", "BIOES"]))
def test_all_schemes_come_to_the_same_spans(given_spans: tuple[list[Span], int], scheme: Scheme) -> None:
    spans, size = given_spans
    tags = [parse(tag) for tag in in_scheme(spans, size, scheme)]
    assert spans_of(tags, scheme) == spans
    if spans:
        assert scheme_of([tags]) == scheme
    swapped = [tag.replace("E-", "L-").replace("S-", "U-") for tag in in_scheme(spans, size, scheme)]
    swapped = [f"{tag[2:]}_{tag[0]}" if tag != "O" else "-" for tag in swapped]
    assert [parse(tag) for tag in swapped] == tags


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ("B-A B-A E-A", "tag 1: the entity 'A' has no end"),
        ("S-A I-A", "tag 2: I-A comes after the end"),
        ("E-A", "tag 1: I-A continues no entity"),
    ],
)
def test_tags_against_bioes(tags: str, reason: str, file: Any) -> None:
    found = read(file(f"가 나\tS-A O\n가 나 다\t{tags}{' O' * (3 - len(tags.split()))}\n"), labels=["A"])
    assert str(found.bad[0]).startswith(f"line 2: {reason}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "박씨는 서울에 산다\n\n 갔다 \n"),
        ("a.tsv", "id\ttext\n1\t박씨는 서울에 산다\n2\t\n3\t 갔다 \n"),
        ("a.csv", "text\n박씨는 서울에 산다\n\n 갔다 \n"),
        ("a.jsonl", '{"text": "박씨는 서울에 산다"}\n{"text": ""}\n{"text": " 갔다 "}\n'),
    ],
)
def test_texts_to_predict_come_in_many_forms(name: str, content: str, file: Any) -> None:
    (found,) = text_parts(file(content, name), "text", max_bad_fraction=0.5)
    assert [one.text for one in found.usable] == ["박씨는 서울에 산다", " 갔다 "]
    assert len(found.bad) == 1 and all(one.words is None and one.spans == [] for one in found.usable)


def test_a_labelled_file_is_predicted_in_its_own_units(file: Any) -> None:
    (found,) = text_parts(file("1\t박씨는\tPS_B\n2\t산다\tXX_I\n"), "text", max_bad_fraction=0.0)
    assert [(one.text, one.words, one.spans) for one in found.usable] == [("박씨는 산다", [(0, 3), (4, 6)], [])]
