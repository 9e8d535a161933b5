"""HuggingFace's Trainer with dynamic padding, in random order or grouped by length.

The data is tokenized beforehand, and what is not named here is as a user has it by default (fused AdamW, SDPA, logging
every 500 steps). The time is from `on_train_begin` to the last `on_step_end`.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from common import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NSMC_LENGTH,
    SEED,
    WARMUP_RATIO,
    WEIGHT_DECAY,
    Size,
    features_as_lists,
    give,
    model_folder,
    read_reviews,
    training_arguments,
    training_file,
)


def make_features(task: str, tokenizer: Any, examples: int) -> list[dict[str, Any]]:
    """The examples as lists of ids, without padding."""
    file = training_file(task, examples)
    if task == "korquad":
        return features_as_lists(file)
    texts, labels = read_reviews(file)
    encoded = tokenizer(texts, truncation=True, max_length=NSMC_LENGTH)
    return [
        {name: values[number] for name, values in encoded.items()} | {"labels": label}
        for number, label in enumerate(labels)
    ]


def train_once(task: str, shape: str, examples: int, batch: int, sampling: str) -> dict[str, Any]:
    """Train one epoch; seconds, examples and the mean loss."""
    from torch.utils.data import Dataset
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.trainer_pt_utils import get_length_grouped_indices

    folder = model_folder(task, shape)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind = AutoModelForSequenceClassification if task == "nsmc" else AutoModelForQuestionAnswering

    class Features(Dataset):
        def __init__(self) -> None:
            self.features = make_features(task, tokenizer, examples)

        def __len__(self) -> int:
            return len(self.features)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return self.features[index]

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.perf_counter()

    class Grouped(Trainer):
        """Groups over 50 batches, Trainer's own number for large data: for small data it would hardly group at all."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            lengths = [len(feature["input_ids"]) for feature in data.features]
            return get_length_grouped_indices(lengths, batch, mega_batch_mult=50)

    clock, data = Clock(), Features()
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            warmup_steps=WARMUP_RATIO,  # below 1 it is a part of all steps
            max_grad_norm=MAX_GRAD_NORM,
            seed=SEED,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            eval_strategy="no",
            logging_steps=500,
            disable_tqdm=True,
        )
        trainer = (Grouped if sampling == "group_by_length" else Trainer)(
            model=kind.from_pretrained(folder),
            args=arguments,
            train_dataset=data,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[clock],
        )
        result = trainer.train()
    return {"examples": len(data), "seconds": clock.ended - clock.began, "loss": result.training_loss}


def main() -> None:
    sampling = ("--sampling", {"choices": ["random", "group_by_length"], "required": True})
    given = training_arguments(__doc__, sampling)
    size: Size = given.size
    train_once(given.task, given.shape, size.warmup, size.batch, given.sampling)
    figures = train_once(given.task, given.shape, size.examples, size.batch, given.sampling)
    give({"side": f"Trainer, {given.sampling}"} | figures)


if __name__ == "__main__":
    main()
