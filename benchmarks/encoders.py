"""Encoders of other families: training against HuggingFace's Trainer.

    PYTHONPATH=. python benchmarks/encoders.py [--reviews 4000] [--rounds 3] [FAMILY …]

Trainer groups by length and pads dynamically. All takes turns, so that what else runs on the machine slows all alike;
medians of the rounds are printed as JSON. Tiny encoders of random weights, with e5-korean's tokenizer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.tokenization import load_tokenizer
from kobert_core.training import train

SHARED = Path(__file__).resolve().parents[2] / "shared"
ENCODER = SHARED / "models/e5-korean"
REVIEWS = SHARED / "data/nsmc/ratings_train.txt"
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
OWN: dict[str, dict[str, Any]] = {
    "roberta": SIZES | {"type_vocab_size": 1, "max_position_embeddings": 514},
    "electra": SIZES | {"embedding_size": 128},
    "modernbert": SIZES | {f"{name}_token_id": 0 for name in ("bos", "cls", "eos", "sep")},
    "deberta-v2": SIZES
    | {"type_vocab_size": 0, "relative_attention": True, "position_buckets": 256, "pos_att_type": ["p2c", "c2p"]}
    | {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
}
BATCH, LENGTH, RATE = 32, 64, 1e-4


class Clock(LocalRuntime):
    """Knows when the first step began and the last one ended."""

    began, ended = 0.0, 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:  # type: ignore[override]
        if name == "forward" and not self.began:
            self.began = time.perf_counter()
        yield
        if name == "optimizer":
            self.ended = time.perf_counter()


def our_seconds(folder: Path, reviews: int) -> tuple[float, int]:
    """Seconds of one epoch, and its steps."""
    values = {
        "task": "nsmc",
        "data": {"train": REVIEWS, "max_train_examples": reviews, "max_dev_examples": 8, "max_length": LENGTH},
        "model": {"backbone": str(folder)},
        "optim": {"backbone_lr": RATE, "classifier_lr": RATE, "batch_size": BATCH},
        "train": {"epochs": 1, "eval_percent": 100, "precision": "fp32"},
    }
    config = parse_train_config(values)
    task, clock = task_class("nsmc")(config, cache=folder / "cache"), Clock(device=torch.device("cpu"))
    train(config, task, clock)
    return clock.ended - clock.began, -(-len(task.train) // BATCH)


def trainer_seconds(folder: Path, texts: list[str], labels: list[int]) -> tuple[float, int]:
    """The same of Trainer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
    data = [{"input_ids": one, "labels": label} for one, label in zip(ids, labels, strict=True)]
    times: list[float] = []

    class Times(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    class Grouped(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return get_length_grouped_indices([len(one) for one in ids], BATCH, mega_batch_mult=50)

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            weight_decay=0.01,
            warmup_steps=0.1,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=500,
            disable_tqdm=True,
        )
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        collator = DataCollatorWithPadding(tokenizer)
        Grouped(model, arguments, collator, data, callbacks=[Times()]).train()
    return times[-1] - times[0], len(times) - 1


def training(family: str, texts: list[str], labels: list[int], rounds: int) -> dict[str, float]:
    """Steps a second of ours and of Trainer, and how they compare."""
    tokenizer = load_tokenizer(ENCODER)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        config = AutoConfig.for_model(family, **OWN[family], vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_id)
        AutoModel.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        our_seconds(folder, len(texts))  # reads and tokenizes the file
        ours, its = list[float](), list[float]()
        for _ in range(rounds):
            taken, steps = our_seconds(folder, len(texts))
            ours.append(steps / taken)
            taken, steps = trainer_seconds(folder, texts, labels)
            its.append(steps / taken)
    both = statistics.median(ours), statistics.median(its)
    ratio = statistics.median(own / other for own, other in zip(ours, its, strict=True))
    return {"ours": round(both[0], 2), "Trainer": round(both[1], 2), "ratio": round(ratio, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(OWN))
    parser.add_argument("--reviews", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = REVIEWS.read_text(encoding="utf-8").splitlines()[1 : given.reviews + 1]
    rows = [line.split("\t") for line in lines]
    texts, labels = [row[1] for row in rows], [int(row[2]) for row in rows]
    for family in given.families:
        print(json.dumps({f"{family}, steps/s": training(family, texts, labels, given.rounds)}), flush=True)


if __name__ == "__main__":
    main()
