"""The families of encoders that can be tuned, and what differs from one to another: all else is alike in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from kobert_core.errors import InputError
from kobert_core.io.remote import here
from kobert_core.packed.layers import (
    run_first_tokens_like_bert,
    run_first_tokens_like_deberta,
    run_first_tokens_like_modernbert,
    run_like_deberta,
)
from kobert_core.plugins import Plugins

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

T = TypeVar("T")
PLAIN_POOLINGS = ("cls", "mean")
"""What can stand for a text before a linear layer, in every family."""
Embed = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Head = Callable[[Any, torch.Tensor], torch.Tensor]
RunLayer = Callable[..., torch.Tensor]
"""From a layer, hidden states of shape (1, tokens, size), the `Sequences`, and by name what `layer_values` gives."""


def _embed_with_types(encoder: Any, ids: torch.Tensor, types: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = encoder.embeddings(ids, types, positions)
    return hidden


def _embed_like_roberta(encoder: Any, ids: torch.Tensor, types: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return _embed_with_types(encoder, ids, types, positions + encoder.config.pad_token_id + 1)


def _embed_like_electra(encoder: Any, ids: torch.Tensor, types: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    hidden = _embed_with_types(encoder, ids, types, positions)
    return encoder.embeddings_project(hidden) if hasattr(encoder, "embeddings_project") else hidden


def _embed_like_distilbert(
    encoder: Any, ids: torch.Tensor, types: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    hidden: torch.Tensor = encoder.embeddings(ids, position_ids=positions)
    return hidden


def _embed_like_modernbert(
    encoder: Any, ids: torch.Tensor, types: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    hidden: torch.Tensor = encoder.embeddings(ids)
    return hidden


def _rotations(encoder: Any, hidden: torch.Tensor, positions: torch.Tensor) -> Callable[[Any], dict[str, Any]]:
    """ModernBERT's positions, which each kind of its layers turns its queries and keys by."""
    kinds = sorted(set(encoder.config.layer_types))
    rotations = {kind: encoder.rotary_emb(hidden, positions, kind) for kind in kinds}
    return lambda layer: {"position_embeddings": rotations[layer.attention_type]}


def _relative(encoder: Any, hidden: torch.Tensor, positions: torch.Tensor) -> Callable[[Any], dict[str, Any]]:
    """DeBERTa's embeddings of distances, which all of its layers share."""
    relative = encoder.encoder.get_rel_embedding()
    return lambda layer: {"relative": relative}


def _has_no_convolution(encoder: Any) -> bool:
    return encoder.encoder.conv is None


