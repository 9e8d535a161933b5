"""What replays say of searches, as Markdown: compute to the target, the gap on the way, and who is ahead of whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from simulate import TOP, Replay

from tuning.statistics.halving import total_runs

TARGET = 0.2
"""Points."""
STOPS = (1, 2, 4, 8, 16, 32, 64)
REFERENCES = ("TPE and ASHA, complete first", "random, to the end")
"""The product's default until November 2026, and what needs no search."""
PEERS = ("Optuna:", "Ray Tune:", "Syne Tune:", "Trainer's default:")
"""How the names of other programs' searches begin."""
FEWEST = 5
"""With fewer replays on a table a search is left out: an interval would say nothing."""
RESAMPLES = 1000
STEP = 0.1
"""Runs between two looks at the gap."""
Key = tuple[str, str, int, float, int]
Samples = np.ndarray
"""A statistic of all replays first, then of each of `RESAMPLES` draws of them with replacement."""


def report(replays: Mapping[Key, Replay], order: Sequence[str]) -> str:
    """A section for each number of workers: what the tables have in common, and all of them.

    Args:
        replays: By table, search, workers, budget, number; of one budget.
        order: Of the searches.
    """
    if not replays:
        return "no replays\n"
    tables, counts = sorted({key[0] for key in replays}), sorted({key[2] for key in replays})
    budget = next(iter(replays))[3]
    parts = [_head(tables, counts, budget)]
    for workers in counts:
        parts.append(f"## {workers} worker{'s' if workers > 1 else ''}")
        parts += _section({key: each for key, each in replays.items() if key[2] == workers}, order, budget)
    return "\n\n".join(parts) + "\n"


def _section(replays: Mapping[Key, Replay], order: Sequence[str], budget: float) -> list[str]:
    """Replays with one number of workers."""
    tables = sorted({key[0] for key in replays})
    found = {
        table: {name: Search(those, budget) for name in order if len(those := _of(replays, table, name)) >= FEWEST}
        for table in tables
    }
    parts = [_over_tables(found, order)] if len(tables) > 1 else []
    parts.append("### Against the earlier default and other programs")
    parts.append(_against_peers(found, order, "less compute for the gap that both come to", Search.against))
    parts.append(_against_peers(found, order, "a smaller gap on the way", Search.way_against))
    parts.append(_against_peers(found, order, "a smaller gap of the weights on the way", Search.weights_against))
    return parts + [_table(table, searches, budget) for table, searches in found.items()]


class Search:
    """The replays of one search on one table, and what can be said of them."""

    def __init__(self, replays: Sequence[Replay], budget: float) -> None:
        self.count = len(replays)
        self.reached = np.array([each.spent_until(TARGET) for each in replays])
        self.stops = np.arange(STEP, budget + STEP / 2, STEP)
        gaps, of_weights = (_gaps(replays, self.stops, of_weights=each) for each in (False, True))
        generator = np.random.default_rng(0)
        draws = generator.integers(self.count, size=(RESAMPLES, self.count))
        draws = np.concatenate([np.arange(self.count)[None], draws])
        self.compute: Samples = _median(self.reached[draws])
        weights = np.stack([np.bincount(draw, minlength=self.count) for draw in draws]) / self.count
        self.gaps: Samples = weights @ gaps
        """The mean gap at each stop: (1 + resamples, stops)."""
        self.way: Samples = self.gaps[:, self.stops >= 1].mean(axis=1)
        """The mean gap from the first run on: (1 + resamples,)."""
        self.weights_way: Samples = (weights @ of_weights)[:, self.stops >= 1].mean(axis=1)
        """The same of the weights as they are."""
        self.confirmed: Samples = weights @ np.array([each.confirmed for each in replays])
        """The mean gap of what `confirm` chooses, its runs in the budget: (1 + resamples,)."""

    def against(self, other: Search) -> Samples:
        """How much of the other's compute this one needs for the gap that both come to; below 1, this one is ahead."""
        return np.array([_compute_ratio(self.stops, *pair) for pair in zip(self.gaps, other.gaps, strict=True)])

    def way_against(self, other: Search) -> Samples:
        """The gap on the way as a share of the other's."""
        return _shares(self.way, other.way)

    def weights_against(self, other: Search) -> Samples:
        """The same of the weights."""
        return _shares(self.weights_way, other.weights_way)


def _shares(ours: Samples, theirs: Samples) -> Samples:
    """Ours as a share of theirs; of nothing, nothing is as much."""
    of_nothing: Samples = np.where(ours > 0, np.inf, 1.0)
    return np.divide(ours, theirs, out=of_nothing, where=theirs > 0)


def _gaps(replays: Sequence[Replay], stops: np.ndarray, *, of_weights: bool) -> np.ndarray:
    """Of each replay at each stop; before anything is there to be handed over, the largest of all."""
    gaps = np.array([[each.gap_at(stop, of_weights=of_weights) for stop in stops] for each in replays])
    gaps[~np.isfinite(gaps)] = gaps[np.isfinite(gaps)].max()
    return gaps


