"""What is measured and what is compared: groups of sides that take turns, and the bars that their ratios must reach."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIDES = ROOT / "benchmarks/sides"
SHARED = ROOT.parent / "shared"
ORIGINAL = ROOT / ".venv-original/bin/python"
REVIEWS = str(ROOT / "benchmarks/.results/data/nsmc-0-50000.tsv")

Figures = Mapping[str, Any]
Round = Mapping[str, Figures]
"""What each side gave in one round."""

OURS, CLASS, RANDOM, GROUPED = "ours", "class loop", "Trainer, random order", "Trainer, grouped by length"
LIMIT, NEEDED = "matrix products", "matrix products, needed"
ALONE, ORIGINALS = "SentencePiece alone", "original (transformers 4.46)"
IN_ONE_CALL = "original, all in one call"
RUST = "tokenizer.json (Rust)"
PADDED = "ours, every window padded"
SWEEP, SEARCH = "kobert-tune sweep", "Trainer.hyperparameter_search"


@dataclass(frozen=True)
class Comparison:
    """One figure of a round, and the bar that its median must reach."""

    label: str
    value: Callable[[Round], float]
    at_least: float | None = None
    at_most: float | None = None

    def reached(self, median: float) -> bool | None:
        """None where there is no bar."""
        if self.at_least is None and self.at_most is None:
            return None
        low = self.at_least is None or median >= self.at_least
        return low and (self.at_most is None or median <= self.at_most)

    @property
    def bar(self) -> str:
        """The bar in words."""
        parts = [f">= {self.at_least:g}"] if self.at_least is not None else []
        return " and ".join([*parts, *([f"<= {self.at_most:g}"] if self.at_most is not None else [])])


@dataclass(frozen=True)
class Group:
    """Sides that take turns."""

    title: str
    note: str
    sides: dict[str, list[str]]
    comparisons: list[Comparison]
    columns: dict[str, Callable[[Figures], float]]
    """What is shown of each side."""
    rounds: int = 5
    threads: int | None = 2
    """`OMP_NUM_THREADS`; None leaves it to what is started, since Ray gives each worker its own."""
    seeded: bool = False
    """Each round has a seed of its own, which the sides are told."""
    original: list[str] = field(default_factory=list)
    """Sides that need the second environment."""


def side(file: str, *arguments: str) -> list[str]:
    """The command of a side."""
    return [sys.executable, str(SIDES / f"{file}.py"), *arguments]


def original(what: str, items: int, *arguments: str) -> list[str]:
    """The command of a side in the second environment."""
    command = [str(ORIGINAL), str(SIDES / "original_pipeline.py"), "--what", what, "--items", str(items)]
    return [*command, "--shared", str(SHARED), *arguments]


def rate(figures: Figures) -> float:
    """Examples or items a second."""
    return float(figures.get("examples") or figures["items"]) / float(figures["seconds"])


def faster(than: str, whose: str = OURS) -> Callable[[Round], float]:
    """How many times as many examples a second one side does."""
    return lambda sides: rate(sides[whose]) / rate(sides[than])


def quotient(name: str, above: str, below: str) -> Callable[[Round], float]:
    """A figure of one side by that of another."""
    return lambda sides: float(sides[above][name]) / float(sides[below][name])


TRAINING_COLUMNS: dict[str, Callable[[Figures], float]] = {
    "seconds": lambda figures: figures["seconds"],
    "examples/s": rate,
    "GFLOP/s": lambda figures: figures["gflop_per_second"],
    "mean loss": lambda figures: figures["loss"],
}


def training(task: str, shape: str, bars: Mapping[str, float | None]) -> Group:
    """One epoch of training by several loops, and the limit."""
    what = ["--task", task, "--shape", shape]
    sides = {
        OURS: side("ours", *what),
        CLASS: side("class_loop", *what),
        RANDOM: side("hf_trainer", "--sampling", "random", *what),
        GROUPED: side("hf_trainer", "--sampling", "group_by_length", *what),
        LIMIT: side("matmul_limit", *what),
        NEEDED: side("matmul_limit", "--needed", *what),
    }
    labels = {
        CLASS: f"ours against the class's loop, padded to {128 if task == 'nsmc' else 384}",
        RANDOM: "ours against Trainer, random order",
        GROUPED: "ours against Trainer, grouped by length",
    }
    comparisons = [Comparison(labels[name], faster(name), bars[name]) for name in labels if name in bars]
    if LIMIT in bars:
        share = faster(LIMIT)
        comparisons.append(Comparison("ours, share of the limit: all products of the model", share, bars[LIMIT]))
    if NEEDED in bars:
        label = "ours, share of the limit: the products that it makes (the last layer for [CLS] alone)"
        comparisons.append(Comparison(label, faster(NEEDED), bars[NEEDED]))
    names = {"nsmc": "NSMC", "korquad": "KorQuAD at 384"}, {"tiny": "2 x 128", "real": "12 x 768, KoBERT's shape"}
    return Group(
        title=f"Training, {names[0][task]}, {names[1][shape]}",
        note="One whole epoch over the same examples from the same weights; evaluation is not in it.",
        sides={name: command for name, command in sides.items() if name == OURS or name in bars},
        comparisons=comparisons,
        columns=TRAINING_COLUMNS,
    )


TEXT_COLUMNS: dict[str, Callable[[Figures], float]] = {
    "items": lambda figures: figures["items"],
    "seconds": lambda figures: figures["seconds"],
    "first call, s": lambda figures: figures["first_seconds"],
    "items/s": rate,
}


def of_texts(what: str, title: str, note: str, bar: float | None, items: int) -> Group:
    """Texts to arrays, an item each; the original on `items` of them."""
    sides = {OURS: side("text", "--what", what)}
    comparisons = []
    if what != "decoding":
        sides[ALONE] = side("text", "--what", what, "--alone")
        at_most = 1.5 if what == "tokenizer" else None
        ratio = quotient("seconds", OURS, ALONE)
        comparisons.append(Comparison("ours against SentencePiece alone, time", ratio, at_most=at_most))
    reviews = ["--reviews", REVIEWS]
    sides[ORIGINALS] = original(what, items, *reviews)
    comparisons.append(Comparison("ours against the original, items a second", faster(ORIGINALS), bar))
    if what == "features":
        sides[PADDED] = side("text", "--what", what, "--padded")
        label = "ours, every window padded, against the original, items a second"
        comparisons.append(Comparison(label, faster(ORIGINALS, PADDED), bar))
    if what == "tokenizer":
        sides[IN_ONE_CALL] = original("batch", items, *reviews)
        sides[RUST] = side("text", "--what", what, "--json")
        comparisons.append(Comparison("ours against tokenizer.json, items a second", faster(RUST)))
        label = "ours against the original with all reviews in one call, items a second"
        comparisons.append(Comparison(label, faster(IN_ONE_CALL), bar))
    note = f"One thread, the median of three calls after the first. {note}"
    return Group(title, note, sides, comparisons, TEXT_COLUMNS, threads=1, original=[ORIGINALS, IN_ONE_CALL])


SWEEPS = Group(
    title="A sweep of 8 trials on 4,000 reviews, 2 x 128, at most 4 epochs",
    note="From the start of the process to its end: TPE (whose first 10 trials are random), ASHA from a tenth on, "
    "10 evaluations a run on 1,000 reviews, one core a trial. Both sides try the same 8 random points, other ones in "
    "each round: which values a search happens to draw is luck. The accuracy of either side is the best that a trial "
    "had, the bar one standard error of it.",
    sides={SWEEP: side("our_sweep"), SEARCH: side("hf_search")},
    comparisons=[
        Comparison("kobert-tune sweep against the other, wall time", quotient("seconds", SEARCH, SWEEP), 3),
        Comparison(
            "evaluations a second, which ASHA's decisions do not change",
            lambda sides: (
                sides[SWEEP]["evaluations"]
                / sides[SWEEP]["seconds"]
                / (sides[SEARCH]["evaluations"] / sides[SEARCH]["seconds"])
            ),
        ),
        Comparison(
            "accuracy of the winner less that of the other's, in points",
            lambda sides: 100 * (sides[SWEEP]["accuracy"] - sides[SEARCH]["accuracy"]),
            -1.3,
        ),
    ],
    columns={
        "seconds": lambda figures: figures["seconds"],
        "accuracy": lambda figures: figures["accuracy"],
        "trials to the end": lambda figures: figures["whole"],
        "evaluations": lambda figures: figures["evaluations"],
    },
    seeded=True,
    threads=None,
)

MEMORY = Group(
    title="Features of 150,000 reviews in memory",
    note="PSS of the mappings of the feature files, added up over all workers, each of which has read all of them.",
    sides={f"{workers} worker(s)": side("features_memory", "--workers", str(workers)) for workers in (1, 2, 4)},
    comparisons=[
        Comparison(f"{n} workers against 1", quotient("megabytes", f"{n} worker(s)", "1 worker(s)"), 0.99, 1.01)
        for n in (2, 4)
    ],
    columns={
        "MB": lambda figures: figures["megabytes"],
        "besides, a worker, MB": lambda figures: figures["other_megabytes_a_worker"],
    },
    rounds=1,
)

TRAINERS, GROUP_COUNTS = ("in-process", "stock"), {1: "1 group", 2: "2 groups"}
STARTS = Group(
    title="The start of worker groups",
    note="From `WorkerGroups` to the end of a first task on each, groups of one worker, Ray itself being up: the "
    "trainer whose controller runs in the driver, which overrides private parts of Ray Train, beside Ray's own. It "
    "stays as long as it saves a quarter. CPU seconds are those of all processes; processes those that are there more.",
    sides={
        f"{trainer}, {name}": side("group_start", "--trainer", trainer, "--groups", str(count))
        for count, name in GROUP_COUNTS.items()
        for trainer in TRAINERS
    },
    comparisons=[
        Comparison(f"{label}, in-process against stock, {name}", quotient(figure, *sides), at_most=0.75)
        for name in GROUP_COUNTS.values()
        for sides in [[f"{trainer}, {name}" for trainer in TRAINERS]]
        for figure, label in {"seconds": "time", "cpu_seconds": "CPU time"}.items()
    ],
    columns={
        "seconds": lambda figures: figures["seconds"],
        "CPU, s": lambda figures: figures["cpu_seconds"],
        "processes": lambda figures: figures["processes"],
    },
    threads=None,
)

FEW, MANY = "4,000 reviews", "40,000 reviews"
GROWTH = Group(
    title="Ten times the reviews",
    note="`kobert-tune sweep` of one trial of one epoch, 2 x 128, one core; the features once more in this process. "
    "The driver's peak is that of the process that runs the sweep.",
    sides={FEW: side("growth", "--reviews", "4000"), MANY: side("growth", "--reviews", "40000")},
    comparisons=[
        Comparison("time of the command", quotient("seconds", MANY, FEW), at_most=10.5),
        Comparison("time of the trial", quotient("training", MANY, FEW), at_most=10.5),
        Comparison("time of the features", quotient("features", MANY, FEW), at_most=10.5),
        Comparison("peak memory of the driver", quotient("peak_megabytes", MANY, FEW), at_most=1.05),
    ],
    columns={
        "command, s": lambda figures: figures["seconds"],
        "trial, s": lambda figures: figures["training"],
        "features, s": lambda figures: figures["features"],
        "driver's peak, MB": lambda figures: figures["peak_megabytes"],
    },
    rounds=2,
    threads=None,
)

PANDAS = "pandas, unchecked"
TABLES = Group(
    title="150,000 reviews from their file",
    note="CPU time, with imports. Ours are rows with lines, whose texts, labels and ids were checked; pandas gives "
    "strings.",
    sides={OURS: side("tables"), PANDAS: side("tables", "--pandas")},
    comparisons=[
        Comparison("ours against pandas, CPU time", quotient("seconds", OURS, PANDAS), at_most=2),
        Comparison("ours against pandas, peak memory", quotient("peak_megabytes", OURS, PANDAS), at_most=1),
    ],
    columns={
        "seconds": lambda figures: figures["seconds"],
        "rows/s": rate,
        "peak, MB": lambda figures: figures["peak_megabytes"],
    },
    threads=1,
)

TRACKING, MLFLOW = "tuning.tracking", "mlflow"
IMPORTS = Group(
    title="What a sweep reports with, imported",
    note="CPU time of a fresh process. Workers and commands that report nothing do without MLflow.",
    sides={name: side("imports", name) for name in (TRACKING, MLFLOW)},
    comparisons=[Comparison("ours against MLflow, CPU time", quotient("seconds", TRACKING, MLFLOW), at_most=0.25)],
    columns={"seconds": lambda figures: figures["seconds"]},
    threads=1,
)

GROUPS: dict[str, Group] = {
    "nsmc-real": training("nsmc", "real", {CLASS: 4, RANDOM: 1.3, GROUPED: 1.0, LIMIT: None, NEEDED: 0.7}),
    "korquad-real": training("korquad", "real", {RANDOM: 1.2, GROUPED: 1.0, LIMIT: 0.7}),
    "nsmc-tiny": training("nsmc", "tiny", {CLASS: 4.5, RANDOM: 2.5, GROUPED: 1.3}),
    "korquad-tiny": training("korquad", "tiny", {CLASS: None, RANDOM: 1.2, GROUPED: 1.0}),
    "tokenizer": of_texts(
        "tokenizer",
        "Tokenization of 50,000 reviews",
        "The original is measured on the first 5,000, a review at a time as in its `Dataset`, and compared by the "
        "review. Ours gives ids in one array, as SentencePiece does; the others make an encoding a review.",
        12,
        5000,
    ),
    "features": of_texts(
        "features",
        "KorQuAD's features, from the JSON file to the arrays of all windows",
        "An item is a question. The original is measured on a file of the first 200, and compared by the question. "
        "Ours are arrays, the original's lists. "
        "SentencePiece alone encodes all contexts and questions once.",
        70,
        200,
    ),
    "decoding": of_texts(
        "decoding",
        "Answers from logits, n-best 20",
        "An item is a question; random logits. The original is measured on the first 200.",
        None,
        200,
    ),
    "tables": TABLES,
    "imports": IMPORTS,
    "memory": MEMORY,
    "sweep": SWEEPS,
    "growth": GROWTH,
    "start": STARTS,
}
