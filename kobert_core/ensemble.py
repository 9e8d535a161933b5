"""Several models of the same kind together: their mean answers, or one model with the mean of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import nn

from kobert_core.data.batching import PackedInputs
from kobert_core.models.heads import EncoderWithHead


class Ensemble(nn.Module):
    """Models that answer together, in the place of one of them."""

    def __init__(self, models: Sequence[EncoderWithHead]) -> None:
        """Models of one task with one set of labels, such as those of several seeds."""
        super().__init__()
        self.models = nn.ModuleList(models)
        self._mean_output: Callable[[Sequence[Any]], Any] = models[0].mean_output

    def forward(self, **packed: Unpack[PackedInputs]) -> Any:
        """The mean of what the models say of the sequences, as `EncoderWithHead.mean_output` has it."""
        return self._mean_output([model(**packed) for model in self.models])


def mean_weights(models: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of several models' weights: a uniform soup (Wortsman et al. 2022, Model soups: averaging weights of
    multiple fine-tuned models improves accuracy without increasing inference time).

    One model is kept in memory at a time. Tensors without a mean, such as integers, are those of the first model.

    Raises:
        ValueError: the models do not have the same weights, or there are none.
    """
    means: dict[str, torch.Tensor] = {}
    count, first = 0, dict[str, torch.Tensor]()
    for weights in models:
        count += 1
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        if count == 1:
            first = dict(weights)
            means = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        if shapes != {name: tensor.shape for name, tensor in means.items()}:
            raise ValueError("models with other weights have no mean.")
        for name, tensor in weights.items():
            means[name] += tensor  # in float64, so that equal weights are their own mean
    if not count:
        raise ValueError("no models have no mean.")
    return {
        name: (means[name] / count).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }
