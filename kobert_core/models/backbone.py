"""The encoder that a config asks for: its shape, and where its weights come from. Parameter names are those of
transformers, so that weights load anywhere."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from kobert_core.config import ModelConfig
from kobert_core.data.cache import cached_arrays
from kobert_core.errors import InputError
from kobert_core.families import (
    FAMILIES,
    family_of,
    import_family,
    known_type,
    layers_above,
    layers_of,
    spread,
    weights_of_layers,
)
from kobert_core.io.remote import here
from kobert_core.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

POOLER = {"pooler.dense.weight", "pooler.dense.bias"}
"""What a checkpoint of masked language modelling lacks of an encoder."""
NEW_POOLER = "`%s` has no pooler, as after masked language modelling: a new one begins at random"


def load_encoder(
    config: ModelConfig,
    tokenizer: Tokenizer,
    *,
    longest: int,
    segments: int = 1,
    cache: Path | None = None,
    pooler: bool = True,
) -> PreTrainedModel:
    """The encoder that a study asks for, in float32 on the CPU, with or without its pooler.

    Weights come as safetensors, or as a pickle that holds tensors alone. They are read once: in `cache` they lie as
    arrays that all processes of a machine map into memory. With `init: random` they are drawn from PyTorch's generator,
    which pretrained ones leave as it is, unless they have no pooler: one is then drawn, and a warning says so.

    Raises:
        InputError: the encoder is not there, is of no known family, lacks weights, or does not fit its tokenizer.
    """
    config = _with_backbone_here(config)
    whole = _whole_config(config, tokenizer, longest, segments)
    its_config = _with_layers(whole, config.keep_layers)
    if config.init == "random":
        return freeze(_new_encoder(its_config, pooler=pooler), config.freeze)
    assert config.backbone is not None
    shape = _shape(its_config)
    backbone, revision = config.backbone, config.revision or "main"
    folder = Path(backbone)
    files = [(file.name, file.stat()) for file in sorted(folder.iterdir())] if folder.is_dir() else []
    key = {
        "backbone": str(folder.resolve()) if files else backbone,
        "commit": getattr(its_config, "_commit_hash", None) or revision,
        "files": [(name, stat.st_mtime_ns, stat.st_size) for name, stat in files],
        "shape": json.dumps(shape, sort_keys=True, default=str),
        "pooler": pooler,
    } | ({} if config.keep_layers is None else {"layers": whole.num_hidden_layers})

    def kept_weights() -> dict[str, np.ndarray]:
        weights = _pretrained_weights(backbone, revision, whole, pooler=pooler)
        return weights_of_layers(weights, family_of(whole), spread(whole.num_hidden_layers, config.keep_layers))

    with torch.random.fork_rng(devices=[]), quiet_transformers():
        weights = cached_arrays(cache, key, kept_weights)
        own = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
        encoder: PreTrainedModel = _class_of(its_config).from_pretrained(
            None, config=its_config, state_dict=own, dtype=torch.float32, **_pooling(its_config, pooler)
        )
    if _pools(its_config, pooler) and POOLER - own.keys():
        log.warning(NEW_POOLER, backbone)
        draw_pooler(encoder)
    encoder.train()
    return freeze(encoder, config.freeze)


def _class_of(config: PretrainedConfig) -> Any:
    """The class of transformers that `AutoModel` takes for it."""
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[type(config)]


def _pools(config: PretrainedConfig, pooler: bool) -> bool:
    return pooler and family_of(config).pools


def _pooling(config: PretrainedConfig, pooler: bool) -> dict[str, bool]:
    return {"add_pooling_layer": _pools(config, pooler)} if family_of(config).has_pooler else {}


def draw_pooler(encoder: PreTrainedModel) -> None:
    """Give the pooler new weights from PyTorch's generator, as transformers draws those of a linear layer."""
    pooler: Any = encoder.pooler
    pooler.dense.weight.data.normal_(std=encoder.config.initializer_range)
    pooler.dense.bias.data.zero_()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """What it says of a checkpoint, in tables and bars, is said here in one line or not at all."""
    from transformers.utils import logging as its

    verbosity, bars = its.get_verbosity(), its.is_progress_bar_enabled()
    its.set_verbosity_error()
    its.disable_progress_bar()
    try:
        yield
    finally:
        its.set_verbosity(verbosity)
        if bars:
            its.enable_progress_bar()


