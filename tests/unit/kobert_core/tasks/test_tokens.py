"""Entities from characters to tokens and back, and their scores against seqeval, scikit-learn and counts by hand."""

from __future__ import annotations

import random
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kobert_core.data.batching import IGNORED
from kobert_core.errors import InputError
from kobert_core.evaluation import predict
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import parse_train_config
from kobert_core.tasks.token_classification.config import TokenClassificationData
from kobert_core.tasks.token_classification.decoding import (
    entities_of,
    perfect_outputs,
    predicted,
    tagged_units,
)
from kobert_core.tasks.token_classification.examples import Windows, tag_names, windows_of
from kobert_core.tasks.token_classification.metrics import char_f1, count, entity_scores, label_report
from kobert_core.tasks.token_classification.task import TokenClassification
from kobert_core.tokenization import Tokenizer, load_tokenizer
from kobert_core.training import train
from tests.fixtures import entities
from tests.fixtures.tokenizers import TOKENIZERS, byte_level

LABELS = ["PS", "LC"]
NAMES = tag_names(LABELS)


def task_on(file: Path, tokenizer: Tokenizer, **data: Any) -> TokenClassification:
    values = {"train": file, "labels": LABELS, "max_length": 16} | data
    config = parse_train_config({"task": "tokens", "data": values, "model": {"init": "random", "tokenizer": "x"}})
    return TokenClassification(config, tokenizer=tokenizer)


def write(path: Path, text: str, spans: list[tuple[int, int, str]]) -> Path:
    tags = ["O"] * len(text)
    for start, end, label in spans:
        tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    path.write_text("".join(f"{one}\t{tag}\n" for one, tag in zip(text, tags, strict=True)), encoding="utf-8")
    return path


def found(task: TokenClassification, path: Path) -> list[tuple[int, int, str]]:
    """The entities that come out where each token has its target."""
    examples = task.read(path)
    (answer,) = task.answers(["1"], examples, perfect_outputs(examples))
    some: Any = answer["entities"]
    return [(one["start"], one["end"], one["label"]) for one in some]


# Characters and tokens


@pytest.mark.parametrize("kind", [*TOKENIZERS, "byte level"])
def test_entities_of_whole_tokens_come_back_whatever_the_tokenizer(kind: str, tmp_path: Path) -> None:
    """Unknown ones, some next to each other, with blanks within and marks around them."""
    tokenizer = (TOKENIZERS | {"byte level": byte_level})[kind](tmp_path)
    text = "뷁쀍 (정말) 영화 한 배우의 쀍"
    file = write(tmp_path / "a.tsv", text, [(0, 2, "PS"), (4, 6, "LC"), (8, 12, "LC"), (17, 18, "PS")])
    for length in (64, 6):
        task = task_on(file, tokenizer, max_length=length)
        ids, _ = tokenizer.encode_batch_flat([text])
        assert kind == "byte level" or tokenizer.unk_id in ids
        expected = [(0, 2, "PS"), (4, 6, "LC"), (8, 12, "LC"), (17, 18, "PS")]
        assert set(expected) - {(4, 6, "LC")} <= set(found(task, file))
        assert task.describe(file)["texts"] == 1


