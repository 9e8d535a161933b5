"""Encoders of other families: whether their numbers are right on a GPU, and how fast they are beside `Trainer`.

Random weights, a real tokenizer; KoBERT's size, and for the numbers four layers of it. Texts of KorQuAD are longer than
ModernBERT's local windows.
"""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import torch
from common import LEARNING_RATE, MAX_GRAD_NORM, SHARED, WARMUP_RATIO, WEIGHT_DECAY, WORK
from correct import BATCH, EXAMPLES, TASKS, against_padded
from report import GROUPED, OURS
from results import Bar, Results
from setting import EVEN, NO_DROPOUT, clean_up, config_of, shape, task_of
from speed import as_lists, our_round, trainer_round
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from kobert_core.config import TrainConfig
from kobert_core.tokenization import load_tokenizer

TOKENIZER = SHARED / "models/e5-korean"
STEPS, WARM, ROUNDS, SIZE = 64, 16, 2, 32
LAYERS = 4
FASTER = Bar(at_least=1.0)
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_buckets": 256}
OWN: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1, "max_position_embeddings": 514},
    "electra": {},
    "modernbert": {f"{name}_token_id": None for name in ("bos", "cls", "eos", "sep")},
    "deberta-v2": RELATIVE | {"type_vocab_size": 0, "norm_rel_ebd": "layer_norm", "position_biased_input": False},
    "xlm-roberta": {"type_vocab_size": 1, "max_position_embeddings": 514},
    "distilbert": {},
}
"""What is not each family's default, by `model_type`."""
TIMED = ("roberta", "electra", "modernbert", "deberta-v2")
NAMES_OF_DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def families(results: Results, tiny: bool) -> None:
    """The numbers of all families in both tasks, then the speed of some."""
    torch.set_float32_matmul_precision("highest")
    for family in OWN:
        for name in TASKS:
            with results.check(f"{family}, {name}"):
                config_in = partial(config_of_family, family, name, tiny, layers=LAYERS, model=NO_DROPOUT, optim=EVEN)
                against_padded(results, f"{family}, {name}", config_in)
            clean_up()
    for family in TIMED:
        with results.check(f"{family}, speed"):
            beside_trainer(results, family, tiny)
        clean_up()


def config_of_family(
    family: str,
    task: str,
    tiny: bool,
    precision: str = "auto",
    *,
    layers: int | None = None,
    model: dict[str, Any],
    optim: dict[str, Any],
    examples: int | None = None,
    batch: int | None = None,
) -> TrainConfig:
    """A run of a family from random weights."""
    tokenizer = load_tokenizer(TOKENIZER)
    sizes = shape(tiny, layers)
    if family == "distilbert":
        sizes = {NAMES_OF_DISTILBERT[name]: value for name, value in sizes.items()}
    if family == "electra":
        sizes |= {"embedding_size": sizes["hidden_size"]}
    special = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_id}
    folder = WORK / "families" / "-".join([family, *map(str, sizes.values())])
    AutoConfig.for_model(family, **sizes, **special, **OWN[family]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    own = {"backbone": str(folder), "config": {}}
    batch = batch or BATCH[task] // (2 if tiny else 1)
    return config_of(
        task,
        examples or EXAMPLES[task] // (8 if tiny else 1),
        sizes,
        model=own | model,
        optim={"batch_size": batch} | optim,
        train={"precision": precision},
    )


class Setup:
    """What both sides train: NSMC's reviews."""

    name = "nsmc"

    def __init__(self, family: str, folder: str, *, tiny: bool) -> None:
        self.folder, self.batch = folder, SIZE // (8 if tiny else 1)
        self.steps, self.warm = (4, 2) if tiny else (STEPS, WARM)
        optim = {"weight_decay": WEIGHT_DECAY, "max_grad_norm": MAX_GRAD_NORM, "warmup_ratio": WARMUP_RATIO}
        optim |= {"backbone_lr": LEARNING_RATE, "classifier_lr": LEARNING_RATE}
        self.examples = self.steps * self.batch
        self.config = config_of_family(
            family, self.name, tiny, model={}, optim=optim, examples=self.examples, batch=self.batch
        )
        self.task = task_of(self.config)
        self.features = as_lists(self.task.train)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """As transformers has it."""
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(TOKENIZER)
        return tokenizer


def beside_trainer(results: Results, family: str, tiny: bool) -> None:
    """Rounds of ours and of Trainer, which groups by length, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(family, folder, tiny=tiny)
        ratios = []
        for number in range(ROUNDS):
            seconds = {}
            for side, round_of in ((OURS, our_round), (GROUPED, partial(trainer_round, side=GROUPED))):
                clean_up()
                figures = round_of(setup)
                seconds[side] = figures["seconds"]
                note = f"{1e3 * figures['seconds'] / setup.steps:.2f} ms a step, {figures['peak_gb']:.1f} GB"
                title = f"{family}, batch {setup.batch}, {side}, round {number + 1}"
                results.tell(title, setup.examples / figures["seconds"], unit="examples/s", note=note)
            ratios.append(seconds[GROUPED] / seconds[OURS])
        note = " and ".join(f"{ratio:.2f}" for ratio in ratios)
        results.tell(f"{family}: ours against {GROUPED}, the lower of the rounds", min(ratios), bar=FASTER, note=note)