def _classify_like_bert(model: Any, first: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(model.dropout(model.encoder.pooler(first[:, None])))
    return logits


def _classify_like_roberta(model: Any, first: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(first[:, None])
    return logits


def _classify_like_distilbert(model: Any, first: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(model.dropout(model.pre_classifier(first).relu()))
    return logits


def _classify_like_deberta(model: Any, first: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(model.dropout(model.pooler(first[:, None])))
    return logits


def _head_of_modernbert(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(model.drop(model.head(hidden)))
    return logits


def _answer(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.qa_outputs(hidden)
    return logits


def _tag(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(model.dropout(hidden))
    return logits


def _tag_like_modernbert(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    return _tag(model, model.head(hidden))


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family, by the `model_type` of its configs."""

    layers: str
    """The list of layers in the encoder."""
    last_norm: str | None = None
    """The encoder's module after the last layer."""
    embed: Embed = _embed_with_types
    """Hidden states of shape (1, tokens, size) from ids, token types and positions of shape (1, tokens)."""
    layer_values: Callable[[Any, torch.Tensor, torch.Tensor], Callable[[Any], dict[str, Any]]] | None = None
    """From the encoder, the embedded tokens and their positions: what each layer takes beside the hidden states."""
    is_packed: bool = True
    """Whether attention goes through transformers' `AttentionInterface`: no padding is needed then."""
    run_layer: RunLayer | None = None
    """The way without padding of a family whose attention is its own, on the CPU."""
    can_run_layers: Callable[[Any], bool] = lambda encoder: True
    """Whether an encoder of it takes that way: all that it has must look at one token at a time, but attention."""
    run_first_tokens: RunLayer | None = None
    """The states of the first tokens alone, for the last layer: shape (1, sequences, size)."""
    has_pooler: bool = False
    """Whether transformers' encoder has a pooler, unless it is told to have none."""
    pools: bool = False
    """Whether the head of its sequence classifier takes the encoder's own pooler."""
    poolings: tuple[str, ...] = ("pooler",)
    """How transformers' sequence classifier can make one state of a text's. `pooler`: its first token goes through a
    dense layer with an activation."""
    pooling_value: str | None = None
    """The value of its configs that chooses one of several."""
    embeddings: tuple[str, ...] = ("embeddings",)
    """The encoder's modules that come before the lowest layer, or hold embeddings for all of them."""
    classify: Head
    """Logits from the hidden states that stand for the sequences, shape (sequences, size)."""
    answer: Head = _answer
    """Logits of start and end from the hidden states of tokens."""
    tag: Head = _tag
    """Logits of the tags from the hidden states of tokens."""
    starts_after_padding: bool = False
    """Whether the first position is `pad_token_id + 1`, and not 0."""
    needs_token_types: bool = True
    """Whether a pair needs an encoder that tells token types apart; otherwise its separators may do so alone."""
    hidden_dropouts: tuple[str, ...] = ("hidden_dropout_prob",)
    attention_dropout: str = "attention_probs_dropout_prob"
    head_dropout: str = "classifier_dropout"
    question_dropout: str | None = None
    """The same of the head for questions, in transformers."""
    tag_dropout: str | None = "classifier_dropout"
    """The same of the head for tags; None where it is one of the encoder's own."""

    def runs_packed(self, encoder: Any, starts: torch.Tensor) -> bool:
        """Whether no padding is needed on this device."""
        return self.is_packed or (self.run_layer is not None and not starts.is_cuda and self.can_run_layers(encoder))

    def positions(self, config: PretrainedConfig) -> int:
        """The longest sequence in tokens."""
        most: int = config.max_position_embeddings
        return most - config.pad_token_id - 1 if self.starts_after_padding else most

    def tells_types_apart(self, config: PretrainedConfig) -> bool:
        """Whether an encoder looks at token types; where it does not, all are 0."""
        return self.needs_token_types or getattr(config, "type_vocab_size", 0) > 1

    @property
    def dropouts(self) -> tuple[str, ...]:
        """The values of its configs that no weight depends on."""
        return (*self.hidden_dropouts, self.attention_dropout)


_ROBERTA = Family(
    layers="encoder.layer",
    embed=_embed_like_roberta,
    run_first_tokens=run_first_tokens_like_bert,
    has_pooler=True,
    classify=_classify_like_roberta,
    starts_after_padding=True,
    needs_token_types=False,
)

FAMILIES: Plugins[Family] = Plugins(
    "kobert_tuning.encoders",
    Family,
    {
        "bert": Family(
            layers="encoder.layer",
            run_first_tokens=run_first_tokens_like_bert,
            has_pooler=True,
            pools=True,
            classify=_classify_like_bert,
        ),
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
        "electra": Family(
            layers="encoder.layer",
            embed=_embed_like_electra,
            run_first_tokens=run_first_tokens_like_bert,
            classify=_classify_like_roberta,
            embeddings=("embeddings", "embeddings_project"),
        ),
        "distilbert": Family(
            layers="transformer.layer",
            embed=_embed_like_distilbert,
            classify=_classify_like_distilbert,
            needs_token_types=False,
            hidden_dropouts=("dropout",),
            attention_dropout="attention_dropout",
            head_dropout="seq_classif_dropout",
            question_dropout="qa_dropout",
            tag_dropout=None,
        ),
        "deberta-v2": Family(
            layers="encoder.layer",
            is_packed=False,
            layer_values=_relative,
            run_layer=run_like_deberta,
            can_run_layers=_has_no_convolution,
            run_first_tokens=run_first_tokens_like_deberta,
            classify=_classify_like_deberta,
            embeddings=("embeddings", "encoder.rel_embeddings", "encoder.LayerNorm"),
            needs_token_types=False,
            head_dropout="cls_dropout",
            tag_dropout=None,
        ),
        "modernbert": Family(
            layers="layers",
            last_norm="final_norm",
            embed=_embed_like_modernbert,
            layer_values=_rotations,
            run_first_tokens=run_first_tokens_like_modernbert,
            classify=_head_of_modernbert,
            poolings=("cls", "mean"),
            pooling_value="classifier_pooling",
            answer=_head_of_modernbert,
            tag=_tag_like_modernbert,
            needs_token_types=False,
            hidden_dropouts=("embedding_dropout", "mlp_dropout"),
            attention_dropout="attention_dropout",
        ),
    },
)
"""Those that are known, by `model_type`; other packages add theirs as entry points."""
IN_TRANSFORMERS = tuple(FAMILIES.own)
"""Those of them that this package knows."""


def family_of(config: PretrainedConfig) -> Family:
    """The family of an encoder.

    Raises:
        InputError: it is none of those that are known.
    """
    if config.model_type not in FAMILIES:
        raise InputError(
            f"`{config.name_or_path}` is a model of type `{config.model_type}`",
            where="model.backbone",
            fix=f"its type must be one of {', '.join(f'`{name}`' for name in FAMILIES)}",
        )
    return FAMILIES[config.model_type]


def known_type(backbone: str, revision: str | None = None) -> str | None:
    """The `model_type` of a folder, of one in an object store, or of a model on the hub that was downloaded; None where
    nothing here says it."""
    from huggingface_hub import try_to_load_from_cache

    try:
        file = Path(here(backbone)) / "config.json"
        if not file.parent.is_dir():
            file = Path(str(try_to_load_from_cache(backbone, "config.json", revision=revision)))
        kind = json.loads(file.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError):  # whoever needs the encoder will say what is wrong
        return None
    return str(kind)


def import_family(kind: str | None) -> None:
    """Import the package that adds the family of a `model_type`, if one does: it may have more to tell transformers.

    Raises:
        InputError: it cannot be imported.
    """
    if kind is not None and kind in FAMILIES:
        FAMILIES[kind]


def layers_of(encoder: nn.Module) -> list[Any]:
    """The encoder's layers, the lowest first."""
    layers: Any = encoder.get_submodule(family_of(encoder.config).layers)  # type: ignore[arg-type]
    return list(layers)


def spread(layers: int, keep: int | None) -> list[int]:
    """So many of the places of layers, the lowest and the highest among them, at equal distances; all for None."""
    kept = torch.linspace(0, layers - 1, layers if keep is None else keep, dtype=torch.float64)
    return [int(place) for place in kept.round()]


def weights_of_layers(weights: Mapping[str, T], family: Family, kept: Sequence[int]) -> dict[str, T]:
    """The weights of an encoder with these of its layers alone, by the names that they have there."""
    places = {layer: place for place, layer in enumerate(kept)}
    found: dict[str, T] = {}
    for name, weight in weights.items():
        match = re.match(rf"({re.escape(family.layers)}\.)(\d+)(\..*)", name)
        if match is None:
            found[name] = weight
        elif int(match[2]) in places:
            found[f"{match[1]}{places[int(match[2])]}{match[3]}"] = weight
    return found


def layers_above(encoder: nn.Module, weight: str) -> int:
    """How many layers lie between a weight, by its name in the encoder, and the pooler: 0 for the pooler, 1 for the top
    layer, and for embeddings one more than there are layers."""
    family, layers = family_of(encoder.config), len(layers_of(encoder))  # type: ignore[arg-type]
    if match := re.match(rf"{re.escape(family.layers)}\.(\d+)\.", weight):
        return layers - int(match[1])
    is_above = weight.startswith(("pooler.", f"{family.last_norm}."))
    return 0 if is_above else layers + 1


def takes_plain_head(config: PretrainedConfig, pooling: str) -> bool:
    """Whether a text's state goes through a linear layer of our own, since transformers' sequence classifier of this
    type cannot pool so."""
    return pooling in PLAIN_POOLINGS and pooling not in family_of(config).poolings


def pooling_values(config: PretrainedConfig, pooling: str) -> dict[str, str]:
    """The values of its config with which transformers' sequence classifier pools so; none for `auto`, and where it
    cannot.

    Raises:
        InputError: nothing can: the family has no such head.
    """
    family = family_of(config)
    if pooling == "auto" or takes_plain_head(config, pooling):
        return {}
    if pooling not in family.poolings:
        names = dict.fromkeys(("auto", *family.poolings, *PLAIN_POOLINGS))
        raise InputError(
            f"transformers' sequence classifier of the type `{config.model_type}` has no `{pooling}`",
            where="model.pooling",
            fix=f"use {' or '.join(f'`{name}`' for name in names)}",
        )
    return {family.pooling_value: pooling} if family.pooling_value else {}
