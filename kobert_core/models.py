"""A BERT encoder and the heads on it. Parameter names are those of transformers, so that weights load anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from kobert_core.config import ModelConfig
from kobert_core.errors import InputError
from kobert_core.tokenization import KoBertTokenizer

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel


class ClassifierOutput(NamedTuple):
    """`loss` is a scalar, or None without labels; `logits` have shape (batch, classes)."""

    loss: torch.Tensor | None
    logits: torch.Tensor


class KoBertClassifier(nn.Module):
    """Sequence classification: pooled output, dropout, a linear layer.

    The weights have the names of `transformers.BertForSequenceClassification`.
    """

    def __init__(
        self,
        bert: BertModel,
        *,
        num_labels: int,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        """A new head on an encoder; `class_weights` has shape (classes,)."""
        super().__init__()
        self.bert = bert
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(bert.config.hidden_size, num_labels)
        self.classifier.weight.data.normal_(std=bert.config.initializer_range)
        self.classifier.bias.data.zero_()
        self.label_smoothing = label_smoothing
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        reduction: str = "mean",
    ) -> ClassifierOutput:
        """Logits, and with `labels` of shape (batch,) the cross-entropy too.

        Args:
            input_ids, attention_mask, token_type_ids: int64, shape (batch, width).
            labels: Class indices.
            reduction: `mean` (weighted, as PyTorch does it) or `sum`.
        """
        pooled = self.bert(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).pooler_output
        logits = self.classifier(self.dropout(pooled))
        if labels is None:
            return ClassifierOutput(None, logits)
        loss = F.cross_entropy(
            logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits,
            labels,
            weight=self.class_weights,
            reduction=reduction,
            label_smoothing=self.label_smoothing,
        )
        return ClassifierOutput(loss, logits)


def load_bert(config: ModelConfig, tokenizer: KoBertTokenizer) -> BertModel:
    """The encoder that a study asks for, in float32 on the CPU.

    Weights come as safetensors, or as a pickle that holds tensors alone. With `init: random` they are drawn from
    PyTorch's generator.

    Raises:
        InputError: the encoder is not there, is no BERT, lacks weights, or does not fit its tokenizer.
    """
    from transformers import BertModel

    bert: BertModel
    loaded: dict[str, Any]
    bert_config = make_bert_config(config, tokenizer)
    if config.init == "random":
        return BertModel(bert_config)
    assert config.backbone is not None
    try:
        bert, loaded = BertModel.from_pretrained(  # type: ignore[misc]
            config.backbone,
            config=bert_config,
            revision=config.revision or "main",
            dtype=torch.float32,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, SafetensorError …
        raise InputError(
            f"the weights of `{config.backbone}` cannot be loaded ({type(error).__name__}: {error})",
            where="model.backbone",
            fix="give a hub name or a folder with model.safetensors, or `init: random`",
        ) from error
    missing = sorted({*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])})
    if missing:
        raise InputError(
            f"`{config.backbone}` lacks {len(missing)} of the encoder's weights, `{missing[0]}` first",
            where="model.backbone",
            fix="give a complete checkpoint, or `init: random`",
        )
    return bert.train()


def make_bert_config(config: ModelConfig, tokenizer: KoBertTokenizer) -> BertConfig:
    """The encoder's shape: that of `backbone` with the study's own values, made to fit the tokenizer.

    Raises:
        InputError: the backbone is not there, is no BERT, or does not fit the tokenizer.
    """
    from transformers import AutoConfig, BertConfig

    values = dict(config.config)
    if config.hidden_dropout is not None:
        values["hidden_dropout_prob"] = config.hidden_dropout
    if config.attention_dropout is not None:
        values["attention_probs_dropout_prob"] = config.attention_dropout
    if config.tokenizer_vocab_size is not None or config.backbone is None:
        values["vocab_size"] = len(tokenizer)
    values["pad_token_id"] = tokenizer.pad_id
    known = BertConfig().to_dict()
    unknown = [key for key in values if key not in known]
    if unknown:
        raise InputError(f"`{unknown[0]}` is no value of transformers.BertConfig", where="model.config")
    if config.backbone is None:
        return BertConfig(**values)
    try:
        bert_config = AutoConfig.from_pretrained(
            config.backbone, revision=config.revision or "main", trust_remote_code=False
        )
    except Exception as error:  # OSError when it is not there, ValueError when it is no model
        raise InputError(
            f"there is no model `{config.backbone}` ({str(error).splitlines()[0]})",
            where="model.backbone",
            fix="give a hub name or a local folder with a config.json",
        ) from error
    if bert_config.model_type != "bert":
        raise InputError(
            f"`{config.backbone}` is a model of type `{bert_config.model_type}`",
            where="model.backbone",
            fix="its type must be `bert`",
        )
    bert_config.update(values)
    if bert_config.vocab_size < len(tokenizer):
        raise InputError(
            f"the tokenizer has {len(tokenizer)} pieces, but `{config.backbone}` knows {bert_config.vocab_size}",
            where="model.tokenizer",
            fix="give the tokenizer that belongs to the backbone",
        )
    return bert_config
