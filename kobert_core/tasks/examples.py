"""What a task trains on and predicts for: its examples, and the rows that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, Self

import numpy as np
from typing_extensions import TypeVar

from kobert_core.data.batching import Batch
from kobert_core.data.set_aside import SetAside


class Examples(Protocol):
    """Examples of one split, read by position."""

    lengths: np.ndarray
    """Tokens of each example, special ones counted: int array of shape (examples,)."""
    unit: ClassVar[str]
    """What an example is called, in the plural."""

    def __len__(self) -> int: ...

    @property
    def items(self) -> int:
        """The rows or questions that the examples are of: scores are a mean over these."""
        ...

    def __str__(self) -> str:
        """How many there are, in words: `360 examples`."""
        ...

    @property
    def clusters(self) -> np.ndarray:
        """Of each item a number that those share which are no independent observations, such as the questions on one
        article: int array of shape (items,)."""
        ...

    def take(self, items: np.ndarray, /) -> Self:
        """The examples of some items of the file, its rows or questions."""
        ...

    def rows_of(self, items: np.ndarray, /) -> np.ndarray:
        """The positions of the examples of `take(items)` among these."""
        ...

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at `indices`, as tensors on the CPU."""
        ...


E = TypeVar("E", bound=Examples, default=Any)
"""A task alone stands for one with any kind of examples."""
EXAMPLE_TEXTS = {
    "text": "지루할 틈이 없었다",
    "pair": "정말 재미있게 봤다",
    "context": "세종은 1397년에 한양에서 태어났다.",
    "question": "세종은 언제 태어났는가?",
}
"""Our own sentences, by the names of `Task.input_columns`: a model is given away, and a row of data is not."""


@dataclass(frozen=True, kw_only=True)
class Inputs(Generic[E]):
    """What there is to predict: a part of a file, or rows in memory."""

    ids: list[str]
    texts: dict[str, list[str]]
    """What the file says, by the name that it has in predictions: `text`, or `question`; in the order of `ids`."""
    tokenize: Callable[[], E]
    """Makes the examples, which takes the time."""
    bad: Sequence[SetAside] = ()
    """What was set aside."""
    kept: list[dict[str, object]] | None = None
    """Of each row the other columns of the file, where they were asked for."""

    @cached_property
    def examples(self) -> E:
        """The examples, as the model takes them."""
        return self.tokenize()