@pytest.mark.parametrize("name", ["skt-kobert-base-v1", "monologg-kobert", "e5-korean", "kcbert-base", "koelectra"])
def test_on_klue_all_but_what_ends_within_a_token_comes_back(name: str, shared: Path, tmp_path: Path) -> None:
    """Counted here from the tokens alone: an entity can be found if a token begins where it begins, and none holds its
    last character and one after it."""
    folder = shared / "models" / name
    if name in ("kcbert-base", "koelectra"):  # bare vocabularies
        folder = tmp_path
        shutil.copyfile(shared / "models" / name / "vocab.txt", folder / "vocab.txt")
        cased = '{"tokenizer_class": "BertTokenizer", "do_lower_case": false}'
        (folder / "tokenizer_config.json").write_text(cased, encoding="utf-8")
        (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    file, tokenizer = tmp_path / "klue.tsv", load_tokenizer(folder)
    lines = (shared / "data/klue/klue-ner-v1.1_dev.tsv").read_text(encoding="utf-8").split("\n\n")[:400]
    file.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    task = task_on(file, tokenizer, labels=[], max_length=24)
    sentences = task._read(file, max_bad_fraction=0.0).usable
    _, bounds, offsets = tokenizer.encode_batch_with_offsets([one.text for one in sentences])
    reachable = total = 0
    for sentence, (begin, end) in zip(sentences, pairwise(bounds.tolist()), strict=True):
        spans = [(s, e) for s, e in offsets[begin:end].tolist() if s < e]
        total += len(sentence.spans)
        for start, stop, _ in sentence.spans:
            begins = any(s == start for s, _ in spans)
            reachable += begins and not any(start <= s < stop < e for s, e in spans)
    scores = task.score(task.read(file), perfect_outputs(task.read(file)))
    assert scores["eval/recall"] == pytest.approx(reachable / total) and 0.7 < reachable / total < 1


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(2, 20), st.data())
def test_each_token_counts_in_one_window_where_it_has_the_most_context(
    sizes: list[int], room: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(1, room))
    windows = windows_of(np.array(sizes), room=room, step=step)
    assert windows.size.max() <= room
    for text, size in enumerate(sizes):
        mine = np.flatnonzero(windows.text == text)
        places = [
            place
            for number in mine
            for place in range(*(int(windows.first[number] + bound) for bound in windows.counted[number]))
        ]
        assert places == list(range(size)), "each once, in order"
        for number in mine:
            for place in range(*windows.counted[number].tolist()):
                at = int(windows.first[number]) + place
                contexts = {o: context_of(windows, o, at, size) for o in mine}
                assert contexts[number] >= max(contexts.values()) - 1


def context_of(windows: Windows, number: int, at: int, size: int) -> int:
    """How many tokens a window has on the shorter side of a token; a text has no more than all before and after it."""
    inside = at - int(windows.first[number])
    after = int(windows.size[number]) - 1 - inside
    if inside < 0 or after < 0:
        return -1
    return min(inside if windows.first[number] else size, after if at + after + 1 < size else size)


def test_the_targets_of_a_batch_are_those_of_the_tokens_that_count(tmp_path: Path) -> None:
    file = entities.write(tmp_path / "a.tsv", range(12))
    task = TokenClassification(entities.config_of(file, data={"max_length": 8, "stride": 3, "dev": file}))
    examples = task.train
    batch = examples.batch(np.arange(len(examples)))
    labels = batch.token_targets["labels"]
    tokens = len(examples.pieces["pieces"])
    assert (labels != IGNORED).sum() == task.total_weight(examples, np.arange(len(examples))) == tokens
    special = torch.isin(batch.inputs["input_ids"], torch.tensor([task.tokenizer.cls_id, task.tokenizer.sep_id]))
    assert (labels[special] == IGNORED).all() and len(examples) > 12
    padded = batch.padded(task.tokenizer.pad_id)
    assert padded["labels"].shape == padded["input_ids"].shape
    full = batch.fill(8)
    assert len(full.token_targets["labels"]) == full.shape.tokens
    assert (full.token_targets["labels"][batch.shape.tokens :] == IGNORED).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("given", ["balanced", [0.5, 2.0, 3.0]])
