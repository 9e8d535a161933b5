"""Whether the numbers on a GPU are right, and whether its memory is kept to.

`correct` holds our model and our loop against transformers' padded model, cuts a step into pieces, runs out of
memory, fills it, counts the waits for the device and looks at what a run leaves behind.
"""

from __future__ import annotations

import collections
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import SEED
from results import Bar, Results
from setting import (
    EVEN,
    NO_DROPOUT,
    Until,
    clean_up,
    config_of,
    deviation,
    device,
    gigabytes,
    long_reviews_file,
    mean_deviation,
    memory_limit,
    on_gpu,
    shape,
    start_of,
    task_of,
    trained,
    wait,
)
from torch import nn
from torch.nn import functional as F

from kobert_core.config import TrainConfig
from kobert_core.data.batching import Batch, StepOrder
from kobert_core.optim import make_optimizer
from kobert_core.runtime import LocalRuntime, Report, in_precision
from kobert_core.training import prepare_encoder, train

TASKS = ("nsmc", "korquad")
EXAMPLES, BATCH = {"nsmc": 1024, "korquad": 256}, {"nsmc": 32, "korquad": 8}
MANY = {"nsmc": 4096, "korquad": 2800}
INPUTS = ("input_ids", "token_type_ids", "attention_mask", "labels", "start_positions", "end_positions")
FP32, BF16 = Bar(at_most=1e-4), Bar(at_most=1.5)
SAME = Bar(at_most=1e-3)
"""Of weights after some steps in fp32: other orders of summation, carried on from step to step."""

Numbers = dict[str, torch.Tensor]


def correct(results: Results, tiny: bool) -> None:
    torch.set_float32_matmul_precision("highest")  # no TF32, as is the default
    for name in TASKS:
        with results.check(f"a pass, {name}"):
            one_pass(results, name, tiny)
    for name in TASKS:
        with results.check(f"the loop, {name}"):
            the_loop(results, name, tiny)
    for name in TASKS:
        with results.check(f"host waits, {name}"):
            host_waits(results, name, tiny)
        clean_up()
    with results.check("out of memory"):
        out_of_memory(results, tiny)
    clean_up()
    with results.check("left on the device"):
        left_behind(results, tiny)


def auto(results: Results, tiny: bool) -> None:
    with results.check("batch_size: auto"):
        fills_memory(results, tiny)


