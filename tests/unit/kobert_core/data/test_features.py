"""Examples for the loop and for a plain DataLoader: the same tokens either way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kobert_core.data.cache import cached_arrays
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.tiny import tiny_config


def test_examples_are_the_tokens_of_their_texts(cache: Path) -> None:
    task = Nsmc(tiny_config(data={"max_length": 12}), cache=cache)
    texts = task.read_rows(task.data.train).texts
    for examples in (task.train, task.dev):
        indices = np.array([0, 7, 3, len(examples) - 1])
        tokens = [task.tokenizer.encode(texts[row], max_length=12) for row in examples.rows[indices]]
        batch = examples.batch(indices)
        assert batch.inputs["input_ids"].tolist() == [one for ids in tokens for one in ids]
        assert batch.inputs["position_ids"].tolist() == [place for ids in tokens for place in range(len(ids))]
        assert batch.inputs["lengths"] == [len(ids) for ids in tokens] == batch.inputs["starts"].diff().tolist()
        assert batch.inputs["lengths"] == examples.lengths[indices].tolist() and max(examples.lengths) == 12
        assert not batch.inputs["token_type_ids"].any()
        assert batch.targets["labels"].tolist() == examples.labels[indices].tolist()
        padded = batch.padded(task.tokenizer.pad_id)
        for row, mask, ids in zip(padded["input_ids"].tolist(), padded["attention_mask"].tolist(), tokens, strict=True):
            rest = [task.tokenizer.pad_id] * (len(row) - len(ids))
            assert row == ids + rest and mask == [1] * len(ids) + [0] * len(rest)


def test_the_splits_share_no_example_and_all_of_a_file_is_in_one(cache: Path) -> None:
    task = Nsmc(tiny_config(), cache=cache)
    assert sorted([*task.train.rows, *task.dev.rows]) == list(range(480))
    sampled = Nsmc(tiny_config(data={"max_train_examples": 100, "max_dev_examples": 20}), cache=cache)
    assert len(sampled.train) == 100 and len(sampled.dev) == 20
    assert set(sampled.train.rows) <= set(task.train.rows) and set(sampled.dev.rows) <= set(task.dev.rows)
    assert np.bincount(sampled.train.labels).tolist() == [50, 50]


def test_runs_of_one_process_share_a_tokenizer(cache: Path) -> None:
    one, other = (Nsmc(tiny_config(optim={"backbone_lr": rate}), cache=cache) for rate in (1e-3, 1e-4))
    assert one.tokenizer is other.tokenizer


def test_a_file_is_read_once_for_its_features_and_its_facts(tmp_path: Path) -> None:
    task = Nsmc(tiny_config(model={"tokenizer": None}), cache=tmp_path, tokenizer=Nsmc(tiny_config()).tokenizer)
    task.read(task.data.train)
    entries = {entry.name for entry in tmp_path.iterdir()}
    assert len(entries) == 2
    assert len(task.train) == 360 and task.bad_rows(task.data.train) == []
    assert {entry.name for entry in tmp_path.iterdir()} == entries


@pytest.mark.parametrize("cached", [True, False])
def test_arrays_in_parts_are_joined(tmp_path: Path, cached: bool) -> None:
    parts = [{"a": np.arange(3 * n).reshape(n, 3), "b": np.array([n], dtype=np.int32)} for n in (2, 0, 1000)]
    arrays = cached_arrays(tmp_path if cached else None, {"parts": 3}, lambda: iter(parts))
    for name in ("a", "b"):
        expected = np.concatenate([part[name] for part in parts])
        assert arrays[name].dtype == expected.dtype and np.array_equal(arrays[name], expected)