def test_tokens_weigh_as_their_label_does(given: Any, smoothing: float, tmp_path: Path) -> None:
    """Against PyTorch's weighted mean over the tokens that count, by weights counted here."""
    file = entities.write(tmp_path / "a.tsv", range(12))
    model = {"class_weights": given, "label_smoothing": smoothing, "dropout": 0.0}
    sections = {"data": {"max_length": 8, "stride": 3, "dev": file, "labels": ["PS", "LC"]}, "model": model}
    task = TokenClassification(entities.config_of(file, **sections))
    examples, rows = task.train, np.arange(len(task.train))
    targets = examples.batch(rows).token_targets["labels"]
    counts = [int(torch.isin(targets, torch.tensor(tags)).sum()) for tags in ([0], [1, 2], [3, 4])]
    assert min(counts) > 0
    by_label = [sum(counts) / (3 * count) for count in counts] if given == "balanced" else given
    weights = torch.tensor([by_label[0], *[by_label[1]] * 2, *[by_label[2]] * 2])
    built = task.build_model().eval()
    assert built.class_weights.tolist() == pytest.approx(weights.tolist())
    logits = built(**examples.batch(rows).inputs).logits
    expected = torch.nn.functional.cross_entropy(
        logits, targets, weight=weights, ignore_index=IGNORED, label_smoothing=smoothing
    )
    parts = [rows[:2], rows[2:5], rows[5:]]
    losses = sum(task.loss(built, examples.batch(part)) for part in parts)
    weight = sum(task.total_weight(examples, part) for part in parts)
    assert (losses / weight).item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any("class_weights" in name for name in built.state_dict()), "an export has none"


def test_weights_of_another_number_of_labels_are_refused(tmp_path: Path) -> None:
    file = entities.write(tmp_path / "a.tsv", range(12))
    task = TokenClassification(entities.config_of(file, model={"class_weights": [1.0, 2.0]}))
    told = r"2 weights for what is in no entity and 2 labels; give 3 numbers, or `balanced`"
    with pytest.raises(InputError, match=told):
        task.check_model()


def test_windows_that_leave_tokens_out_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`stride <= max_length - 2` must hold, .* but got 15 > 14"):
        TokenClassificationData(train=Path("x.tsv"), max_length=16, stride=15)


# Scores


def random_tags(generator: random.Random, sizes: list[int]) -> list[list[str]]:
    return [[generator.choice(["O", *NAMES]) for _ in range(size)] for size in sizes]


