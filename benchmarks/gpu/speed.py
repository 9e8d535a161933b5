"""Ours and HuggingFace's Trainer, taking turns in one process, and the rate of matrix products.

KoBERT's shape from random weights in bf16, over the same examples: NSMC at 64 tokens, KorQuAD's windows of 384. A round
of a side is one whole epoch after a warm-up, from one moment when the device has done all to another; data is
tokenized before, and evaluation is not in it. Our warm-up is an epoch before it. Trainer's are batches of the same
kind; it pads dynamically, has its own defaults (fused AdamW, SDPA, pinned memory), and is measured with its loader in
the main process and with four of their own.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any, Protocol

import numpy as np
import torch
from common import LEARNING_RATE, MAX_GRAD_NORM, SEED, TOKENIZER, WARMUP_RATIO, WEIGHT_DECAY
from matmul_limit import Products
from report import GROUPED, LOADERS, OURS, RANDOM
from results import Results
from setting import Stopwatch, clean_up, config_of, device, gigabytes, on_gpu, shape, task_of, trained, wait

from kobert_core.config import TrainConfig
from kobert_core.data.batching import StepOrder
from kobert_core.tokenization import SentencePieceTokenizer

STEPS, WARM, ROUNDS = 64, 8, 2
CASES = (("nsmc", 32), ("korquad", 32), ("nsmc", 256))
COMPILED = CASES[:2]
WINDOWS_A_QUESTION = 1.31


def speed(results: Results, tiny: bool) -> None:
    with results.check("matrix products"):
        rates(results, tiny)
    with tempfile.TemporaryDirectory() as folder:
        setups: dict[tuple[str, int], Setup] = {}
        like: dict[str, Any] = {}
        for case in CASES[: 2 if tiny else None]:
            with results.check(f"data of {case}"):
                setups[case] = Setup(*case, tiny=tiny, folder=folder, like=like.get(case[0]))
                like[case[0]] = setups[case].task
        best: dict[tuple[str, int], tuple[float, str]] = {}
        for number in range(ROUNDS):
            for case, setup in setups.items():
                more = [] if number or case[1] > 32 else [LOADERS, RANDOM]
                sides = [OURS, GROUPED, *more]
                if number and best.get(case, (0.0, ""))[1] == LOADERS:
                    sides.append(LOADERS)
                for side in sides:
                    with results.check(f"{case[0]}, batch {case[1]}, {side}"):
                        rate = one(results, setup, side, number)
                        if side in (GROUPED, LOADERS):
                            best[case] = max(best.get(case, (0.0, "")), (rate, side))
                    clean_up()


def compiled(results: Results, tiny: bool) -> None:
    """One round with `torch.compile` on either side, whose warm-up is longer."""
    if not on_gpu():
        results.missing("torch.compile", "no GPU: a CPU takes minutes to compile")
        return
    with tempfile.TemporaryDirectory() as folder:
        for case in COMPILED:
            setup = Setup(*case, tiny=tiny, folder=folder, compile=True)
            for side in (f"{OURS}, compiled", f"{GROUPED}, compiled"):
                with results.check(f"{case[0]}, batch {case[1]}, {side}"):
                    began = time.perf_counter()
                    one(results, setup, side, 0)
                    spent = time.perf_counter() - began
                    results.tell(f"{case[0]}, batch {case[1]}, {side}: with its compilation", spent, unit="s")
                clean_up()


class Workload(Protocol):
    """What both sides train."""

    name: str
    batch: int
    steps: int
    warm: int
    """Steps of Trainer that are not counted."""
    folder: str
    config: TrainConfig
    task: Any
    features: list[dict[str, Any]]

    def tokenizer(self) -> Any:
        """As transformers has it."""


class Setup:
    """The data of one task and batch for both sides, and how many products it needs."""

    def __init__(
        self, task: str, batch: int, *, tiny: bool, folder: str, like: Any = None, compile: bool = False
    ) -> None:
        self.name, self.batch = task, batch // (8 if tiny else 1)
        self.steps, self.warm = (4, 2) if tiny else (STEPS, 2 * WARM if compile else WARM)
        self.folder, self.tiny = folder, tiny
        examples = self.steps * self.batch
        questions = round(examples / WINDOWS_A_QUESTION)
        self.config = self.config_for(examples if task == "nsmc" else questions, compile=compile)
        self.task = task_of(self.config, like=like)
        lengths = self.task.train.lengths
        order = StepOrder(lengths, examples_per_step=self.batch, seed=SEED)
        self.steps = order.steps_per_epoch
        self.examples, self.tokens = len(lengths), int(lengths.sum())
        self.gflop = sum(flops(task, lengths[order.examples_of(self.steps + n)], tiny) for n in range(self.steps)) / 1e9
        self.features = as_lists(self.task.train)

    def tokenizer(self) -> Any:
        """As transformers has it."""
        from transformers import AutoTokenizer

        SentencePieceTokenizer.from_pretrained(TOKENIZER).save_pretrained(self.folder)
        return AutoTokenizer.from_pretrained(self.folder)

    def config_for(self, examples: int, *, compile: bool = False) -> TrainConfig:
        optim = {"batch_size": self.batch, "weight_decay": WEIGHT_DECAY, "max_grad_norm": MAX_GRAD_NORM}
        return config_of(self.name, examples, shape(self.tiny), optim=optim, train={"compile": compile})


def flops(task: str, lengths: np.ndarray, tiny: bool) -> int:
    """Floating point operations of the products that a step needs, by `matmul_limit` on tensors without numbers."""
    with torch.device("meta"):
        size = {"rows": int(lengths.sum()), "attention": int((lengths.astype(np.int64) ** 2).sum())}
        products = Products("tiny" if tiny else "real", task, needed=task == "nsmc", **size)
        products.update(lengths)
    return products.flops


def as_lists(examples: Any) -> list[dict[str, Any]]:
    """All examples as lists without padding, as Trainer takes them."""
    features = []
    for start in range(0, len(examples), 512):
        padded = examples.batch(np.arange(start, min(start + 512, len(examples)))).padded()
        padded = {name: rows for name, rows in padded.items() if not name.startswith("trim")}
        for number, length in enumerate(padded["attention_mask"].sum(1).tolist()):
            features.append(
                {
                    name: rows[number, :length].tolist() if rows.ndim == 2 else int(rows[number])
                    for name, rows in padded.items()
                }
            )
    return features


def one(results: Results, setup: Setup, side: str, number: int) -> float:
    """A round of a side; its examples a second."""
    clean_up()
    figures = our_round(setup) if side.startswith(OURS) else trainer_round(setup, side)
    rate = setup.examples / figures["seconds"]
    known = {"task": setup.name, "batch": setup.batch, "side": side, "round": number, "examples": setup.examples}
    more = known | {"tokens": setup.tokens, "steps": setup.steps, "gflop": setup.gflop} | figures
    spent = 1e3 * figures["seconds"] / setup.steps
    note = f"{spent:.2f} ms a step, {setup.gflop / figures['seconds'] / 1e3:.1f} TFLOP/s, {figures['peak_gb']:.1f} GB"
    note += f", warm-up {figures['warm_seconds']:.1f} s, {figures['slow']} slow steps"
    results.tell(f"{setup.name}, batch {setup.batch}, {side}", rate, unit="examples/s", note=note, **more)
    return rate


def our_round(setup: Workload) -> dict[str, Any]:
    """Two epochs, of which the second counts."""
    first, last = setup.steps, 2 * setup.steps
    watch = Stopwatch(first, last)
    trained(setup.config, setup.task, last, watch)
    return {
        "seconds": watch.between(first, last),
        "warm_seconds": watch.at[first] - watch.began,
        "slow": watch.slow(first, last),
        "peak_gb": gigabytes(torch.cuda.max_memory_reserved),
    }


def trainer_round(setup: Workload, side: str) -> dict[str, Any]:
    """An epoch of Trainer, after some batches that are not counted."""
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.trainer_pt_utils import get_length_grouped_indices

    tokenizer = setup.tokenizer()
    kind = AutoModelForSequenceClassification if setup.name == "nsmc" else AutoModelForQuestionAnswering
    warm = setup.warm
    watch = Stopwatch(warm, warm + setup.steps)

    class Clock(TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            watch(state.global_step)

    class Ordered(Trainer):
        """The warm-up's examples and then an epoch; grouped over 50 batches, Trainer's own number for large data."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            torch.manual_seed(SEED)
            lengths = [len(feature["input_ids"]) for feature in setup.features]
            random = torch.randperm(len(lengths)).tolist()
            grouped = get_length_grouped_indices(lengths, setup.batch, mega_batch_mult=50)
            order = random if side == RANDOM else grouped
            return random[: warm * setup.batch] + order

    arguments = TrainingArguments(
        output_dir=setup.folder,
        num_train_epochs=1,
        per_device_train_batch_size=setup.batch,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        warmup_steps=WARMUP_RATIO,  # below 1 it is a part of all steps
        max_grad_norm=MAX_GRAD_NORM,
        seed=SEED,
        bf16=on_gpu(),
        use_cpu=not on_gpu(),
        dataloader_num_workers=4 if side == LOADERS else 0,
        torch_compile="compiled" in side,
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        logging_steps=500,
        disable_tqdm=True,
    )
    with device():  # random weights are drawn there at once
        model = kind.from_config(setup.task.hf_config())
    trainer = Ordered(
        model=model,
        args=arguments,
        train_dataset=setup.features,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[Clock()],
    )
    trainer.remove_callback(PrinterCallback)
    watch.began = time.perf_counter()
    trainer.train()
    return {
        "seconds": watch.between(warm, warm + setup.steps),
        "warm_seconds": watch.at[warm] - watch.began,
        "slow": watch.slow(warm, warm + setup.steps),
        "peak_gb": gigabytes(torch.cuda.max_memory_reserved),
    }