def check_encoder(
    config: ModelConfig,
    tokenizer: Tokenizer,
    *,
    longest: int,
    segments: int = 1,
    pooler: bool = True,
    weights: bool = True,
) -> PreTrainedModel:
    """What `load_encoder` gives, on PyTorch's meta device, which holds no numbers: in no memory and next to no time.

    Of pretrained weights the names and shapes are read, if at all (`weights`).

    Raises:
        InputError: `load_encoder` would raise it.
    """
    config = _with_backbone_here(config)
    whole = _whole_config(config, tokenizer, longest, segments)
    its_config = _with_layers(whole, config.keep_layers)
    if config.init == "pretrained" and weights:
        assert config.backbone is not None
        backbone, revision = config.backbone, config.revision or "main"
        with quiet_transformers():
            stored = _stored_shapes(backbone, revision)
            found = _pretrained_weights(backbone, revision, whole, pooler=pooler, stored=stored)
        if _pools(its_config, pooler) and POOLER - found.keys():
            log.warning(NEW_POOLER, backbone)
    with torch.device("meta"):
        return freeze(_new_encoder(its_config, pooler=pooler), config.freeze)


def _with_layers(config: PretrainedConfig, keep: int | None) -> PretrainedConfig:
    """The shape with so many of its layers.

    Raises:
        InputError: it does not have so many.
    """
    if keep is None:
        return config
    layers: int = config.num_hidden_layers
    if keep > layers:
        raise InputError(
            f"{keep} layers cannot be kept: the backbone has {layers}",
            where="model.keep_layers",
            fix=f"give {layers} or less",
        )
    fewer = copy.deepcopy(config)
    fewer.num_hidden_layers = keep
    if kinds := getattr(config, "layer_types", None):
        fewer.layer_types = [kinds[layer] for layer in spread(layers, keep)]
    return fewer


def freeze(encoder: PreTrainedModel, what: int | Literal["embeddings"]) -> PreTrainedModel:
    """The encoder, of which the embeddings, or they and so many of the lowest layers, take no gradients.

    Raises:
        InputError: it does not have so many layers.
    """
    if what == 0:
        return encoder
    layers = len(layers_of(encoder))
    if isinstance(what, int) and what > layers:
        raise InputError(
            f"{what} layers cannot be frozen: the encoder has {layers}",
            where="model.freeze",
            fix=f"give {layers} or less, or `embeddings`",
        )
    for name, weight in encoder.named_parameters():
        if what == "embeddings":
            is_frozen = name.startswith(tuple(f"{module}." for module in family_of(encoder.config).embeddings))
        else:
            is_frozen = layers_above(encoder, name) > layers - what
        weight.requires_grad_(not is_frozen)
    return encoder


def _new_encoder(config: PretrainedConfig, *, pooler: bool) -> PreTrainedModel:
    try:
        encoder: PreTrainedModel = _class_of(config)(config, **_pooling(config, pooler))
        return encoder
    except Exception as error:  # each wrong value has an error of its own, in transformers or in PyTorch
        raise InputError(f"no encoder has this shape ({error})", where="model.config") from error


def _shape(config: PretrainedConfig) -> dict[str, Any]:
    """What weights depend on."""
    shape = config.to_dict()
    for name in family_of(config).dropouts:
        del shape[name]
    return shape


def _stored_shapes(backbone: str, revision: str) -> dict[str, torch.Tensor] | None:
    """For each weight that `backbone` holds a tensor of its shape which takes no memory; None when they are not found
    where transformers keeps them."""
    from transformers.modeling_utils import load_state_dict

    stored: dict[str, torch.Tensor] = {}
    for file in _weight_files(backbone, revision):
        try:
            weights = load_state_dict(file, map_location="meta")
        except Exception as error:  # SafetensorError, UnpicklingError, EOFError, RuntimeError …
            raise _not_loaded(backbone, error) from error
        stored |= {name: torch.zeros(()).expand(weight.shape) for name, weight in weights.items()}
    return stored or None