def arrays(sentences: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    tags = np.array([NAMES.index(tag) for sentence in sentences for tag in sentence], dtype=np.int64)
    return tags, np.repeat(np.arange(len(sentences)), list(map(len, sentences)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_scores_are_those_of_seqeval_for_any_tags(seed: int, sizes: list[int]) -> None:
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2

    generator = random.Random(seed)
    gold, given_tags = random_tags(generator, sizes), random_tags(generator, sizes)
    (golds, text), (tags, _) = arrays(gold), arrays(given_tags)
    counts = count(entities_of(golds, text), entities_of(tags, text), len(LABELS))
    if not counts.gold.any() and not counts.predicted.any():
        return  # seqeval has no average of nothing
    theirs = classification_report(gold, given_tags, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    scores = entity_scores(counts)
    assert scores["macro_f1"] == pytest.approx(theirs["macro avg"]["f1-score"])
    for name, key in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
        assert scores[name] == pytest.approx(theirs["micro avg"][key])
    for label, row in label_report(counts, LABELS).items():
        expected = theirs.get(label, {"precision": 0, "recall": 0, "f1-score": 0, "support": 0})
        assert row == pytest.approx(
            {
                "precision": expected["precision"],
                "recall": expected["recall"],
                "f1": expected["f1-score"],
                "support": expected["support"],
            }
        )


def test_scores_by_hand() -> None:
    gold = [["B-PS", "I-PS", "O", "B-LC"], ["B-PS", "B-PS", "O"]]
    said = [["B-PS", "I-PS", "O", "I-LC"], ["B-PS", "I-PS", "B-LC"]]
    (golds, text), (tags, _) = arrays(gold), arrays(said)
    counts = count(entities_of(golds, text), entities_of(tags, text), 2)
    assert [part.tolist() for part in counts] == [[3, 1], [2, 1], [1, 0]]
    assert entity_scores(counts) == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 4, "f1": 2 / 7, "macro_f1": (2 / 5 + 0) / 2}
    )
    # In the order of the tags, twice what is right of what is there and what is said.
    expected = np.mean([2 * 1 / (2 + 1), 2 * 2 / (3 + 2), 2 * 1 / (1 + 2), 0, 0])
    assert char_f1(golds, tags, 5) == pytest.approx(expected)
    assert char_f1(golds, tags, 7) == pytest.approx((5 * expected + 2) / 7), "tags that are nowhere count 1"


def test_an_entity_of_one_text_does_not_go_on_in_the_next() -> None:
    tags, text = arrays([["O", "B-PS"], ["I-PS", "O"]])
    assert entities_of(tags, text).keys() == {(1, 1, 0)}


def test_scores_are_of_words_where_the_file_tags_words(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("정말\tB-PS\n좋았다!\tI-PS\n다시\tO\n\n별로,\tB-LC\n", encoding="utf-8")
    task = task_on(file, TOKENIZERS["wordpiece"](tmp_path))
    examples = task.read(file)
    outputs = perfect_outputs(examples)
    assert task.score(examples, outputs) | {"eval/loss": 0.0} == {
        **dict.fromkeys(("eval/f1", "eval/precision", "eval/recall", "eval/macro_f1", "eval/accuracy"), 1.0),
        **{"eval/char_f1": 1.0, "eval/loss": 0.0, "eval/texts": 2},
    }
    outputs["tags"][0, 3:] = 0  # of the first word one token is left, and of the second none
    tagged = tagged_units(examples)
    tags, _ = predicted(examples, outputs, tagged)
    assert [NAMES[tag] for tag in tags] == ["B-PS", "O", "O", "B-LC"]
    scores = task.score(examples, outputs)
    assert (scores["eval/f1"], scores["eval/accuracy"]) == (0.5, 0.75)
    detail: Any = task.score_in_detail(examples, outputs)["entities"]
    assert detail["PS"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1} and detail["LC"]["f1"] == 1.0


def test_chance_is_no_entity_at_all(tmp_path: Path) -> None:
    file = entities.write(tmp_path / "a.tsv", range(40))
    task = TokenClassification(entities.config_of(file, data={"dev": file}))
    chances = {metric: task.chance(task.dev, metric) for metric in task.spec.metrics}
    text = file.read_text(encoding="utf-8")
    tags = [line.split("\t")[1] for line in text.split("\n") if "\t" in line and line[0] not in "# "]
    values = {metric: chance.value for metric, chance in chances.items() if chance}
    assert values["eval/f1"] == values["eval/recall"] == 0.0
    assert values["eval/accuracy"] == pytest.approx(tags.count("O") / len(tags))
    targets = task.dev.pieces["targets"]
    shares = np.bincount(targets[targets >= 0]) / (targets >= 0).sum()
    assert values["eval/loss"] == pytest.approx(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    assert task.chance(task.dev, "train/loss") is None


# The task


def test_it_learns_and_says_where_the_entities_are(tmp_path: Path) -> None:
    file = entities.write(tmp_path / "a.tsv", range(300))
    config = entities.config_of(file, train={"epochs": 8}, model={"label_smoothing": 0.05})
    task = TokenClassification(config)
    model = train(config, task, LocalRuntime(device=torch.device("cpu"))).eval()
    runtime = LocalRuntime(device=torch.device("cpu"))
    outputs = predict(model, task, task.dev, runtime)
    scores = task.score(task.dev, outputs)
    assert scores["eval/f1"] > 0.95
    batch = task.dev.batch(np.arange(len(task.dev)))
    loss = torch.nn.functional.cross_entropy(model(**batch.inputs).logits, batch.token_targets["labels"])
    assert scores["eval/loss"] == pytest.approx(loss.item(), abs=1e-5)
    (tmp_path / "new.txt").write_text("유나는 부산에서 사과를 샀다.\n민수는 사과를 샀다.\n", encoding="utf-8")
    (inputs,) = task.input_parts(tmp_path / "new.txt")
    first, second = task.answers(inputs.ids, inputs.examples, predict(model, task, inputs.examples, runtime))
    some: Any = first["entities"]
    assert [(one["start"], one["end"], one["label"], one["text"]) for one in some] == [
        (0, 2, "PS", "유나"),
        (4, 6, "LC", "부산"),
    ]
    assert all(0.5 < one["score"] <= 1 for one in some)
    assert second["id"] == "2" and [one["text"] for one in second["entities"]] == ["민수"]  # type: ignore[attr-defined]


def test_what_people_are_told(tmp_path: Path) -> None:
    content = entities.klue(range(40)) + "\n가\tB-PS\n나\tI-LC\n" + "\n" + entities.klue(range(3))
    (tmp_path / "a.tsv").write_text(content, encoding="utf-8")
    test = entities.write(tmp_path / "test.tsv", range(0, 44, 4))
    config = entities.config_of(tmp_path / "a.tsv", data={"max_bad_fraction": 0.05, "max_length": 10})
    task = TokenClassification(config)
    assert list(task.data.labels) == ["LC", "PS"], "from the file, and in the config from now on"
    assert [str(bad) for bad in task.bad_rows(tmp_path / "a.tsv")] == [
        f"line {content.split('가	B-PS')[0].count(chr(10)) + 1}: tag 2: I-LC continues no entity (IOB2)"
    ]
    facts, warnings = task.survey(test)
    told = dict(facts)
    assert told["entities in train"].endswith(f"in {task.train.items} texts") and "PS" in told["entities in dev"]
    assert told["test texts in train"].endswith("%)")
    assert any(line.startswith("test has no entity of the label `LC`") for line in warnings)
    (cut,) = task.cut_off()
    assert cut.key == "data.max_length" and 0 < cut.share <= 1
    described: Any = task.describe(tmp_path / "a.tsv")
    assert described["texts"] == 43 and described["set_aside"] == 1
    assert described["entities"]["PS"] == 43 and described["texts_without_entities"] == 0
    assert described["ceiling"].keys() == {"f1", "char_f1"}


def test_both_splits_have_the_rare_labels(tmp_path: Path) -> None:
    blocks = [f"가\tB-{'XX' if number < 4 else 'PS'}\n나\tO\n" for number in range(60)]
    (tmp_path / "a.tsv").write_text("\n".join(blocks), encoding="utf-8")
    task = TokenClassification(
        entities.config_of(tmp_path / "a.tsv", model={"tokenizer": "x", "tokenizer_vocab_size": None}),
        tokenizer=TOKENIZERS["wordpiece"](tmp_path),
    )
    facts = dict(task.survey(None).facts)
    assert (
        facts["entities in dev"] == "14 PS, 1 XX in 15 texts"
        and facts["entities in train"] == "42 PS, 3 XX in 45 texts"
    )


def test_several_files_are_one_and_name_their_bad_texts(tmp_path: Path) -> None:
    blocks = [f"가\tB-{label}\n나\tO\n" for label in ("PS", "LC")] * 10
    (tmp_path / "a.tsv").write_text("\n".join(blocks), encoding="utf-8")
    (tmp_path / "b.tsv").write_text("\n".join([*blocks, "다\tB-XX\n"]), encoding="cp949")
    task = task_on(
        tmp_path / "*.tsv", TOKENIZERS["wordpiece"](tmp_path), max_bad_fraction=0.1, format="klue", dev_fraction=0.25
    )
    assert task.train.items + task.dev.items == 40
    assert [str(bad) for bad in task.bad_rows(task.data.train)] == [
        "b.tsv:61: the label 'XX' is none of PS, LC (`data.labels`)"
    ]


def test_texts_are_those_of_the_items_where_some_are_set_aside(tmp_path: Path) -> None:
    """A text whose tags make no sense could be predicted all the same: it is no item of the file."""
    blocks = ["바\tB-XX\n", *(f"{name}\tB-{label}\n" for name in "가나다라" for label in ("PS", "LC"))]
    (tmp_path / "a.tsv").write_text("\n".join(blocks), encoding="utf-8")
    task = task_on(tmp_path / "a.tsv", TOKENIZERS["wordpiece"](tmp_path), max_bad_fraction=0.2, format="klue")
    texts = task.texts(task.data.train)["text"]
    assert texts == [(name,) for name in "가가나나다다라라"]
    assert task.texts(task.data.train, items=np.array([7, 0]))["text"] == [("라",), ("가",)]
    split = task.texts_of_splits(None)
    assert len(split["train"]["text"]) == task.train.items and len(split["dev"]["text"]) == task.dev.items