def rates(results: Results, tiny: bool) -> None:
    """TFLOP/s of products of random numbers in bf16, and GB/s of a copy, counting what is read and what is written."""
    size = 256 if tiny else 8192
    title = "matrix products, bf16, 8192 x 8192 x 8192"
    results.tell(title, product_rate(size, size, size), unit="TFLOP/s", note="median of 40" if not tiny else "tiny")
    sizes = (64, 96, 96) if tiny else (9728, 768, 3072)
    for rows in (sizes[0] // 12, sizes[0]):
        told = [f"{product_rate(rows, into, out):.0f}" for into, out in (sizes[1:], sizes[:0:-1], (sizes[1],) * 2)]
        note = "768 to 3072, 3072 to 768, 768 to 768"
        results.tell(f"products of {rows} tokens, TFLOP/s", ", ".join(told), note=note)
    source = torch.empty(2**20 if tiny else 2**31, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    moved = 2 * source.numel() / median_seconds(lambda: target.copy_(source), 20) / 1e9
    results.tell("memory copied", moved, unit="GB/s")


def product_rate(rows: int, into: int, out: int) -> float:
    """TFLOP/s of one product."""
    left = torch.randn(rows, into, device=device(), dtype=torch.bfloat16)
    right = torch.randn(into, out, device=device(), dtype=torch.bfloat16)
    result = torch.empty(rows, out, device=device(), dtype=torch.bfloat16)
    return 2 * rows * into * out / median_seconds(lambda: torch.mm(left, right, out=result), 40) / 1e12


def median_seconds(call: Any, calls: int) -> float:
    from attention import microseconds

    seconds = microseconds(call, calls) / 1e6
    wait()
    return seconds