def _weight_files(backbone: str, revision: str) -> list[str]:
    """The files with the weights of a folder or of a model of the hub, which are downloaded; none when none is found.

    The first that is there is taken, in the order of transformers.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        try:
            file = str(cached_file(backbone, name, revision=revision))
            if name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
                files: list[str] = get_checkpoint_shard_files(backbone, file, revision=revision)[0]
                return files
            return [file]
        except OSError as error:
            without = isinstance(error.__cause__, EntryNotFoundError)
            unknown = isinstance(error.__cause__, LocalEntryNotFoundError)  # the hub cannot be asked
            if not Path(backbone).is_dir() and (unknown or not without):
                break
    return []


def has_pooler(config: ModelConfig) -> bool:
    """Whether the weights of a pretrained backbone have a pooler, where they are found as transformers keeps them."""
    config = _with_backbone_here(config)
    assert config.backbone is not None
    stored = _stored_shapes(config.backbone, config.revision or "main") or {}
    return any(name.endswith("pooler.dense.weight") for name in stored)


def _not_loaded(backbone: str, error: Exception) -> InputError:
    return InputError(
        f"the weights of `{backbone}` cannot be loaded ({type(error).__name__}: {error})",
        where="model.backbone",
        fix="give a hub name or a folder with model.safetensors, or `init: random`",
    )


def _pretrained_weights(
    backbone: str,
    revision: str,
    its_config: PretrainedConfig,
    *,
    pooler: bool,
    stored: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, np.ndarray]:
    """An encoder's weights by name, as arrays; without those of the pooler, if just these are not there.

    `stored` are taken in the place of those of `backbone`.
    """
    encoder: PreTrainedModel
    loaded: dict[str, Any]
    try:
        encoder, loaded = _class_of(its_config).from_pretrained(
            backbone if stored is None else None,
            config=type(its_config)(**_shape(its_config)),
            state_dict=stored,
            revision=revision,
            dtype=torch.float32,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
            **_pooling(its_config, pooler),
        )
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, SafetensorError …
        raise _not_loaded(backbone, error) from error
    for name, there, wanted in sorted(loaded["mismatched_keys"]):
        raise InputError(
            f"`{name}` of `{backbone}` has the shape {tuple(there)}, but the encoder's must have {tuple(wanted)}",
            where="model.backbone",
            fix="leave out of `model.config` what changes its sizes, or give `init: random`",
        )
    missing = set(loaded["missing_keys"])
    lacks_pooler = missing == POOLER
    if missing and not lacks_pooler:
        raise InputError(
            f"`{backbone}` lacks {len(missing)} of the encoder's weights, `{min(missing)}` first",
            where="model.backbone",
            fix="give a complete checkpoint, or `init: random`",
        )
    kept = encoder.state_dict().items()
    return {name: tensor.numpy() for name, tensor in kept if not (lacks_pooler and name in POOLER)}


def encoder_config(config: ModelConfig, tokenizer: Tokenizer, *, longest: int, segments: int = 1) -> PretrainedConfig:
    """The encoder's shape: that of `backbone` with the study's own values and the layers that are kept, made to fit the
    tokenizer.

    `longest` is the longest example in tokens, `segments` how many texts it has: 2 for a pair.

    Raises:
        InputError: the backbone is not there, is of no family that is known, or does not fit the tokenizer.
    """
    config = _with_backbone_here(config)
    return _with_layers(_whole_config(config, tokenizer, longest, segments), config.keep_layers)


def _with_backbone_here(config: ModelConfig) -> ModelConfig:
    """The config with the folder of this machine that the address of its backbone was fetched to, if it has one."""
    found = config.backbone and here(config.backbone)
    return config if found == config.backbone else config.model_copy(update={"backbone": found})


def _whole_config(config: ModelConfig, tokenizer: Tokenizer, longest: int, segments: int) -> PretrainedConfig:
    """The same with all layers."""
    its_config = _new_config(config) if config.backbone is None else _config_of_backbone(config)
    family = family_of(its_config)
    values: dict[str, Any] = {name: value for name, value in config.config.items() if name != "model_type"}
    if config.hidden_dropout is not None:
        values |= dict.fromkeys(family.hidden_dropouts, config.hidden_dropout)
    if config.attention_dropout is not None:
        values[family.attention_dropout] = config.attention_dropout
    if config.tokenizer_vocab_size is not None or config.backbone is None:
        values["vocab_size"] = len(tokenizer)
    if family.starts_after_padding and config.backbone is not None and its_config.pad_token_id != tokenizer.pad_id:
        raise InputError(
            f"the tokenizer pads with {tokenizer.pad_id}, but positions of `{config.backbone}` begin after its "
            f"`pad_token_id` {its_config.pad_token_id}",
            where="model.tokenizer",
            fix="give the tokenizer that belongs to the backbone, or correct `pad_token_id` in its config.json",
        )
    values["pad_token_id"] = tokenizer.pad_id
    known = type(its_config)().to_dict().keys() | its_config.attribute_map.keys()
    kind = type(its_config).__name__
    unknown = [key for key in values if key not in known]
    if unknown:
        raise InputError(f"`{unknown[0]}` is no value of transformers.{kind}", where="model.config")
    try:
        own = type(its_config)(**values)
    except Exception as error:  # transformers has an error of its own for each kind of wrong value
        raise InputError(f"this is no {kind} ({error})", where="model.config") from error
    if config.backbone is None:
        return _large_enough(own, tokenizer, longest, segments)
    its_config.update(values)
    if its_config.dtype != torch.float32 and its_config.dtype is not None:
        its_config.dtype = torch.float32  # as what is trained is stored, however the backbone was
    if its_config.vocab_size < len(tokenizer):
        raise InputError(
            f"the tokenizer has {len(tokenizer)} pieces, but `{config.backbone}` knows {its_config.vocab_size}",
            where="model.tokenizer",
            fix="give the tokenizer that belongs to the backbone",
        )
    return _large_enough(its_config, tokenizer, longest, segments)


def _new_config(config: ModelConfig) -> PretrainedConfig:
    """That of the family that the study names, or of BERT."""
    from transformers import AutoConfig

    kind = str(config.config.get("model_type", "bert"))
    if kind not in FAMILIES:
        raise InputError(
            f"`{kind}` is no family of encoders that is known",
            where="model.config.model_type",
            fix=f"use one of {', '.join(FAMILIES)}",
        )
    import_family(kind)
    return AutoConfig.for_model(kind)


def _config_of_backbone(config: ModelConfig) -> PretrainedConfig:
    from transformers import AutoConfig

    assert config.backbone is not None
    import_family(known_type(config.backbone, config.revision))
    try:
        its_config: PretrainedConfig = AutoConfig.from_pretrained(
            config.backbone, revision=config.revision or "main", trust_remote_code=False
        )
    except Exception as error:  # OSError when it is not there, ValueError when it is no model
        raise InputError(
            f"there is no model `{config.backbone}` ({str(error).splitlines()[0]})",
            where="model.backbone",
            fix="give a hub name or a local folder with a config.json",
        ) from error
    return its_config


def _large_enough(config: PretrainedConfig, tokenizer: Tokenizer, longest: int, segments: int) -> PretrainedConfig:
    family = family_of(config)
    if longest > (positions := family.positions(config)):
        raise InputError(
            f"examples of {longest} tokens are longer than the encoder's {positions} positions",
            where="data",
            fix=f"make the longest example {positions} tokens or shorter",
        )
    types = segments if tokenizer.pair_type else 1
    if family.needs_token_types and types > config.type_vocab_size:
        raise InputError(
            f"the encoder tells {config.type_vocab_size} kind(s) of tokens apart, but an example has {types}",
            where="model.config.type_vocab_size",
            fix=f"give an encoder with a `type_vocab_size` of {types}",
        )
    return config
