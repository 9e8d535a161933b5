"""What the parts share: the device, configs, tasks with a model at hand, and runs that end when they are told."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import (
    DOC_STRIDE,
    KORQUAD,
    KORQUAD_LENGTH,
    LEARNING_RATE,
    NSMC,
    QUERY_LENGTH,
    SEED,
    SHAPES,
    TOKENIZER,
    WORK,
    reviews_file,
)

from kobert_core.config import TrainConfig
from kobert_core.runtime import LocalRuntime, default_device
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.training import train

NSMC_LENGTH = 64
NO_DROPOUT = {"dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0}
EVEN = {"schedule": "constant", "warmup_ratio": 0.0, "backbone_lr": 1e-3, "classifier_lr": 1e-3, "eps": 1e-2}
"""An optimizer for comparisons: with so large an epsilon a step goes by the size of a gradient and not by its sign, so
that what rounding does to a gradient near zero stays small."""


def device() -> torch.device:
    """The GPU, or the CPU without one."""
    return default_device()


def on_gpu() -> bool:
    return device().type == "cuda"


def shape(tiny: bool, layers: int | None = None) -> dict[str, int]:
    """KoBERT's shape, or a small one; `layers` in the place of its own."""
    sizes = SHAPES["tiny" if tiny else "real"]
    return sizes | ({"num_hidden_layers": min(layers, sizes["num_hidden_layers"])} if layers else {})


def long_reviews_file(count: int) -> Path:
    """The longest reviews of NSMC."""
    file = WORK / "data" / f"nsmc-longest-{count}.tsv"
    header, *rows = NSMC.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    rows.sort(key=lambda row: -len(row.split("\t")[1]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *rows[:count]]) + "\n", encoding="utf-8")
    return file


def config_of(
    task: str,
    examples: int,
    sizes: dict[str, int],
    *,
    file: Path | None = None,
    model: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
) -> TrainConfig:
    """A run from random weights, long enough that something else ends it, on so many real reviews, or on so many
    questions of KorQuAD's dev file, each of which has a window or two; without the boundary head, which transformers
    does not have."""
    train_file, dev_file = (NSMC, reviews_file(64)) if task == "nsmc" else (KORQUAD, KORQUAD)
    data: dict[str, Any] = {"train": file or train_file, "dev": dev_file, "max_train_examples": examples}
    own: dict[str, Any] = {"backbone": str(TOKENIZER), "init": "random", "config": sizes}
    if task == "nsmc":
        data |= {"max_length": NSMC_LENGTH}
    else:
        data |= {"max_seq_length": KORQUAD_LENGTH, "doc_stride": DOC_STRIDE, "max_query_length": QUERY_LENGTH}
        own |= {"boundary_head": False}
    rates = {"backbone_lr": LEARNING_RATE, "classifier_lr": LEARNING_RATE}
    values = {
        "task": task,
        "data": data,
        "model": own | (model or {}),
        "optim": rates | (optim or {}),
        "train": {"epochs": 100, "seed": SEED, "eval_percent": 100} | (train or {}),
    }
    return parse_train_config(values)


def task_of(config: TrainConfig, like: Any = None) -> Any:
    """A task whose model is built once and copied for each run; `like` has one built of the same shape."""

    class Prepared(task_class(config.task)):  # type: ignore[misc]
        built: Any = getattr(like, "built", None)

        def build_model(self) -> Any:
            if self.built is None:
                torch.manual_seed(SEED)
                self.built = super().build_model()
            return copy.deepcopy(self.built)

    return Prepared(config, cache=WORK / "cache")


def start_of(task: Any) -> dict[str, torch.Tensor]:
    """The weights that every run of the task begins with."""
    model = task.build_model()
    return {name: tensor.to(device()) for name, tensor in model.state_dict().items()}


@dataclass(kw_only=True)
class Until(LocalRuntime):
    """A run that ends after `last` steps; `after` hears the number of each."""

    last: int
    after: Callable[[int], None] = lambda step: None
    steps: int = 0

    def should_stop(self) -> bool:
        self.steps += 1
        self.after(self.steps)
        return self.steps >= self.last


def trained(
    config: TrainConfig, task: Any, steps: int, after: Callable[[int], None] = lambda step: None, **more: Any
) -> dict[str, torch.Tensor]:
    """The weights after so many steps of our loop."""
    model = train(config, task, Until(device=device(), last=steps, after=after, **more))
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def deviation(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> float:
    """The largest difference of a weight, in parts of the largest change of one since `start`."""
    change = max(float((other[name] - start[name]).abs().max()) for name in other)
    return max(float((one[name] - other[name]).abs().max()) for name in other) / change


def mean_deviation(
    one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> float:
    """The same by the root of the mean square, over all weights."""

    def size(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
        return sum(float((left[name].double() - right[name].double()).square().sum()) for name in other) ** 0.5

    return size(one, other) / size(other, start)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def wait() -> None:
    """Until the device has done all that it was told."""
    if on_gpu():
        torch.cuda.synchronize()


def clean_up() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def gigabytes(peak: Callable[[], int]) -> float:
    """Of a count of `torch.cuda`; 0 without a GPU."""
    return peak() / 2**30 if on_gpu() else 0.0


@contextmanager
def memory_limit(size: float) -> Iterator[None]:
    """Let this process have so many bytes of the device."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


class Stopwatch:
    """Notes the time after some steps of a run, when the device has done them."""

    def __init__(self, *steps: int) -> None:
        self.at = dict.fromkeys(steps, 0.0)
        self.host: list[float] = []
        """When each step was given to the device."""
        self.began = time.perf_counter()

    def __call__(self, step: int) -> None:
        if step in self.at:
            wait()
            self.at[step] = time.perf_counter()
        self.host.append(time.perf_counter())

    def between(self, first: int, last: int) -> float:
        """Seconds from the end of one step to that of another."""
        return self.at[last] - self.at[first]

    def slow(self, first: int, last: int) -> int:
        """How many steps between took the host more than three times the median: something new was made for them."""
        taken = sorted(b - a for a, b in zip(self.host[first - 1 : last - 1], self.host[first:last], strict=True))
        return sum(seconds > 3 * taken[len(taken) // 2] for seconds in taken)
