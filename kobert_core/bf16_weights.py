"""Linear layers in bf16, whose weights are float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Bf16Weights(nn.Module):
    """A model whose linear layers compute with copies of their weights in bf16.

    The numbers are those of autocast, which copies each weight in a kernel of its own and casts and adds each gradient
    in two more. Here all copies are one kernel, and so are all gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        weights = {
            f"{name}.{part}": weight
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
            for part, weight in module.named_parameters(recurse=False)
        }
        copies = {name: weight.detach().to(torch.bfloat16) for name, weight in weights.items()}
        self._weights = {name: weight for name, weight in weights.items() if weight.requires_grad}
        self._copies = {name: copies[name].requires_grad_() for name in self._weights}
        self._frozen = {name: copy for name, copy in copies.items() if name not in self._weights}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives with the copies in the place of its weights."""
        return torch.func.functional_call(self._model, self._copies | self._frozen, args, kwargs)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights as they are now. The copies have no gradients then, also after a backward pass that came to
        no end."""
        torch._foreach_copy_(list(self._copies.values()), list(self._weights.values()))
        for copy in self._copies.values():
            copy.grad = None

    @torch.no_grad()
    def hand_over_gradients(self, *, add: bool) -> None:
        """Make the gradients of the copies those of the weights, or add them to what these have."""
        own, others = [], []
        for weight, copy in zip(self._weights.values(), self._copies.values(), strict=True):
            if copy.grad is not None:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                own.append(weight.grad)
                others.append(copy.grad)
                copy.grad = None
        if add:
            torch._foreach_add_(own, others)
        else:
            torch._foreach_copy_(own, others)
