"""transformers' own heads on an encoder, under the names that they have there."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from kobert_core.data.batching import PackedInputs
from kobert_core.families import family_of
from kobert_core.models.packed_encoder import use_packed_attention


class EncoderWithHead(nn.Module, ABC):
    """An encoder and the head of one of transformers' models, with `forward` left to the task.

    All modules and weights have the names of transformers, so that its Auto classes load them.
    """

    def __init__(
        self,
        encoder: Any,
        auto_class: Any,
        values: dict[str, Any],
        *,
        own: Mapping[str, nn.Module] = MappingProxyType({}),
        replaced: bool = False,
    ) -> None:
        """A new head on an encoder, drawn from PyTorch's generator as transformers draws it.

        Args:
            encoder: As `load_encoder` or `check_encoder` gives it.
            auto_class: The Auto class of the head.
            values: What the head's config has besides that of the encoder.
            own: Modules of the task's own by their names, on the meta device.
            replaced: Whether these take the place of transformers' head.
        """
        super().__init__()
        config = copy.deepcopy(encoder.config)
        config.update(values)
        with torch.device("meta"):
            whole: Any = auto_class.from_config(config, dtype=torch.float32)
        use_packed_attention(encoder)
        self._encoder_name: str = whole.base_model_prefix
        self.family = family_of(config)
        for name, module in [*whole.named_children(), *own.items()]:
            if name == self._encoder_name:
                self.add_module(name, encoder)
            elif name in own or not replaced:
                self.add_module(name, module.to_empty(device=encoder.device))
        new = [
            part for name, module in self.named_children() if name != self._encoder_name for part in module.modules()
        ]
        for module in new:
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        for module in [*new, whole]:  # some of the last one's own are drawn anew
            whole._init_weights(module)

    @property
    def encoder(self) -> Any:
        """The encoder, whatever its name is."""
        return getattr(self, self._encoder_name)

    @property
    def encoder_prefix(self) -> str:
        """What the names of the encoder's weights begin with."""
        return f"{self._encoder_name}."

    @abstractmethod
    def padded_outputs(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the head says of padded hidden states, by its name in the output of `forward`.

        Args:
            hidden: Of the encoder's last layer, shape (sequences, width, size).
            attention_mask: 1 for tokens and 0 for padding, shape (sequences, width).
        """

    @staticmethod
    @abstractmethod
    def packed_output(outputs: Mapping[str, torch.Tensor], packed: PackedInputs) -> Any:
        """The output of `forward` from what `padded_outputs` gave for the same sequences."""

    @abstractmethod
    def mean_output(self, outputs: Sequence[Any]) -> Any:
        """One output of `forward` for those that several models of this kind gave for the same sequences: what they
        say on average."""


def mean_probabilities(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Logits of the mean of several models' probabilities (their softmax over the last dimension): its logarithm, in
    float32."""
    of_all = torch.stack([each.float() for each in logits])
    return of_all.log_softmax(-1).logsumexp(0) - math.log(len(logits))
