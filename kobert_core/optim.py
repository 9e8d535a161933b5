"""Parameter groups, AdamW and the learning-rate schedule."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from kobert_core.config import OptimConfig


def make_optimizer(model: nn.Module, optim: OptimConfig) -> AdamW:
    """AdamW over `parameter_groups`, fused."""
    return AdamW(parameter_groups(model, optim), betas=optim.betas, eps=optim.eps, fused=True)


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, object]]:
    """Groups with a learning rate and a weight decay each.

    What is in `model.bert` gets `backbone_lr`, times `layer_decay` for each layer below the pooler (the
    embeddings lie below layer 0); the rest gets `classifier_lr`. Biases and LayerNorm weights do not decay.
    Each group has a `name`: `backbone` or `classifier`.
    """
    encoder: Any = model.bert
    layers = encoder.config.num_hidden_layers
    groups: dict[tuple[str, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith("bert."):
            kind, above = "backbone", _layers_above(name, layers) if optim.layer_decay != 1 else 0
        else:
            kind, above = "classifier", 0
        decays = not (name.endswith(".bias") or "LayerNorm" in name)
        groups.setdefault((kind, above, decays), []).append(parameter)
    rates = {"backbone": optim.backbone_lr, "classifier": optim.classifier_lr}
    return [
        {
            "params": parameters,
            "name": kind,
            "lr": rates[kind] * optim.layer_decay**above,
            "weight_decay": optim.weight_decay if decays else 0.0,
        }
        for (kind, above, decays), parameters in groups.items()
    ]


def _layers_above(name: str, layers: int) -> int:
    """How many layers lie between a weight of the encoder and the pooler: 0 for the pooler, 1 for the top layer."""
    if match := re.match(r"bert\.encoder\.layer\.(\d+)\.", name):
        return layers - int(match[1])
    return layers + 1 if name.startswith("bert.embeddings.") else 0


def make_schedule(optimizer: AdamW, optim: OptimConfig, *, steps: int) -> LambdaLR:
    """Linear warmup from zero, then linear decay to zero or constant, as transformers' schedules do it."""
    warmup = optim.warmup_steps if optim.warmup_steps is not None else round(optim.warmup_ratio * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        if optim.schedule == "constant":
            return 1.0
        return max(0.0, (steps - step) / max(1, steps - warmup))

    return LambdaLR(optimizer, factor)
