"""What a task must offer so that the loop can train it and a sweep can compare its runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from kobert_core.config import DataConfig, ModelConfig, Objective, TrainConfig
from kobert_core.data.batching import Batch
from kobert_core.data.cache import cached_arrays
from kobert_core.data.readers import BadRow
from kobert_core.data.squad import BadQuestion
from kobert_core.tokenization import KoBertTokenizer, tokenizer_from

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Examples(Protocol):
    """Examples of one split, read by position."""

    lengths: np.ndarray
    """Tokens of each example, special ones counted: int array of shape (examples,)."""

    def __len__(self) -> int: ...

    def __str__(self) -> str:
        """How many there are, in words: `360 examples`."""
        ...

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at `indices`, as tensors on the CPU."""
        ...


E = TypeVar("E", bound=Examples)


def tokenizer_of(
    model: ModelConfig, *, cache: Path | None, key: Mapping[str, object], texts: Callable[[], Sequence[str]]
) -> KoBertTokenizer:
    """The tokenizer that a config names, or one trained on `texts` where it asks for new pieces.

    Args:
        model: Names it.
        cache: Folder where a trained one is kept.
        key: All that `texts` depend on.
        texts: The texts that are trained on, and no others: the dev split stays unseen.
    """
    if model.tokenizer_vocab_size is None:
        source = model.tokenizer or model.backbone
        assert source is not None
        return KoBertTokenizer.from_pretrained(source, revision=model.revision)
    vocab_size = model.tokenizer_vocab_size

    def build() -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            KoBertTokenizer.train(texts(), folder, vocab_size)
            return {"model": np.fromfile(Path(folder, "spiece.model"), dtype=np.uint8)}

    trained = cached_arrays(cache, {**key, "vocab_size": vocab_size}, build)
    return tokenizer_from(trained["model"].tobytes())


class Task(Protocol[E]):
    """One task on the data of one config. Made once a run; its features come from the cache."""

    name: ClassVar[str]
    Data: ClassVar[type[DataConfig]]
    Model: ClassVar[type[ModelConfig]]
    metrics: ClassVar[tuple[str, ...]]
    objective: ClassVar[Objective]
    weight_files: ClassVar[Mapping[str, str]]
    """Files beside `model.safetensors`, each with the prefix of the weights in it; what transformers does not know."""
    chosen_on_dev: ClassVar[Mapping[str, str]]
    """Metrics that are values of the model's config chosen on the dev split, with that value's name."""

    config: TrainConfig

    def __init__(
        self, config: TrainConfig, *, cache: Path | None = None, tokenizer: KoBertTokenizer | None = None
    ) -> None: ...

    @property
    def tokenizer(self) -> KoBertTokenizer: ...

    @property
    def train(self) -> E: ...

    @property
    def dev(self) -> E: ...

    def build_model(self) -> nn.Module:
        """A model with its encoder in `model.bert`, on the CPU, initialised as the config says."""
        ...

    def hf_config(self) -> PretrainedConfig:
        """The `config.json` with which transformers loads the model's weights."""
        ...

    def read(self, path: Path) -> E:
        """The labelled examples of another file, such as the test file."""
        ...

    def bad_rows(self, path: Path) -> Sequence[BadRow | BadQuestion]:
        """What was set aside of a labelled file, with its place."""
        ...

    def read_inputs(self, path: Path) -> tuple[list[str], E]:
        """Ids and examples of a file to predict, which needs no labels."""
        ...

    def answers(self, ids: list[str], examples: E, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """One flat record an id: what the model says of it, in a form for people."""
        ...

    def weights(self, examples: E, indices: np.ndarray) -> float:
        """The weights of the examples in the loss, added up; the loss of an update is divided by it."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The weighted losses of a batch, added up: a scalar on the model's device."""
        ...

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """What scoring needs: tensors with one row an example."""
        ...

    def score(self, examples: E, outputs: dict[str, np.ndarray]) -> dict[str, float]:
        """`eval/…` metrics from the outputs of all examples, in their order."""
        ...
