"""Which bits are the same on a GPU: of two undisturbed runs, and of one that was stopped in mid-epoch and resumed.

With the usual dropout and in bf16; with three layers of KoBERT's width, so that checkpoints take little time. Once by
default and once with `train.deterministic: true`, and what that costs with all twelve layers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from results import Bar, Results
from setting import (
    Stopwatch,
    clean_up,
    config_of,
    mean_deviation,
    same_bits,
    shape,
    start_of,
    task_of,
    trained,
)

STEPS, STOP, LAYERS = 20, 9, 3
BATCH = {"nsmc": 32, "korquad": 16}
EXAMPLES = {"nsmc": 4096, "korquad": 1500}


def resume(results: Results, tiny: bool) -> None:
    for strict in (False, True):
        how = "deterministic" if strict else "by default"
        for name in BATCH:
            with results.check(f"{name}, {how}"):
                same_again(results, name, how, tiny, strict)
            clean_up()
    for name in BATCH:
        with results.check(f"{name}, cost of determinism"):
            cost(results, name, tiny)
        clean_up()


def run_of(name: str, tiny: bool, layers: int | None, strict: bool) -> Any:
    batch = BATCH[name] // (8 if tiny else 1)
    optim = {"batch_size": batch, "schedule": "constant", "warmup_ratio": 0.0}
    examples = EXAMPLES[name] // (16 if tiny else 1)
    return config_of(name, examples, shape(tiny, layers), optim=optim, train={"deterministic": strict})


def same_again(results: Results, name: str, how: str, tiny: bool, strict: bool) -> None:
    """Two undisturbed runs, and one that is stopped and resumed; where bits differ it is said how far."""
    config = run_of(name, tiny, LAYERS, strict)
    task = task_of(config)
    start = start_of(task)
    whole = trained(config, task, STEPS)
    again = trained(config, task, STEPS)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder)
        trained(config, task, STOP, checkpoints=checkpoints)
        kept = sorted(path.name for path in checkpoints.iterdir())
        resumed = trained(config, task, STEPS - STOP, checkpoints=checkpoints, resume=True)
    for what, other in (("two undisturbed runs", again), (f"resumed after step {STOP}", resumed)):
        same = same_bits(other, whole)
        note = "all bits are the same" if same else f"differ by {mean_deviation(other, whole, start):.1e} of the change"
        note += f" after {STEPS} steps" + (f"; from {', '.join(kept)}" if "resumed" in what else "")
        title = f"{name}, {how}, {what}: same bits"
        results.tell(title, float(same), bar=Bar(at_least=1) if strict else None, note=note)


def cost(results: Results, name: str, tiny: bool) -> None:
    """Time of a step with deterministic algorithms against without, taking turns, whole model."""
    first, last = (2, 4) if tiny else (40, 100)
    configs = {strict: run_of(name, tiny, None, strict) for strict in (False, True)}
    tasks = {False: task_of(configs[False])}
    tasks[True] = task_of(configs[True], like=tasks[False])
    spent: dict[bool, list[float]] = {False: [], True: []}
    for strict in (False, True, False, True):
        watch = Stopwatch(first, last)
        trained(configs[strict], tasks[strict], last, watch)
        spent[strict].append(1e3 * watch.between(first, last) / (last - first))
        clean_up()
    plain, strict_ms = (min(spent[strict]) for strict in (False, True))
    note = f"{plain:.2f} ms a step by default, {strict_ms:.2f} deterministic (the better of two each)"
    results.tell(f"{name}, time of a step, deterministic against default", strict_ms / plain, note=note)
