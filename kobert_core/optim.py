"""Parameter groups, AdamW and the learning-rate schedule."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from kobert_core.config import OptimConfig
from kobert_core.families import layers_above
from kobert_core.models.heads import EncoderWithHead


def make_optimizer(model: EncoderWithHead, optim: OptimConfig) -> AdamW:
    """AdamW over `parameter_groups`, fused."""
    return AdamW(parameter_groups(model, optim), betas=optim.betas, eps=optim.eps, fused=True)


def parameter_groups(model: EncoderWithHead, optim: OptimConfig) -> list[dict[str, object]]:
    """Groups with a learning rate and a weight decay each, of all that is not frozen.

    What is in the encoder gets `backbone_lr`, times `layer_decay` for each layer below the pooler (the
    embeddings lie below layer 0); the rest gets `classifier_lr`. Biases and LayerNorm weights do not decay.
    Each group has a `name`: `backbone` or `classifier`.
    """
    norms = {id(one) for part in model.modules() if isinstance(part, nn.LayerNorm) for one in part.parameters()}
    groups: dict[tuple[str, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(model.encoder_prefix):
            own_name = name.removeprefix(model.encoder_prefix)
            kind, above = "backbone", layers_above(model.encoder, own_name) if optim.layer_decay != 1 else 0
        else:
            kind, above = "classifier", 0
        decays = not (name.endswith(".bias") or id(parameter) in norms)
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
