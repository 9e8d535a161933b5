from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kobert_core.data.splits import (
    grouped_folds,
    grouped_split,
    stratified_folds,
    stratified_sample,
    stratified_split,
)

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=200)
FRACTIONS = st.floats(0.01, 0.99)
SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(LABELS, FRACTIONS, SEEDS)
def test_stratified_split_is_a_partition_that_keeps_proportions(labels: list[int], fraction: float, seed: int) -> None:
    classes, sizes = np.unique(labels, return_counts=True)
    if sizes.max() < 2:
        with pytest.raises(ValueError, match="at least two rows"):
            stratified_split(labels, dev_fraction=fraction, seed=seed)
        return
    train, dev = stratified_split(labels, dev_fraction=fraction, seed=seed)
    assert train.dtype == dev.dtype == np.int64
    assert sorted([*train.tolist(), *dev.tolist()]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all() and (np.diff(dev) > 0).all()
    for name, size in zip(classes, sizes, strict=True):
        in_dev = int((np.array(labels)[dev] == name).sum())
        if size == 1:
            assert in_dev == 0
        else:
            assert abs(in_dev - fraction * size) < 1
            assert 0 < in_dev < size


def test_stratified_split_of_many_rows_is_exact() -> None:
    labels = [0] * 600 + [1] * 300 + [2] * 100
    _, dev = stratified_split(labels, dev_fraction=0.1, seed=0)
    assert np.bincount(np.array(labels)[dev]).tolist() == [60, 30, 10]


def test_stratified_split_follows_the_seed() -> None:
    labels = [0, 1] * 100
    first = stratified_split(labels, dev_fraction=0.2, seed=1)[1].tolist()
    assert first == stratified_split(labels, dev_fraction=0.2, seed=1)[1].tolist()
    assert first != stratified_split(labels, dev_fraction=0.2, seed=2)[1].tolist()


def test_splits_of_a_seed_never_change() -> None:
    # Sweeps of different days and numpy versions are compared on the same dev split.
    assert stratified_split([0, 1] * 10, dev_fraction=0.3, seed=7)[1].tolist() == [0, 5, 9, 14, 16, 17]
    assert grouped_split(list("aabbbccddd"), dev_fraction=0.3, seed=7)[1].tolist() == [0, 1]
    assert stratified_folds([0, 1] * 5, folds=3, seed=7).tolist() == [1, 2, 0, 0, 0, 0, 1, 2, 2, 1]
    assert grouped_folds(list("aabbbccddd"), folds=3, seed=7).tolist() == [0, 0, 2, 2, 2, 1, 1, 0, 0, 0]


@settings(deadline=None)
@given(LABELS, SEEDS, st.data())
def test_stratified_sample_keeps_proportions(labels: list[int], seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(labels)))
    drawn = stratified_sample(labels, n, seed)
    assert len(drawn) == len(set(drawn.tolist())) == n
    assert (np.diff(drawn) > 0).all()
    counts = np.bincount(np.array(labels)[drawn], minlength=5)
    wanted = np.bincount(labels, minlength=5) * n / len(labels)
    assert (np.abs(counts - wanted) < 1).all()


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=100), FRACTIONS, SEEDS)
def test_grouped_split_keeps_groups_whole(groups: list[str], fraction: float, seed: int) -> None:
    if len(set(groups)) < 2:
        with pytest.raises(ValueError, match="at least two groups"):
            grouped_split(groups, dev_fraction=fraction, seed=seed)
        return
    train, dev = grouped_split(groups, dev_fraction=fraction, seed=seed)
    assert sorted([*train.tolist(), *dev.tolist()]) == list(range(len(groups)))
    assert len(train) and len(dev)
    assert not {groups[row] for row in train} & {groups[row] for row in dev}
    largest = max(groups.count(group) for group in groups)
    assert abs(len(dev) - fraction * len(groups)) <= largest


def test_grouped_split_of_many_groups_meets_its_share() -> None:
    groups = [f"article {number}" for number in range(140) for _ in range(20 + number % 7)]
    _, dev = grouped_split(groups, dev_fraction=0.1, seed=3)
    assert abs(len(dev) / len(groups) - 0.1) < 0.005


@settings(deadline=None)
@given(LABELS, st.integers(2, 12), SEEDS)
def test_stratified_folds_are_alike(labels: list[int], folds: int, seed: int) -> None:
    if len(labels) < folds:
        with pytest.raises(ValueError, match=f"at least {folds} rows must be there, but got {len(labels)}"):
            stratified_folds(labels, folds=folds, seed=seed)
        return
    numbers = stratified_folds(labels, folds=folds, seed=seed)
    assert np.ptp(np.bincount(numbers, minlength=folds)) <= 1 and numbers.max() < folds
    for name in set(labels):
        assert np.ptp(np.bincount(numbers[np.array(labels) == name], minlength=folds)) <= 1
    assert (numbers == stratified_folds(labels, folds=folds, seed=seed)).all()


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=100), st.integers(2, 6), SEEDS)
def test_grouped_folds_keep_groups_whole(groups: list[str], folds: int, seed: int) -> None:
    if len(set(groups)) < folds:
        with pytest.raises(ValueError, match=f"at least {folds} groups must be there"):
            grouped_folds(groups, folds=folds, seed=seed)
        return
    numbers = grouped_folds(groups, folds=folds, seed=seed)
    assert all(len(set(numbers[np.array(groups) == name])) == 1 for name in set(groups))
    sizes = np.bincount(numbers, minlength=folds)
    assert len(sizes) == folds and sizes.min() > 0
    assert np.ptp(sizes) <= max(groups.count(name) for name in groups)


def test_folds_follow_the_seed() -> None:
    labels, groups = [0, 1] * 50, [number // 5 for number in range(100)]
    for deal, rows in ((stratified_folds, labels), (grouped_folds, groups)):
        assert (deal(rows, folds=5, seed=1) != deal(rows, folds=5, seed=2)).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_0_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="`0 < dev_fraction < 1` must hold, but got"):
        stratified_split([0, 1, 0, 1], dev_fraction=fraction, seed=0)
    with pytest.raises(ValueError, match="`0 < dev_fraction < 1` must hold, but got"):
        grouped_split(["a", "b"], dev_fraction=fraction, seed=0)


@pytest.mark.parametrize("n", [0, -1, 5])
def test_a_sample_of_more_than_there_is_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=r"`0 < n <= 4` .* must hold, but got n="):
        stratified_sample([0, 1, 0, 1], n, 0)


def test_no_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="one label a row"):
        stratified_split([], dev_fraction=0.5, seed=0)
