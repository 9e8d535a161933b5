"""The loop of the course that the original comes from: every example padded to the longest that may be.

A `Dataset` that tokenizes in `__getitem__`, fp32, `loss.item()` after each step, AdamW, linear schedule, clipping.
Two things favour it: its tokenizer is `tokenizer.json` (the original's is slower by far), and its AdamW is PyTorch's
default of today. KorQuAD's windows are made beforehand, as in `run_squad.py`, and padded to 384.
"""

from __future__ import annotations

import time
from typing import Any

from common import (
    KORQUAD_LENGTH,
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


def make_dataset(task: str, shape: str, examples: int) -> Any:
    """The class's `Dataset`: tensors of one example, padded to the full length."""
    import torch
    from torch.utils.data import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder(task, shape))
    file = training_file(task, examples)

    class Reviews(Dataset):
        def __init__(self) -> None:
            self.texts, self.labels = read_reviews(file)

        def __len__(self) -> int:
            return len(self.texts)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            encoded = tokenizer(
                self.texts[index], padding="max_length", truncation=True, max_length=NSMC_LENGTH, return_tensors="pt"
            )
            item = {name: tensor[0] for name, tensor in encoded.items()}
            return item | {"labels": torch.tensor(self.labels[index])}

    class Windows(Dataset):
        def __init__(self) -> None:
            self.features = features_as_lists(file)

        def __len__(self) -> int:
            return len(self.features)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            item = {}
            for name, value in self.features[index].items():
                if isinstance(value, list):
                    padding = tokenizer.pad_token_id if name == "input_ids" else 0
                    value = value + [padding] * (KORQUAD_LENGTH - len(value))
                item[name] = torch.tensor(value)
            return item

    return Reviews() if task == "nsmc" else Windows()


def train_once(task: str, shape: str, examples: int, batch: int) -> dict[str, Any]:
    """Train one epoch; seconds, examples and the mean loss."""
    import torch
    from torch.optim import AdamW
    from torch.utils.data import DataLoader
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        get_linear_schedule_with_warmup,
    )

    torch.manual_seed(SEED)
    kind = AutoModelForSequenceClassification if task == "nsmc" else AutoModelForQuestionAnswering
    model = kind.from_pretrained(model_folder(task, shape)).train()
    loader = DataLoader(make_dataset(task, shape, examples), batch_size=batch, shuffle=True)
    no_decay = ("bias", "LayerNorm.weight")
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if not n.endswith(no_decay)], "weight_decay": WEIGHT_DECAY},
        {"params": [p for n, p in named if n.endswith(no_decay)], "weight_decay": 0.0},
    ]

    began = time.perf_counter()
    optimizer = AdamW(groups, lr=LEARNING_RATE)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP_RATIO * len(loader)), len(loader))
    losses = 0.0
    for items in loader:
        optimizer.zero_grad()
        loss = model(**items).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        losses += loss.item()
    seconds = time.perf_counter() - began
    return {"examples": len(loader.dataset), "seconds": seconds, "loss": losses / len(loader)}


def main() -> None:
    given = training_arguments(__doc__)
    size: Size = given.size
    train_once(given.task, given.shape, size.warmup, size.batch)
    give({"side": "class loop"} | train_once(given.task, given.shape, size.examples, size.batch))


if __name__ == "__main__":
    main()
