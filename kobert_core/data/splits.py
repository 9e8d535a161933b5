"""Which rows are trained on and which are held out: by class or by group, always from a seed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def stratified_split(labels: npt.ArrayLike, *, dev_fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Carve a dev split out of labelled rows, class by class.

    Args:
        labels: class of each row, shape (rows,).
        dev_fraction: share of the rows that goes to the dev split.
        seed: the same labels, share and seed always give the same split.

    Returns:
        Sorted row numbers of the training and of the dev split. Of each class, the dev split holds
        `dev_fraction` to within one row; a class of two or more rows is in both, a single row is trained on.

    Raises:
        ValueError: no rows, a share outside (0, 1), or every class has one row only.
    """
    classes = _as_vector(labels)
    _check_fraction(dev_fraction)
    members = _members(classes)
    sizes = np.array([len(rows) for rows in members])
    if sizes.max() < 2:
        raise ValueError("some class must have at least two rows, but every class has one only.")
    wanted = sizes * dev_fraction
    counts = _largest_remainder(wanted, total=round(wanted.sum()))
    counts = np.where(sizes > 1, np.clip(counts, 1, sizes - 1), 0)
    dev = _draw(members, counts, seed)
    return _rest(len(classes), dev), dev


def stratified_sample(labels: npt.ArrayLike, n: int, seed: int) -> Indices:
    """Draw `n` rows without replacement that keep the proportions of the classes (largest remainder).

    Args:
        labels: class of each row, shape (rows,).
        n: rows to draw.
        seed: the same labels, number and seed always give the same rows.

    Returns:
        Sorted row numbers, shape (n,).

    Raises:
        ValueError: no rows, or `n` outside 1 … rows.
    """
    classes = _as_vector(labels)
    if not 0 < n <= len(classes):
        raise ValueError(f"`0 < n <= {len(classes)}` (the number of rows) must hold, but got n={n}.")
    members = _members(classes)
    wanted = np.array([len(rows) for rows in members]) * n / len(classes)
    return _draw(members, _largest_remainder(wanted, total=n), seed)


def sample(rows: Indices, size: int | None, *, seed: int, labels: npt.ArrayLike | None = None) -> Indices:
    """Draw `size` of these rows, or take all where there are no more; `labels`, one a row, keep their proportions."""
    if size is None or size >= len(rows):
        return rows
    return rows[stratified_sample(np.zeros(len(rows)) if labels is None else labels, size, seed)]