def _compute_ratio(stops: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> float:
    gap = max(ours[-1], theirs[-1])
    return _first_within(stops, ours, gap) / _first_within(stops, theirs, gap)


def _first_within(stops: np.ndarray, gaps: np.ndarray, gap: float) -> float:
    """The stop from which on a mean gap stays within another."""
    outside = np.flatnonzero(gaps > gap)
    return float(stops[min(outside[-1] + 1, len(stops) - 1)] if len(outside) else stops[0])


def _median(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, 0.5, axis=1, method="inverted_cdf")


def _of(replays: Mapping[Key, Replay], table: str, name: str) -> list[Replay]:
    return [each for key, each in replays.items() if key[:2] == (table, name)]


def _head(tables: Sequence[str], workers: Sequence[int], budget: float) -> str:
    return f"""# Searches, side by side

Written by `replay.py --write`: searches replayed on recorded learning curves ({", ".join(tables)}), with
{", ".join(map(str, workers))} workers, until they have spent {budget:g} average runs. {_versions()}.
See [README.md](README.md) for the tables and for what was tried.

- **compute to the target**: runs until the true value of what would be handed over stays within {TARGET} points of the
  table's best; the median, with its 95% interval; ∞ where fewer than half of the replays come there.
- **gap**: how many points what would be handed over is worse than the table's best, on average, as a configuration that
  is trained to its end; **on the way**: the mean of that from the first run on; **of the weights**: of the weights as
  they are by then, where none has come to its end those of an unfinished run.
- **confirmed**: of the best {TOP} trials the one that `confirm` would choose, after {total_runs(TOP)} runs with other
  seeds, for which the search has stopped earlier.
- **against …**: the share of the other search's compute that this one needs until its mean gap is as small as the two
  come to (the one that comes less far, at its end), with its 95% interval. Below 1 is better."""


def _versions() -> str:
    parts = []
    for name, package in (("Optuna", "optuna"), ("Ray", "ray"), ("Syne Tune", "syne-tune")):
        try:
            parts.append(f"{name} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)


def _over_tables(found: Mapping[str, Mapping[str, Search]], order: Sequence[str]) -> str:
    """Medians over the tables."""
    rows = []
    for name in order:
        there = [searches for searches in found.values() if name in searches]
        if len(there) < len(found):
            continue
        cells = [f"{np.median([np.isfinite(each[name].reached).mean() for each in there]):.0%}"]
        for reference in REFERENCES:
            pairs = [(each[name], each[reference]) for each in there if reference in each]
            ratios = [ours.compute[0] / theirs.compute[0] for ours, theirs in pairs if np.isfinite(theirs.compute[0])]
            cells.append(_number(float(np.median(ratios))) if len(ratios) == len(found) else "")
            for share in (Search.against, Search.way_against, Search.weights_against):
                shares = [share(ours, theirs)[0] for ours, theirs in pairs]
                cells.append(_number(float(np.median(shares))) if len(shares) == len(found) else "")
        rows.append([name, *cells])
    heads = ["search", "reached"]
    for reference in REFERENCES:
        heads += [f"compute to the target / {reference}", f"against {reference}", f"gap on the way / {reference}"]
        heads += [f"of the weights / {reference}"]
    return "### Over the tables: medians\n\n" + _markdown(heads, rows)


def _against_peers(
    found: Mapping[str, Mapping[str, Search]],
    order: Sequence[str],
    told: str,
    ratio_of: Callable[[Search, Search], Samples],
) -> str:
    """On how many tables a search is ahead of the first reference and of each peer, and behind it; in brackets, by more
    than the interval."""
    there = [name for name in order if any(name in each for each in found.values())]
    peers = [name for name in there if name == REFERENCES[0] or name.startswith(PEERS)]
    rows = []
    for name in there:
        if name.startswith(PEERS):
            continue
        cells = []
        for peer in peers:
            if name == peer:
                cells.append("")
                continue
            ratios = [ratio_of(each[name], each[peer]) for each in found.values() if name in each and peer in each]
            low, high = zip(*map(_interval, ratios), strict=True) if ratios else ((), ())
            ahead, behind = (sum(compare(ratio[0]) for ratio in ratios) for compare in (_less, _more))
            cells.append(f"{ahead} ({sum(map(_less, high))}) : {behind} ({sum(map(_more, low))})")
        rows.append([name, *cells])
    text = f"Tables on which a search has {told} : more; in brackets, by more than the interval."
    return f"{text}\n\n" + _markdown(["search", *peers], rows)


_less: Callable[[float], bool] = lambda ratio: ratio < 1  # noqa: E731
_more: Callable[[float], bool] = lambda ratio: ratio > 1  # noqa: E731


def _table(name: str, searches: Mapping[str, Search], budget: float) -> str:
    stops = [stop for stop in STOPS if stop <= budget]
    rows = []
    for search, found in searches.items():
        cells = [str(found.count), _with_interval(found.compute), f"{np.isfinite(found.reached).mean():.0%}"]
        cells += [_with_interval(found.way), _with_interval(found.weights_way)]
        for reference in REFERENCES:
            same = search == reference or reference not in searches
            cells.append("" if same else _with_interval(found.against(searches[reference])))
        places = [int(np.argmin(np.abs(found.stops - stop))) for stop in stops]
        cells += [_with_interval(found.gaps[:, place]) for place in places] + [_with_interval(found.confirmed)]
        rows.append([search, *cells])
    heads = [
        "search",
        "replays",
        "compute to the target",
        "reached",
        "gap on the way",
        "of the weights",
        *(f"against {each}" for each in REFERENCES),
    ]
    heads += [*(f"gap at {stop}" for stop in stops), f"gap at {budget:g}, confirmed"]
    return f"### {name}\n\n" + _markdown(heads, rows)


def _interval(samples: Samples) -> tuple[float, float]:
    low, high = np.quantile(samples[1:], [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _with_interval(samples: Samples) -> str:
    low, high = _interval(samples)
    return f"{_number(samples[0])} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value:.2f}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
