"""Where the time of a step goes, kernel by kernel, and how much of the time the device has something to do."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from results import Bar, Results
from setting import Stopwatch, clean_up, config_of, on_gpu, shape, task_of, trained, wait
from torch.autograd import DeviceType

BATCHES = {"nsmc": 32, "korquad": 32}
EXAMPLES = {"nsmc": 4096, "korquad": 2800}
FEW = 20
BUSY = Bar(at_least=0.95)


def profile(results: Results, tiny: bool) -> None:
    for name, batch in BATCHES.items():
        with results.check(f"{name}, batch {batch}"):
            one(results, name, batch // (8 if tiny else 1), tiny)
        clean_up()


def one(results: Results, name: str, batch: int, tiny: bool) -> None:
    """Some steps without the profiler, for the time, and as many with it."""
    config = config_of(name, EXAMPLES[name] // (16 if tiny else 1), shape(tiny), optim={"batch_size": batch})
    first = 3 if tiny else 120
    middle, last = first + FEW // (5 if tiny else 1), first + 2 * FEW // (5 if tiny else 1)
    watch = Stopwatch(first, middle)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=kinds)

    def after(step: int) -> None:
        watch(step)
        if step == middle:
            profiler.start()
        if step == last:
            wait()
            profiler.stop()

    trained(config, task_of(config), last, after)
    steps = middle - first
    spent = 1e6 * watch.between(first, middle) / steps
    totals, busy = kernel_times(profiler)
    rows = sorted(totals.items(), key=lambda item: -item[1][0])
    all_kernels = sum(seconds for _, (seconds, _) in rows) or 1.0
    launches = sum(count for _, (_, count) in rows) / steps
    lines = [
        f"{name}, batch {batch}: {steps} steps, {spent / 1e3:.2f} ms a step without the profiler; "
        f"{busy / steps / 1e3:.2f} ms of it something runs on the device; {launches:.0f} kernels a step",
        "",
        "share   us/step  calls/step  kernel",
    ]
    lines += [
        f"{total / all_kernels:5.1%}  {total / steps:9.1f}  {count / steps:12.1f}  {kernel[:150]}"
        for kernel, (total, count) in rows
    ]
    whole = "\n".join(lines[:63]) + "\n"
    (results.folder / f"kernels-{name}.txt").write_text(whole, encoding="utf-8")
    print("\n".join(line[:110] for line in lines[:12]), flush=True)
    note = f"{busy / steps:.0f} of {spent:.0f} us a step (kernels by the profiler, time without it)"
    title = f"{name}, batch {batch}: share of the time that the device is busy"
    results.tell(title, busy / steps / spent, note=note, bar=BUSY if on_gpu() else None, launches=launches)


def kernel_times(profiler: Any) -> tuple[dict[str, tuple[float, int]], float]:
    """Microseconds and number of calls of each kernel, and the microseconds in which any of them ran."""
    wanted = DeviceType.CUDA if on_gpu() else DeviceType.CPU
    totals: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    intervals = []
    for event in profiler.events():
        label = event.name
        if event.device_type != wanted or getattr(event, "is_user_annotation", False):
            continue
        if label.startswith(("Optimizer.", "ProfilerStep", "## ")):
            continue
        span = event.time_range
        before, count = totals[label]
        totals[label] = before + span.elapsed_us(), count + 1
        intervals.append((span.start, span.end))
    busy, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return dict(totals), busy