def grouped_split(groups: Sequence[Hashable], *, dev_fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Carve a dev split out of whole groups, e.g. the articles of KorQuAD, which must not be in both.

    Args:
        groups: group of each row, shape (rows,).
        dev_fraction: share of the rows (not of the groups) that the dev split should have.
        seed: the same groups, share and seed always give the same split.

    Returns:
        Sorted row numbers of the training and of the dev split, neither empty. The dev split misses
        its share by at most the rows of the largest group.

    Raises:
        ValueError: fewer than two groups, or a share outside (0, 1).
    """
    _check_fraction(dev_fraction)
    members = _members_of_groups(groups)
    if len(members) < 2:
        raise ValueError(f"at least two groups must be there, but got {len(members)}.")
    sizes = [len(rows) for rows in members]
    target = len(groups) * dev_fraction
    chosen: set[int] = set()
    gap = target
    for number in _generator(seed).permutation(len(members)).tolist():
        if sizes[number] < 2 * gap:  # taking it brings the dev split nearer to its target
            chosen.add(number)
            gap -= sizes[number]
    smallest = int(np.argmin(sizes))
    if not chosen:
        chosen.add(smallest)
    elif len(chosen) == len(members):
        chosen.remove(smallest)
    dev = np.sort(np.concatenate([members[number] for number in sorted(chosen)]))
    return _rest(len(groups), dev), dev


def stratified_folds(labels: npt.ArrayLike, *, folds: int, seed: int) -> Indices:
    """Deal labelled rows out to folds, class by class.

    Args:
        labels: class of each row, shape (rows,).
        folds: how many.
        seed: the same labels, number and seed always give the same folds.

    Returns:
        The fold of each row, from 0 on, shape (rows,). Neither of a class nor of all rows does one fold have more than
        one row more than another.

    Raises:
        ValueError: fewer rows than folds.
    """
    classes = _as_vector(labels)
    if len(classes) < folds:
        raise ValueError(f"at least {folds} rows must be there, but got {len(classes)}.")
    generator = _generator(seed)
    in_order = np.concatenate([generator.permutation(rows) for rows in _members(classes)])
    numbers = np.empty(len(classes), dtype=np.int64)
    numbers[in_order] = np.arange(len(classes)) % folds
    return numbers


def grouped_folds(groups: Sequence[Hashable], *, folds: int, seed: int) -> Indices:
    """Deal whole groups out to folds, each to the smallest one so far.

    Args:
        groups: group of each row, shape (rows,).
        folds: how many.
        seed: the same groups, number and seed always give the same folds.

    Returns:
        The fold of each row, from 0 on, shape (rows,). The sizes of two folds differ by at most the largest group.

    Raises:
        ValueError: fewer groups than folds.
    """
    members = _members_of_groups(groups)
    if len(members) < folds:
        raise ValueError(f"at least {folds} groups must be there, but got {len(members)}.")
    numbers = np.empty(len(groups), dtype=np.int64)
    sizes = np.zeros(folds, dtype=np.int64)
    for group in _generator(seed).permutation(len(members)).tolist():
        fold = int(sizes.argmin())
        numbers[members[group]] = fold
        sizes[fold] += len(members[group])
    return numbers


FOLDS_OF: dict[Callable[..., tuple[Indices, Indices]], Callable[..., Indices]] = {
    stratified_split: stratified_folds,
    grouped_split: grouped_folds,
}
"""What deals rows out to folds, by what carves a single dev split out of them."""


def _as_vector(labels: npt.ArrayLike) -> npt.NDArray[np.generic]:
    vector = np.asarray(labels)
    if vector.ndim != 1 or len(vector) == 0:
        raise ValueError(f"labels must be one label a row, but got the shape {vector.shape}.")
    return vector


def _check_fraction(dev_fraction: float) -> None:
    if not 0 < dev_fraction < 1:
        raise ValueError(f"`0 < dev_fraction < 1` must hold, but got dev_fraction={dev_fraction}.")


def _generator(seed: int) -> np.random.Generator:
    # Named, not default_rng: what that stands for may change with numpy, and splits must not.
    return np.random.Generator(np.random.PCG64(seed))


def _members(classes: npt.NDArray[np.generic]) -> list[Indices]:
    """Row numbers of each class, classes and rows ascending."""
    _, inverse = np.unique(classes, return_inverse=True)
    order = np.argsort(inverse, kind="stable").astype(np.int64)
    return np.split(order, np.cumsum(np.bincount(inverse))[:-1])


def _members_of_groups(groups: Sequence[Hashable]) -> list[Indices]:
    """Row numbers of each group, rows ascending."""
    # Numbered by first appearance: no order among the names is needed, and no set decides the result.
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return _members(np.array([numbers[group] for group in groups])) if numbers else []


def _largest_remainder(wanted: npt.NDArray[np.float64], *, total: int) -> Indices:
    """Whole numbers that add up to `total`, each the floor or the ceiling of what was wanted."""
    counts = np.floor(wanted).astype(np.int64)
    largest = np.argsort(counts - wanted, kind="stable")
    counts[largest[: total - counts.sum()]] += 1
    return counts


def _draw(members: list[Indices], counts: Indices, seed: int) -> Indices:
    generator = _generator(seed)
    drawn = [generator.permutation(rows)[:count] for rows, count in zip(members, counts, strict=True)]
    return np.sort(np.concatenate(drawn))


def _rest(rows: int, taken: Indices) -> Indices:
    return np.setdiff1d(np.arange(rows, dtype=np.int64), taken, assume_unique=True)