def small_config(name: str, tiny: bool, precision: str = "fp32", **optim: Any) -> TrainConfig:
    """A run without dropout."""
    return config_of(
        name,
        EXAMPLES[name] // (8 if tiny else 1),
        shape(tiny),
        model=NO_DROPOUT,
        optim={"batch_size": BATCH[name] // (2 if tiny else 1)} | EVEN | optim,
        train={"precision": precision},
    )


def padded_model(task: Any, attention: str = "eager") -> Any:
    """transformers' own model with the weights that our runs begin with."""
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if task.name == "nsmc" else AutoModelForQuestionAnswering
    model = kind.from_config(task.hf_config(), attn_implementation=attention)
    model.load_state_dict(task.build_model().state_dict())
    return model.to(device()).train()


def padded_batch(task: Any, indices: np.ndarray) -> dict[str, torch.Tensor]:
    """Examples as transformers takes them."""
    padded = task.train.batch(indices).padded(task.tokenizer.pad_id)
    return {name: padded[name].to(device()) for name in INPUTS if name in padded}


def one_pass(results: Results, name: str, tiny: bool) -> None:
    """Logits and gradients of KoBERT's shape."""
    against_padded(results, name, partial(small_config, name, tiny))


def against_padded(results: Results, title: str, config_in: Callable[[str], TrainConfig]) -> None:
    """Logits and gradients of some batches, ours and those of the padded model, in fp32 and in bf16, which are the two
    precisions that `config_in` is asked for."""
    config = config_in("fp32")
    task = task_of(config)
    size = int(config.optim.batch_size)
    order = np.random.default_rng(SEED).permutation(len(task.train))
    batches = [order[start : start + size] for start in range(0, 3 * size, size)]
    eager = padded_model(task)
    sdpa = padded_model(task, "sdpa") if eager._supports_sdpa else eager

    def ours(precision: str) -> list[Numbers]:
        own = config_in(precision)
        model = task.build_model().to(device()).train()
        prepare_encoder(model, own)
        return [our_numbers(model, task, indices, own) for indices in batches]

    def theirs(model: Any, precision: str) -> list[Numbers]:
        return [their_numbers(model, task, indices, config_in(precision)) for indices in batches]

    reference = theirs(eager, "fp32")
    exact = ours("fp32")
    scale = max(float(value.abs().max()) for batch in reference for key, value in batch.items() if key != "logits")
    logits = max(largest(a["logits"], b["logits"], 0.0) for a, b in zip(exact, reference, strict=True))
    gradients = furthest(exact, reference, scale)
    note = "largest difference over the largest one of the padded model"
    results.tell(f"{title}, logits, fp32 against padded", logits, bar=FP32, note=note)
    note += ", weight by weight (of small ones: over a thousandth of the largest gradient)"
    results.tell(f"{title}, gradients, fp32 against padded", gradients, bar=FP32, note=note)
    by_sdpa = furthest(theirs(sdpa, "fp32"), reference, scale)
    results.tell(f"{title}, gradients, fp32, transformers' own SDPA against its eager attention", by_sdpa, note=note)
    own, other = ours("bf16"), theirs(sdpa, "bf16")
    for what, chosen in (("logits", lambda key: key == "logits"), ("gradients", lambda key: key != "logits")):
        mine, padded = error_of(own, reference, chosen), error_of(other, reference, chosen)
        note = f"error against padded fp32, by norm: ours {mine:.2e}, padded bf16 {padded:.2e}"
        results.tell(f"{title}, {what}, bf16: error in parts of the padded model's", mine / padded, bar=BF16, note=note)


def our_numbers(model: nn.Module, task: Any, indices: np.ndarray, config: TrainConfig) -> Numbers:
    """Logits and gradients of our model on packed examples."""
    padded = task.train.batch(indices).padded(task.tokenizer.pad_id)
    batch = Batch.pack({key: value for key, value in padded.items() if key in INPUTS}).to(device())
    with in_precision(config, device()):
        output = model(**batch.inputs, **batch.targets)
    return numbers_of(model, output, padded["attention_mask"].bool().to(device()), output.loss)


def their_numbers(model: nn.Module, task: Any, indices: np.ndarray, config: TrainConfig) -> Numbers:
    """Logits and gradients of the padded model, which is given what its family takes."""
    takes = inspect.signature(model.forward).parameters
    batch = {name: tensor for name, tensor in padded_batch(task, indices).items() if name in takes}
    with in_precision(config, device()):
        output = model(**batch)
    return numbers_of(model, output, batch["attention_mask"].bool(), padded_loss(output, batch))


def padded_loss(output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of the padded model. That of transformers lets an answer lie in the padding too; this one does not."""
    if "labels" in batch:
        loss: torch.Tensor = output.loss
        return loss
    padding = ~batch["attention_mask"].bool()
    pairs = (output.start_logits, batch["start_positions"]), (output.end_logits, batch["end_positions"])
    losses = [F.cross_entropy(logits.float().masked_fill(padding, -torch.inf), target) for logits, target in pairs]
    return torch.stack(losses).mean()


def numbers_of(model: nn.Module, output: Any, mask: torch.Tensor, loss: torch.Tensor) -> Numbers:
    """The logits of real tokens, and the gradient of each weight."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    if hasattr(output, "logits"):
        logits = output.logits
    else:
        logits = torch.stack([output.start_logits[mask], output.end_logits[mask]])
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach().float()} | gradients


def furthest(values: list[Numbers], reference: list[Numbers], scale: float) -> float:
    """The largest difference of gradients, weight by weight; `scale` is the largest gradient of all."""
    pairs = ((a[key], b[key]) for a, b in zip(values, reference, strict=True) for key in b if key != "logits")
    return max(largest(value, expected, scale / 1000) for value, expected in pairs)


def largest(value: torch.Tensor, reference: torch.Tensor, floor: float) -> float:
    """The largest difference over the largest number, or over `floor`."""
    return float((value - reference).abs().max()) / max(float(reference.abs().max()), floor)


def error_of(values: list[Numbers], reference: list[Numbers], chosen: Callable[[str], bool]) -> float:
    """Norm of the differences over the norm of the reference."""
    above = below = 0.0
    for batch, expected in zip(values, reference, strict=True):
        for key in filter(chosen, expected):
            above += float((batch[key].double() - expected[key].double()).square().sum())
            below += float(expected[key].double().square().sum())
    return (above / below) ** 0.5


def the_loop(results: Results, name: str, tiny: bool) -> None:
    """The weights after some steps: our loop against a plain one over padded examples, whole and cut into pieces."""
    steps = 8
    config = small_config(name, tiny)
    task = task_of(config)
    start = start_of(task)
    whole = trained(config, task, steps)
    reference = padded_loop(config, task, steps)
    note = "largest difference over the largest change of a weight"
    title = f"{name}, weights after {steps} steps, fp32 without dropout"
    results.tell(f"{title}, against a padded loop", deviation(whole, reference, start), bar=SAME, note=note)
    size = int(config.optim.batch_size)
    pieces = {"batch_size": size // 4 or 1, "effective_batch_size": size}
    cut_config = small_config(name, tiny, **pieces)
    cut = trained(cut_config, task_of(cut_config, like=task), steps)
    label = f"({size}, 1) against ({size // 4 or 1}, 4)"
    results.tell(f"{title}, {label}", deviation(cut, whole, start), bar=SAME, note=note)
    bf16 = small_config(name, tiny, "bf16")
    own = trained(bf16, task_of(bf16, like=task), steps)
    other = padded_loop(bf16, task, steps)
    mine, padded = mean_deviation(own, reference, start), mean_deviation(other, reference, start)
    note = f"error against the padded loop in fp32, by norm: ours {mine:.2e}, the padded loop in bf16 {padded:.2e}"
    title = f"{name}, weights after {steps} steps, bf16: error in parts of the padded loop's"
    results.tell(title, mine / padded, bar=BF16, note=note)


def padded_loop(config: TrainConfig, task: Any, steps: int) -> Numbers:
    """The weights after so many steps of the simplest loop there is over the same examples."""
    model = padded_model(task, "sdpa")
    optimizer = make_optimizer(model, config.optim)
    order = StepOrder(task.train.lengths, examples_per_step=int(config.optim.batch_size), seed=config.train.seed)
    for number in range(steps):
        with in_precision(config, device()):
            batch = padded_batch(task, order.examples_of(number))
            loss = padded_loss(model(**batch), batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), float(config.optim.max_grad_norm or "inf"))
        optimizer.step()
        optimizer.zero_grad()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def host_waits(results: Results, name: str, tiny: bool) -> None:
    """How often the host waits for the device in some steps in a row, far from evaluations."""
    title = f"{name}, waits for the device a step"
    if not on_gpu():
        results.missing(title, "no GPU")
        return
    config = config_of(name, MANY[name], shape(tiny), optim={"batch_size": 32})
    first, last = 90, 110  # of an epoch's 114 or more
    counts, places = [0], collections.Counter[str]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def after(step: int) -> None:
            if step >= first:
                torch.cuda.set_sync_debug_mode("default")
                waits = [warning for warning in caught if "synchroniz" in str(warning.message)]
                if step > first:
                    counts.append(len(waits))
                    places.update(f"{Path(waiting.filename).name}:{waiting.lineno}" for waiting in waits)
                caught.clear()
                if step < last:
                    torch.cuda.set_sync_debug_mode("warn")

        try:
            trained(config, task_of(config), last, after)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.set_sync_debug_mode("warn")
        torch.ones((), device=device()).item()
        torch.cuda.set_sync_debug_mode("default")
        heard = any("synchroniz" in str(warning.message) for warning in caught)
    where = ", ".join(f"{place} {count} times" for place, count in places.most_common(6))
    seen = "" if heard else "; PyTorch gave no warning of a wait made on purpose: the count means nothing"
    note = f"median of steps {first + 1}-{last}, {sum(counts)} in all{': ' + where if where else ''}{seen}"
    results.tell(title, float(np.median(counts[1:])), bar=Bar(at_most=0), note=note)


def out_of_memory(results: Results, tiny: bool) -> None:
    """A step whose examples do not fit goes through in halves, and comes to what it comes to in halves anyway."""
    examples = 32 if tiny else 256
    file = long_reviews_file(4 * examples)

    def run(batch_size: int) -> tuple[Numbers, Report, list[Report]]:
        config = config_of(
            "nsmc",
            4 * examples,
            shape(tiny),
            file=file,
            model=NO_DROPOUT,
            optim=EVEN | {"batch_size": batch_size, "effective_batch_size": examples},
            train={"precision": "bf16", "epochs": 1, "eval_percent": 50},
        )
        reports: list[Report] = []
        own = task_of(config, like=like)
        if not on_gpu():
            own.loss = pretended_loss(own, most)  # type: ignore[method-assign]
        model = train(config, own, LocalRuntime(device=device(), on_report=reports.append))
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}, reports[-1], reports

    most = examples
    like = task_of(config_of("nsmc", 4 * examples, shape(tiny), file=file, model=NO_DROPOUT))
    start = start_of(like)
    clean_up()
    expected, told, _ = run(examples // 2)
    half = gigabytes(torch.cuda.max_memory_reserved)
    clean_up()
    unlimited, _, _ = run(examples)
    whole = gigabytes(torch.cuda.max_memory_allocated)
    del unlimited
    clean_up()
    limit = (half + whole) / 2 if half < whole else 0.9 * whole
    most = examples // 2
    with limited(limit):
        weights, last, reports = run(examples)
    sizes = [report.micro_batch for report in reports]
    note = (
        f"of {examples}; {limit:.1f} GB allowed, {whole:.1f} needed for all, {half:.1f} for half; reports say {sizes}"
    )
    results.tell("out of memory, examples at once afterwards", float(last.micro_batch or 0), note=note)
    difference = deviation(weights, expected, start)
    note = "weights after 4 steps, largest difference over the largest change"
    results.tell("out of memory, against a run of that micro-batch", difference, bar=SAME, note=note)
    losses = abs(last.metrics["eval/loss"] - told.metrics["eval/loss"])
    results.tell("out of memory, difference of the loss on dev", losses, bar=Bar(at_most=1e-4))
    results.tell("out of memory, micro-batches are halved", float(last.micro_batch == examples // 2), bar=Bar(1))


def pretended_loss(task: Any, most: int) -> Callable[..., torch.Tensor]:
    """The task's loss on a device that holds so many examples: a CPU has no limit to set."""
    own = task.loss

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        if len(batch.inputs["lengths"]) > most:
            raise torch.OutOfMemoryError("pretended")
        value: torch.Tensor = own(model, batch)
        return value

    return loss


@contextmanager
def limited(size: float) -> Iterator[None]:
    """So many GB of the device; on a CPU all of it."""
    if not on_gpu():
        yield
        return
    with memory_limit(size * 2**30):
        yield


def fills_memory(results: Results, tiny: bool) -> None:
    """`batch_size: auto` on all windows of KorQuAD: how much of the memory it takes; the longest come along."""
    questions, effective = (48, 32) if tiny else (5774, 3800)
    config = config_of(
        "korquad",
        questions,
        shape(tiny),
        optim={"batch_size": "auto", "effective_batch_size": effective},
    )
    task = task_of(config)
    steps = -(-len(task.train) // effective)
    clean_up()
    before = gigabytes(torch.cuda.memory_reserved)
    watch: list[float] = []
    trained(config, task, steps, lambda step: (wait(), watch.append(gigabytes(torch.cuda.max_memory_reserved))))  # type: ignore[func-returns-value]
    longest = int(task.train.lengths.max())
    note = f"{steps} steps of {effective} windows, the longest of {longest} tokens among them, came to their end"
    if not on_gpu():
        results.tell("batch_size: auto, steps", float(steps), note=note)
        return
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    free = total - before
    used = gigabytes(torch.cuda.max_memory_allocated)
    note += f"; {watch[-1]:.1f} of {free:.1f} GB reserved, {used:.1f} of them in use at once"
    results.tell("batch_size: auto, share of the memory", watch[-1] / free, bar=Bar(at_least=0.7), note=note)


def left_behind(results: Results, tiny: bool) -> None:
    """What is still allocated on the device after a run whose model is gone."""
    config = config_of("nsmc", EXAMPLES["nsmc"] // (8 if tiny else 1), shape(tiny))

    def run() -> None:
        train(config, task_of(config), Until(device=device(), last=10))

    if not on_gpu():
        run()
        results.missing("left on the device after a run", "no GPU")
        return
    torch._C._cuda_clearCublasWorkspaces()
    clean_up()
    before = torch.cuda.memory_allocated()
    run()
    clean_up()
    after = torch.cuda.memory_allocated()
    torch._C._cuda_clearCublasWorkspaces()
    clean_up()
    left = torch.cuda.memory_allocated() - before
    note = f"{before} bytes before the run; {after} after it, {left + before} without the workspaces of cuBLAS"
    results.tell("left on the device after a run", left / 1024, unit="KB", bar=Bar(at_most=64), note=note)
