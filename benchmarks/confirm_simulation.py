"""Is what a sweep says of its winner true? Simulated sweeps, whose truth is known, through the sweep's own statistics.

    python benchmarks/confirm_simulation.py [--sweeps 2000]

A sweep has 30 trials of configurations whose true accuracies are normal around 88%, with a standard deviation of
`spread` points; a run adds one of `seeds` points by its seed. A model is right about an example by chance: how hard the
example is decides half of it, a tenth how the configuration does on it, the rest is the run's own. Each sweep is
searched, confirmed as `tuning/sweep/confirm.py` does it, and compared with the plain way of the same end: the best five
again with five seeds each, compared on the holdout, and the baseline, 30 runs.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict

import numpy as np
from scipy.stats import norm

from tuning.statistics.halving import better, rounds, total_runs
from tuning.statistics.intervals import difference

TRIALS, TOP, SEEDS, HOLDOUT, PARTS = 30, 5, 3, 1 / 3, 50
OF_EXAMPLE, OF_CONFIGURATION, OF_RUN = (np.float32(math.sqrt(share)) for share in (0.5, 0.1, 0.4))
LEVEL = float(norm.ppf(0.88))
PER_POINT = 1 / (100 * float(norm.pdf(LEVEL)))


class World:
    """The data and the configurations of one sweep."""

    def __init__(self, random: np.random.Generator, *, examples: int, spread: float, seeds: float) -> None:
        self._random, self._examples = random, examples
        self.held_out = int(examples * HOLDOUT)
        self.abilities = LEVEL + random.normal(0, spread * PER_POINT, TRIALS)
        self._seeds = seeds * PER_POINT
        self._hardness = OF_EXAMPLE * random.standard_normal(examples, dtype=np.float32)
        self._known: dict[int, np.ndarray] = {}

    def run(self, trial: int) -> np.ndarray:
        """Which examples a new run of a trial's values is right about: first those held out."""
        if trial not in self._known:
            own = OF_CONFIGURATION * self._random.standard_normal(self._examples, dtype=np.float32)
            self._known[trial] = self._hardness + own + np.float32(self.abilities[trial])
        luck = np.float32(self._random.normal(0, self._seeds))
        noise = OF_RUN * self._random.standard_normal(self._examples, dtype=np.float32)
        return self._known[trial] + luck + noise > 0

    def on_dev(self, trial: int) -> float:
        """The score of a new run on the dev split."""
        return float(self.run(trial)[self.held_out :].mean())

    def on_holdout(self, trial: int) -> np.ndarray:
        """The scores of a new run on the parts of the holdout."""
        return np.array([part.mean() for part in np.array_split(self.run(trial)[: self.held_out], PARTS)])

    def truth(self, trial: int) -> float:
        """The mean accuracy of a trial's values over all seeds and examples."""
        return float(norm.cdf(self.abilities[trial] / math.sqrt(1 + self._seeds**2)))


def one_sweep(world: World) -> dict[str, float]:
    """What a sweep says, and how far it is from the truth."""
    truths = [world.truth(trial) for trial in range(TRIALS)]
    found = [world.on_dev(trial) for trial in range(TRIALS)]
    best = sorted(range(1, TRIALS), key=lambda trial: -found[trial])
    left, scores = best[:TOP], {trial: [found[trial]] for trial in best[:TOP]}
    for _, runs, keep in rounds(TOP):
        for trial in left:
            scores[trial] += [world.on_dev(trial) for _ in range(runs)]
        left = better({trial: scores[trial] for trial in left}, keep, mode="max")
    candidate = left[0]
    gain = difference(*(np.array([world.on_holdout(trial) for _ in range(SEEDS)]) for trial in (candidate, 0)))
    true_gain = truths[candidate] - truths[0]
    plain = max(best[:TOP], key=lambda trial: np.mean([world.on_holdout(trial).mean() for _ in range(5)]))
    return {
        "covered": gain.low <= true_gain <= gain.high,
        "tie": not gain.excludes_zero,
        "runs": total_runs(TOP) + 2 * SEEDS,
        "half_width": (gain.high - gain.low) / 2,
        "regret": max(truths) - truths[candidate],
        "regret_plain": max(truths) - truths[plain],
        "regret_search": max(truths) - truths[best[0]],
        "optimism": found[best[0]] - truths[best[0]],
    }


def main() -> None:
    """Print a table: a row for each kind of sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=2000, help="sweeps a row")
    sweeps = parser.parse_args().sweeps
    print(f"{sweeps} sweeps a row; points of accuracy; the plain way has {(TOP + 1) * 5} runs\n")
    print("| dev | spread | seeds | interval covers | ties | ± | runs | regret | plain | search alone | its optimism |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for examples in (1000, 4000):
        for spread, seeds in ((0.4, 0.3), (0.0, 0.3), (0.4, 1.0), (1.0, 0.5)):
            random, sums = np.random.default_rng(0), defaultdict[str, list[float]](list)
            for _ in range(sweeps):
                world = World(random, examples=examples, spread=spread, seeds=seeds)
                for name, value in one_sweep(world).items():
                    sums[name].append(float(value))
            mean = {name: float(np.mean(values)) for name, values in sums.items()}
            error = np.std(np.subtract(sums["regret"], sums["regret_plain"])) / math.sqrt(sweeps)
            print(
                f"| {examples:,} | {spread} | {seeds} | {mean['covered']:.1%} | {mean['tie']:.1%} "
                f"| {100 * mean['half_width']:.2f} | {mean['runs']:.0f} | {100 * mean['regret']:.3f} "
                f"| {100 * mean['regret_plain']:.3f} (± {100 * error:.3f}) | {100 * mean['regret_search']:.3f} "
                f"| {100 * mean['optimism']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
